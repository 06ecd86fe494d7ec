"""`slimfer analyze`: one run, resumed runs that end in the same, and what it refuses."""

import csv
import json
import shlex
import shutil
from pathlib import Path

import pytest

from slimfer.cli.analyze import LAYER_COLUMNS, TRIAL_COLUMNS, Journal
from slimfer.compress.sensitivity import ROW
from slimfer.errors import InputError
from slimfer.labels import EMOTIONS
from slimfer.model.spec import NetSpec
from slimfer.recipes import read_recipe
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.loop import initial

FEW = ("--images", "40", "--calibration", "32", "--ratios", "0.5,0.9", "--bits", "8,3", "--rounds", "5", "--seed", "3")


def values(run: Path) -> dict:
    """What has to be equal after a resumed run."""
    return {**json.loads((run / "results.json").read_text()), "wall_seconds": 0, "command": ""}


@pytest.fixture(scope="module")
def run(inside, checkpoint: Path, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("analyze") / "run"
    done = inside("analyze", str(checkpoint), "--data", str(faces), *FEW, "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((out / "results.json").read_text())
    return out


def test_what_a_run_holds(run: Path) -> None:
    results = values(run)
    data = results["analysis"]
    assert (results["kind"], results["seed"], results["data"]["sample"]) == ("analysis", 3, 40)
    assert results["stages"][0]["scores"]["n"] == 40
    assert len(data["cuts"]) == 2 * len(data["groups"])
    assert len(data["bits"]) == 2 * len(data["layers"])
    assert data["control"]["name"] == "recalibrated"
    assert all(layer["latency_ms"] > 0 for layer in data["layers"])
    assert {row["name"] for row in data["bits"]} == {layer["name"] for layer in data["layers"]}
    made = {name: group["name"] for group in data["groups"] for name in group["layers"]}
    assert all(layer["group"] == made.get(layer["name"]) for layer in data["layers"])
    assert sum(data["scales"]["layers"][0]["counts"]) == data["scales"]["layers"][0]["channels"]
    assert {path.stem for path in (run / "plots").iterdir()} >= {
        "cut_map", "bits_map", "noise_map", "layer_costs", "bn_scales",
    }  # fmt: skip
    page = (run / "report.html").read_text()
    assert "What each layer can give" in page
    assert "The bits that cost least" in page


def test_the_tables_are_the_results(run: Path) -> None:
    data = values(run)["analysis"]
    with open(run / "results.csv", newline="") as stream:
        trials = list(csv.DictReader(stream))
    assert tuple(trials[0]) == TRIAL_COLUMNS
    assert set(TRIAL_COLUMNS) - set(ROW) == {"kind", "name", "value", "weight_bytes", "drop_low", "drop_high"}
    rows = [data["control"], *data["cuts"], *data["bits"]]
    assert [(t["kind"], t["name"], float(t["drop"]), float(t["drop_low"])) for t in trials] == [
        (row["kind"], row["name"], row["drop"], row["drop_ci95"][0]) for row in rows
    ]
    with open(run / "layers.csv", newline="") as stream:
        layers = list(csv.DictReader(stream))
    assert tuple(layers[0]) == LAYER_COLUMNS
    assert [float(layer["macs_share"]) for layer in layers] == [layer["macs_share"] for layer in data["layers"]]


@pytest.mark.parametrize("lines", [1, 2, 7, 30])
def test_a_killed_run_ends_in_the_same(inside, run: Path, tmp_path: Path, lines: int) -> None:
    """Killed while it wrote a line: half of the line is there."""
    again = tmp_path / "run"
    shutil.copytree(run, again)
    journal = again / "stages" / "trials.jsonl"
    kept = journal.read_bytes().splitlines(keepends=True)
    assert len(kept) > lines + 1
    journal.write_bytes(b"".join(kept[:lines]) + kept[lines][:20])
    for name in ("results.json", "results.csv", "report.html"):
        (again / name).unlink()
    done = inside("analyze", "--out", str(again), "--resume", "--quiet")
    assert done.returncode == 0, done.stderr
    before, after = values(run), values(again)
    if lines == 1:  # the clock ran anew
        for one in (before, after):
            one["stages"][0].pop("latency_ms")
            for key in ("latency_ms", "other_ms"):
                one["analysis"].pop(key)
            for layer in one["analysis"]["layers"]:
                layer.update(latency_ms=0, latency_share=0)
    assert after == before


def test_the_suggested_lines_are_a_recipe(inside, run: Path, checkpoint: Path, faces: Path, tmp_path: Path) -> None:
    suggestion = values(run)["analysis"]["suggestion"]
    assert suggestion["order"][-1]["total"] >= suggestion["loss"]
    again = tmp_path / "run"
    done = inside(
        "analyze",
        str(checkpoint),
        "--data",
        str(faces),
        *FEW,
        "--tolerance",
        "90",
        "--out",
        str(again),
    )
    assert done.returncode == 0, done.stderr
    suggestion = values(again)["analysis"]["suggestion"]
    assert suggestion["per_layer"]
    assert set(suggestion["per_layer"].values()) == {3}
    lines = tmp_path / "lines.toml"
    lines.write_text(suggestion["recipe"])
    assert suggestion["recipe"].strip() in done.stdout
    quantize = read_recipe(lines).quantize
    assert (quantize.bits, dict(quantize.per_layer)) == (8, suggestion["per_layer"])
    done = inside(
        "quantize", str(checkpoint), "--data", str(faces), "--recipe", str(lines), "--images", "32", "--out",
        str(tmp_path / "int8"), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_what_slimming_kept(inside, faces: Path, tmp_path: Path) -> None:
    narrow = tmp_path / "narrow.safetensors"
    spec = NetSpec("resnet18", image=24, args={"width": 0.125}, widths={"layer4.1.conv1": 16})
    initial(spec, EMOTIONS, seed=1).save(narrow)
    out = tmp_path / "run"
    done = inside(
        "analyze", str(narrow), "--data", str(faces), "--images", "20", "--calibration", "16", "--ratios", "0.5",
        "--bits", "4", "--rounds", "0", "--keep-statistics", "--out", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = values(out)
    layer = next(row for row in results["layers"] if row["name"] == "layer4.1.conv1")
    assert (layer["out_before"], layer["out_after"]) == (64, 16)
    for name in ("layers", "bytes_change", "macs_change"):
        assert (out / "plots" / f"{name}.svg").exists()
    assert results["analysis"]["control"] is None
    assert results["analysis"]["layers"][0]["latency_ms"] is None


def test_wrong_input_is_one_sentence(
    inside, run: Path, checkpoint: Path, artifact: Path, faces: Path, tmp_path: Path
) -> None:
    data = ("--data", str(faces), "--out", str(tmp_path / "run"))
    for arguments, words in (
        ((str(artifact), *data), "is a finished artifact; give the checkpoint or the run that it came from"),
        (("mobile", *data), "mobile is an untrained network"),
        ((str(checkpoint), *data, "--ratios", "0.5,1.2"), "ratios must be above 0 and below 1, not 1.2"),
        ((str(checkpoint), *data, "--ratios", "half"), "--ratios takes numbers with commas"),
        ((str(checkpoint), *data, "--bits", "2.5"), "--bits takes whole numbers"),
        ((str(checkpoint), *data, "--bits", "9"), "bits must be between 2 and 8, not 9"),
        ((str(checkpoint), *data, "--images", "3"), "images must be at least 16, or 0 for all, not 3"),
        ((str(checkpoint), "--out", str(tmp_path / "run")), "no data given"),
        (("--out", str(run), "--resume", "--bits", "2"), "trials of another network, data or settings; --force starts"),
        ((str(checkpoint), "--data", str(faces), "--out", str(run)), "is not empty; --resume goes on"),
    ):
        done = inside("analyze", *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


def test_integers_and_other_classes_are_refused(inside, checkpoint: Path, faces: Path, tmp_path: Path) -> None:
    quantized = tmp_path / "int8"
    inside("quantize", str(checkpoint), "--data", str(faces), "--images", "32", "--out", str(quantized))
    done = inside("analyze", str(quantized), "--data", str(faces), "--out", str(tmp_path / "run"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "quantized already; analyze the float network" in done.stderr
    other = tmp_path / "other.safetensors"
    start = Checkpoint.load(checkpoint)
    Checkpoint(start.spec, start.weights, tuple("abcdefg")).save(other)
    done = inside("analyze", str(other), "--data", str(faces), "--out", str(tmp_path / "run"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "but the data has angry" in done.stderr


def test_of_a_run_that_ends_in_integers_the_last_float_network_is_analyzed(
    inside, checkpoint: Path, faces: Path, tmp_path: Path
) -> None:
    """Stages are taken by number: 10 comes after 9."""
    inside("quantize", str(checkpoint), "--data", str(faces), "--images", "32", "--out", str(tmp_path / "int8"))
    integers = Checkpoint.load(tmp_path / "int8" / "weights" / "best.safetensors")
    start = Checkpoint.load(checkpoint)
    run = tmp_path / "run"
    integers.save(run / "weights" / "best.safetensors")
    for name, seed in (("9-slim", 1), ("10-finetune", 2)):
        other = initial(start.spec, start.labels, seed=seed)
        other.save(run / "stages" / name / "result.safetensors")
    integers.save(run / "stages" / "11-quantize" / "result.safetensors")
    out = tmp_path / "layers"
    done = inside(
        "analyze", str(run), "--data", str(faces), "--images", "20", "--calibration", "16", "--ratios", "0.5",
        "--bits", "4", "--rounds", "0", "--out", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    last = run / "stages" / "10-finetune" / "result.safetensors"
    assert f"ends in integers; analyzing its last float network, {last}" in done.stderr
    assert read_recipe(out / "recipe.toml").model.checkpoint == str(last)


def test_another_tolerance_needs_no_new_trials(inside, run: Path, tmp_path: Path) -> None:
    """It only decides which of the measured bits are suggested."""
    again = tmp_path / "run"
    shutil.copytree(run, again)
    journal = (again / "stages" / "trials.jsonl").read_bytes()
    done = inside("analyze", "--out", str(again), "--resume", "--tolerance", "90")
    assert done.returncode == 0, done.stderr
    assert (again / "stages" / "trials.jsonl").read_bytes() == journal
    before, after = values(run)["analysis"], values(again)["analysis"]
    assert (after["cuts"], after["bits"]) == (before["cuts"], before["bits"])
    assert set(after["suggestion"]["per_layer"]) == {layer["name"] for layer in after["layers"]}
    assert list(after["suggestion"]["per_layer"]) == [layer["name"] for layer in after["layers"]]
    words = shlex.split(done.stderr.split("next: ")[1])
    assert read_recipe(Path(words[words.index("--recipe") + 1])).quantize.per_layer == after["suggestion"]["per_layer"]


def test_a_journal_remembers_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "stages" / "trials.jsonl"
    journal = Journal(path, "a")
    journal.add({"x": 0.1})
    journal.add({"x": 1 / 3})
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert Journal(path, "a").rows == [{"x": 0.1}, {"x": 1 / 3}][: max(0, whole[:end].count(b"\n") - 1)]
    path.write_bytes(whole)
    with pytest.raises(InputError, match="of another network"):
        Journal(path, "b")
