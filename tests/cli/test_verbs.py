"""The real verbs, one after another, on a few synthetic faces: what one writes, the next one reads."""

import csv
import json
from pathlib import Path

import pytest

from slimfer.artifact import CALIBRATION_KEY, HASH_KEY, open_artifact
from slimfer.calibration import Calibration
from slimfer.report.results import load_results
from slimfer.shipped import SHIPPED

TINY = ("--width", "0.25", "--image", "24", "--batch-size", "64")


@pytest.fixture(scope="module")
def trained(slimfer, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "trained"
    done = slimfer(
        "train",
        "--data",
        str(faces),
        "--model",
        "mobile",
        *TINY,
        "--epochs",
        "2",
        "--penalty",
        "1e-3",
        "--out",
        str(out),
    )
    assert done.returncode == 0, done.stderr
    assert "epoch 2/2" in done.stderr
    assert f"next: slimfer slim {out}" in done.stderr
    assert "accuracy %" in done.stdout
    return out


def test_train_writes_a_run_folder(trained: Path) -> None:
    assert {"recipe.toml", "run.json", "results.json", "results.csv", "answers.npy", "log.txt", "weights"} == {
        path.name for path in trained.iterdir()
    }
    results = load_results(trained / "results.json")
    assert results.kind == "train"
    assert len(results.curves[0]["rows"]) == 2
    assert results.first.scores is not None
    assert results.first.scores["n"] == 70
    assert "epoch 2/2" in (trained / "log.txt").read_text()


def test_a_run_is_not_overwritten(inside, trained: Path, faces: Path) -> None:
    before = (trained / "run.json").read_bytes()
    done = inside("train", "--data", str(faces), "--model", "mobile", "--out", str(trained))
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not empty; --resume goes on with the run in it, --force starts it afresh" in done.stderr
    assert (trained / "run.json").read_bytes() == before


def test_the_recipe_of_a_run_runs_it_again(inside, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    done = inside("train", "--recipe", str(trained / "recipe.toml"), "--out", str(out), "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    weights = Path("weights", "best.safetensors")
    assert (out / weights).read_bytes() == (trained / weights).read_bytes()


def test_resume_of_a_finished_run_says_the_same(inside, trained: Path) -> None:
    before = json.loads((trained / "results.json").read_text())
    done = inside("train", "--out", str(trained), "--resume", "--json")
    after = json.loads(done.stdout)
    assert after["stages"] == before["stages"]
    assert json.loads((trained / "run.json").read_text())["resumed"] == 1


def test_resume_with_other_settings_is_refused(inside, trained: Path) -> None:
    done = inside("train", "--out", str(trained), "--resume", "--lr", "0.5")
    assert done.returncode == 2
    assert "another config.lr" in done.stderr


def test_slim_quantize_export_evaluate(inside, trained: Path, faces: Path, tmp_path: Path) -> None:
    data = ("--data", str(faces))
    done = inside(
        "slim", str(trained), *data, "--ratio", "0.5", "--round-to", "1", "--finetune-epochs", "1",
        "--batch-size", "64", "--out", str(tmp_path / "slim"), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, *_, after = json.loads(done.stdout)["stages"]
    assert after["params"] < 0.6 * before["params"]
    assert json.loads((tmp_path / "slim" / "run.json").read_text())["parent"] == str(trained)

    done = inside("quantize", str(tmp_path / "slim"), *data, "--out", str(tmp_path / "int8"))
    assert done.returncode == 0, done.stderr

    artifact = tmp_path / "int8.onnx"
    done = inside("export", str(tmp_path / "int8"), "--out", str(artifact), "--json")
    assert json.loads(done.stdout)["bytes"] == artifact.stat().st_size
    card = artifact.with_suffix(".md").read_text()
    assert json.loads(done.stdout)["sha256"] in card
    assert "--model int8.onnx" in card
    assert inside("export", str(tmp_path / "int8"), "--out", str(artifact)).returncode == 2
    assert inside("export", str(tmp_path / "int8"), "--out", str(artifact), "--force").returncode == 0

    by_torch, by_onnxruntime = (
        json.loads(inside("evaluate", str(model), *data, "--json").stdout) for model in (tmp_path / "int8", artifact)
    )
    assert by_torch["n"] == by_onnxruntime["n"] == 70
    assert by_torch["accuracy"] == pytest.approx(by_onnxruntime["accuracy"], abs=0.03)
    assert by_torch["nll"] == pytest.approx(by_onnxruntime["nll"], abs=0.02)


def test_prune_cuts_to_a_number_of_parameters(inside, checkpoint: Path, faces: Path, tmp_path: Path) -> None:
    done = inside(
        "prune", str(checkpoint), "--data", str(faces), "--criterion", "random", "--params", "6000", "--round-to", "1",
        "--seed", "3", "--out", str(tmp_path / "run"), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout)["stages"]
    assert before["params"] > 12_000
    assert after["params"] == pytest.approx(6000, rel=0.05)
    recipe = str(tmp_path / "run" / "recipe.toml")
    again = inside("prune", "--recipe", recipe, "--out", str(tmp_path / "again"), "--json")
    assert json.loads(again.stdout)["stages"] == [before, after]


def test_compress_does_the_whole_job(inside, checkpoint: Path, trained: Path, faces: Path, tmp_path: Path) -> None:
    """Exit code 3 exactly if a check failed: on a net this small, integers need not be faster."""
    out = tmp_path / "run"
    done = inside(
        "compress", str(checkpoint), "--data", str(faces), "--ratio", "0.3", "--round-to", "1", "--batch-size", "64",
        "--finetune-epochs", "1", "--out", str(out),
    )  # fmt: skip
    results = load_results(out / "results.json")
    failed = [check["name"] for check in results.checks if not check["passed"]]
    assert done.returncode == (3 if failed else 0), done.stderr
    assert all(name in done.stderr for name in failed)
    assert f"report: {out / 'report.html'}" in done.stdout
    assert results.first.runtime == "torch"
    assert results.last.runtime == "onnxruntime"
    assert {"model.onnx", "report.html", "README.md", "recipe.toml", "weights"} <= {path.name for path in out.iterdir()}

    told = json.loads(inside("evaluate", str(out / "model.onnx"), "--data", str(faces), "--json").stdout)
    assert told["confusion"] == results.last.scores["confusion"]

    again = inside("compress", "--out", str(out), "--resume", "--json")
    stages = json.loads(again.stdout)["stages"]
    assert [stage["scores"] for stage in stages] == [stage.scores for stage in results.stages]
    assert "epoch" not in again.stderr, "finished steps are not run again"

    page, both = out / "report.html", tmp_path / "both.html"
    assert '<img src="data:image/png;base64,' in page.read_text()
    assert inside("report", str(out), "--no-pictures").returncode == 0
    assert "<img" not in page.read_text()
    assert inside("compress", "--out", str(out), "--resume", "--no-pictures", "--quiet").returncode == done.returncode
    assert (out / "answers.npy").exists()
    assert not (out / "pictures.npy").exists()
    assert "The run kept no pictures." in page.read_text() or "left out" in page.read_text()

    assert inside("report", str(trained), str(out), "--out", str(both)).returncode == 0
    assert f"Against {trained.name}, run is" in both.read_text()
    assert "on the same 70 pictures" in both.read_text()
    assert inside("report", str(out), "--out", str(both)).returncode == 2


def test_evaluate_on_a_checkpoint_and_its_artifact_agree(inside, checkpoint: Path, artifact: Path, faces: Path) -> None:
    first, second = (
        json.loads(inside("evaluate", str(model), "--data", str(faces), "--json").stdout)
        for model in (checkpoint, artifact)
    )
    assert first["nll"] == pytest.approx(second["nll"], rel=1e-5)
    # Random weights leave ties, which rounding may break one way or the other.
    assert first["accuracy"] == pytest.approx(second["accuracy"], abs=0.03)


def test_evaluate_prints_a_table(inside, artifact: Path, faces: Path) -> None:
    done = inside("evaluate", str(artifact), "--data", str(faces))
    assert "95 % interval" in done.stdout
    assert done.stdout.count("\n") == 2 + 1 + 7


def test_evaluate_names_a_missing_split(inside, artifact: Path, faces: Path) -> None:
    done = inside("evaluate", str(artifact), "--data", str(faces), "--split", "test")
    assert done.returncode == 2
    assert "no test split; it has train, validation" in done.stderr


def test_bench_compares_with_the_first(inside, checkpoint: Path, artifact: Path, tmp_path: Path) -> None:
    table = tmp_path / "bench.csv"
    done = inside(
        "bench", str(checkpoint), str(artifact), "--num-bench-iter", "3", "--min-time", "5ms", "--batch-size", "8",
        "--results-file", str(table), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert [stage["runtime"] for stage in stages] == ["torch", "onnxruntime"]
    assert all(
        stage["latency_ms"]["best"] <= stage["latency_ms"]["median"] <= stage["latency_ms"]["p95"] for stage in stages
    )
    with open(table, newline="") as stream:
        control, other = csv.DictReader(stream)
    assert float(control["ratio_to"]) == 1
    assert float(other["ratio_to"]) == pytest.approx(
        stages[0]["latency_ms"]["median"] / stages[1]["latency_ms"]["median"], abs=1e-3
    )
    assert int(other["size_bytes"]) == artifact.stat().st_size
    assert float(other["rss_mb"]) < float(control["rss_mb"]), "onnxruntime alone needs less memory than torch"


def test_artifacts_run_in_openvino_too(inside, checkpoint: Path, artifact: Path, faces: Path) -> None:
    first, second = (
        json.loads(inside("evaluate", str(artifact), "--data", str(faces), "--runtime", name, "--json").stdout)
        for name in ("onnxruntime", "openvino")
    )
    assert first["nll"] == pytest.approx(second["nll"], rel=1e-5)
    done = inside(
        "bench", str(checkpoint), str(artifact), "--runtime", "onnxruntime", "--runtime", "openvino",
        "--num-bench-iter", "2", "--min-time", "1ms", "--batch-size", "2", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert [stage["runtime"] for stage in stages] == ["torch", "onnxruntime", "openvino"]
    assert [stage["name"] for stage in stages] == [str(checkpoint), f"{artifact} onnxruntime", f"{artifact} openvino"]


def test_report_of_a_run(inside, trained: Path) -> None:
    done = inside("report", str(trained), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"report": str(trained / "report.html")}
    assert "<html" in (trained / "report.html").read_text()


def test_models_lists_what_ships_and_the_networks(slimfer) -> None:
    done = slimfer("models")
    assert done.returncode == 0
    assert "resnet18" in done.stdout
    assert "11.2 M" in done.stdout
    told = {one["name"]: one for one in json.loads(slimfer("models", "--json").stdout)["models"]}
    assert told.keys() == SHIPPED.keys()
    for name, one in told.items():
        artifact = open_artifact(SHIPPED[name])
        assert (one["bytes"], one["sha256"]) == (SHIPPED[name].stat().st_size, artifact.sha256)
        assert one["bytes"] < 1_000_000
        assert one["accuracy"] == artifact.scores["accuracy"] > 0.67
        assert one["latency_ms"] > 0
        assert name in done.stdout


def test_export_calibrates_runs_and_finished_artifacts(inside, trained: Path, faces: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    done = inside("export", str(trained), "--data", str(faces), "--out", str(first), "--json")
    told = json.loads(done.stdout)["calibration"]
    plain, one = open_artifact(first), open_artifact(first).calibration
    assert told["temperature"] == one.temperature != 1
    assert told["threshold"] == one.threshold == 0
    assert told["n"] == 70
    card = first.with_suffix(".md").read_text()
    assert f"logits divided by {one.temperature:g}" in card
    assert f"{100 * told['ece_after']:.2f} %" in card
    first.with_suffix(".md").write_text("my own notes")
    done = inside("export", str(trained), "--force", "--out", str(first))
    assert done.returncode == 2
    assert "a.md, where the model card goes, exists" in done.stderr
    assert first.with_suffix(".md").read_text() == "my own notes"
    assert open_artifact(first).sha256 == plain.sha256
    assert inside("export", str(first), "--threshold", "0.4", "--out", str(second)).returncode == 0
    again = open_artifact(second)
    assert again.calibration == Calibration(one.temperature, 0.4)
    known = {key: value for key, value in again.metadata.items() if key not in (CALIBRATION_KEY, HASH_KEY)}
    assert known == {k: v for k, v in plain.metadata.items() if k not in (CALIBRATION_KEY, HASH_KEY)}
    assert inside("export", str(first), "--out", str(tmp_path / "c.onnx")).returncode == 2


def test_quiet_says_nothing_but_the_answer(slimfer) -> None:
    assert slimfer("models", "--quiet").stderr == ""
    assert slimfer("models").stderr.startswith("next: ")


def test_no_color_and_no_animation_without_a_terminal(slimfer) -> None:
    assert "\x1b" not in slimfer("models").stdout
    assert "\x1b" not in slimfer("models", "--help").stdout


@pytest.mark.parametrize("value", ["0", "many", "1.5"])
def test_a_wrong_number_of_threads_in_the_environment_is_named(
    slimfer, artifact: Path, faces: Path, value: str
) -> None:
    done = slimfer("evaluate", str(artifact), "--data", str(faces), env={"SLIMFER_THREADS": value})
    assert done.returncode == 2
    assert f"SLIMFER_THREADS must be a number from 1 to 1024, not '{value}'" in done.stderr
