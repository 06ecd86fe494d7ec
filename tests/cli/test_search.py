"""`slimfer compress` to a budget, as users call it."""

import csv
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from slimfer.artifact import open_artifact
from slimfer.compress import pipeline
from slimfer.data.packed import write_packed
from slimfer.data.synthetic import synthetic
from slimfer.report.trials import HEADER, cells, line, trial_table
from slimfer.train.checkpoint import Checkpoint

QUICK = """
[model]
builder = "helpers:planned"
image = 16
args = { plan = ["residual"], width = 24, side = 16 }
[train]
epochs = 2
batch_size = 32
[finetune]
epochs = 1
batch_size = 32
[cut]
images = 64
recalibrate = 1
[quantize]
images = 64
[qat.train]
epochs = 1
batch_size = 32
[search]
ratios = [0.5, 0.75]
bits = [8, 4]
images = 64
calibration = 32
trials = 2
rounds = 2
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "quick.toml"
    path.write_text(QUICK)
    return path


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("few") / "faces"
    write_packed(path, synthetic(96, 42, 0, image=16))
    return path


@pytest.fixture(scope="module")
def searched(inside, few, recipe, tmp_path_factory: pytest.TempPathFactory):
    """An untrained network is trained, then compressed to a budget; front and controls beside it."""
    run = tmp_path_factory.mktemp("runs") / "small"
    budget = ("--max-size", "12KB", "--max-mac", "2M", "--max-drop", "100", "--round-to", "1", "--pareto", "--controls")
    start = ("compress", "--data", str(few), "--recipe", str(recipe))
    return run, inside(*start, *budget, "--out", str(run), "--device", "cpu")


def results_of(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def test_the_file_is_within_the_budget(searched) -> None:
    run, answer = searched
    results = results_of(run)
    checks = {check["name"]: check for check in results["checks"]}
    assert checks["size"]["passed"], answer.stderr
    assert checks["multiply-adds"]["passed"]
    assert checks["size"]["value"] == (run / "model.onnx").stat().st_size <= 12_000
    assert checks["multiply-adds"]["value"] == results["stages"][-1]["macs"] <= 2_000_000
    failed = [name for name, check in checks.items() if not check["passed"]]
    assert answer.returncode == (3 if failed else 0)


def test_every_trial_is_a_row(searched) -> None:
    run, answer = searched
    rows = results_of(run)["trials"]
    names = [row["name"] for row in rows]
    assert names[:2] == ["dense", "trial-1"]
    assert {"final", "front-1", "control-uniform", "control-scratch"} <= set(names)
    for row in rows:
        assert {"step", "parameter", "bytes", "ms", "accuracy", "drop", "kept", "why"} <= row.keys()
        if row["bytes"]:
            assert cells(row)[0] in answer.stderr  # as it ended
            assert row["drop"] == pytest.approx(100 * (dense_accuracy(rows) - row["accuracy"]))
        assert row["name"] in answer.stdout  # and in the table at the end
    assert [row["name"] for row in rows if row["kept"]][-1] == "final"


def without(row: dict, keys: set[str]) -> dict:
    return {key: value for key, value in row.items() if key not in keys}


def dense_accuracy(rows: list[dict]) -> float:
    return rows[0]["accuracy"] + rows[0]["drop"] / 100


def test_the_front_is_files_a_table_and_a_chart(searched) -> None:
    run, _ = searched
    found, *points = [point for point in results_of(run)["trade_offs"] if "file" in point]
    assert (run / found["file"]).stat().st_size == found["bytes"]
    sizes = [point["bytes"] for point in points]
    assert len(sizes) >= 2
    assert sizes == sorted(sizes, reverse=True)
    for point in points:
        data = (run / point["file"]).read_bytes()
        assert len(data) == point["bytes"]
        assert open_artifact(data).labels
    rows = list(csv.DictReader((run / "pareto" / "front.csv").read_text().splitlines()))
    assert [int(row["bytes"]) for row in rows if row["file"]] == sorted([found["bytes"], *sizes], reverse=True)
    for chart in ("size", "latency"):
        assert "</svg>" in (run / "pareto" / f"{chart}.svg").read_text()


def test_controls_have_nearly_the_same_bytes(searched) -> None:
    run, _ = searched
    rows = {row["name"]: row for row in results_of(run)["trials"]}
    assert rows["control-uniform"]["bytes"] == pytest.approx(rows["final"]["bytes"], rel=0.05)
    for key in ("params", "macs"):
        assert rows["control-scratch"][key] == rows["final"][key]
    # As long as the dense network and its fine-tuning together.
    assert rows["control-scratch"]["parameter"] == {"epochs": 3}


def test_what_was_found_is_an_ordinary_recipe(searched, inside, tmp_path) -> None:
    run, _ = searched
    inside("compress", "--recipe", str(run / "found.toml"), "--out", str(tmp_path / "again"), "--device", "cpu")
    one, other = (Checkpoint.load(folder / "weights" / "best.safetensors") for folder in (run, tmp_path / "again"))
    assert one.digest() == other.digest()


def test_a_finished_search_resumed_is_the_same_file_and_held_to_another_drop(searched, inside) -> None:
    """What may be lost decides nothing that was searched; only the last check is another one."""
    run, _ = searched
    before = (run / "model.onnx").read_bytes(), results_of(run)["trials"]
    answer = inside("compress", "--out", str(run), "--resume", "--max-drop", "-99", "--device", "cpu")
    assert (run / "model.onnx").read_bytes() == before[0]
    after = results_of(run)["trials"]
    timed = {"ms", "why"}
    assert [without(row, timed) for row in before[1]] == [without(row, timed) for row in after]
    assert answer.returncode == 3
    assert "next: " not in answer.stderr
    assert re.search(r"accuracy lost is .*; room left: .* of max-mac; nearest: ", answer.stderr)
    final = next(row for row in after if row["kind"] == "final")
    assert re.fullmatch(r"over the budget: -?[\d.]+ points of -99", final["why"])


def test_a_loss_alone_gives_the_smallest_file(inside, few, recipe, tmp_path) -> None:
    """Whatever may be lost, sizes are halved until nothing smaller is there; the file is the one that was judged."""
    run = tmp_path / "run"
    start = ("compress", "--data", str(few), "--recipe", str(recipe), "--round-to", "1", "--trials", "1")
    answer = inside(*start, "--max-drop", "99", "--out", str(run), "--device", "cpu")
    results = results_of(run)
    rows = {row["name"]: row for row in results["trials"]}
    kept = next(row for row in results["trials"] if row["kind"] == "size" and row["kept"])
    assert kept["bytes"] == min(row["bytes"] for row in rows.values() if row["kind"] == "size" and row["bytes"])
    assert kept["bytes"] < 0.6 * rows["whole"]["bytes"]
    assert rows["final"]["accuracy"] == kept["accuracy"] == results["stages"][-1]["scores"]["accuracy"]
    assert (run / "model.onnx").stat().st_size == pytest.approx(kept["bytes"], rel=0.01)
    # Nothing was trained twice: what the search trained are the stages.
    stages, trained = (
        {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("result.safetensors")}
        for folder in (run / "stages", run / "search" / kept["name"])
    )
    assert stages == trained
    assert len(stages) >= 2
    assert answer.returncode in (0, 3), answer.stderr
    again = inside("compress", "--data", str(few), "--recipe", str(recipe), "--round-to", "1", "--max-drop", "-99",
                   "--out", str(tmp_path / "no"), "--device", "cpu")  # fmt: skip
    assert again.returncode == 3
    assert "no network fits the budget: max-drop binds; nearest: whole (" in again.stderr


def test_training_that_lost_is_left_out(inside, few, recipe, tmp_path, monkeypatch) -> None:
    """A training as integers that made the network worse than rounding had made it does not ship."""

    def spoil(checkpoint: Checkpoint, context: pipeline.Context) -> Checkpoint:
        after = qat(checkpoint, context)
        weights = {name: -w if name.startswith("last.") else w for name, w in after.weights.items()}
        return replace(after, weights=weights)

    qat = pipeline.STEPS["qat"]
    monkeypatch.setitem(pipeline.STEPS, "qat", spoil)
    low = tmp_path / "low.toml"
    low.write_text(recipe.read_text().replace("[8, 4]", "[4]"))
    run = tmp_path / "run"
    start = ("compress", "--data", str(few), "--recipe", str(low), "--round-to", "1", "--trials", "1")
    inside(*start, "--max-size", "9KB", "--out", str(run), "--device", "cpu")
    results = results_of(run)
    assert results["stages"][-1]["name"].endswith("quantize")
    assert "reads worse than" in next(row["why"] for row in results["trials"] if row["name"].endswith("-qat"))
    assert 'do = "qat"' not in (run / "found.toml").read_text()
    with_recipe = open_artifact((run / "model.onnx").read_bytes()).recipe
    assert [step["do"] for step in with_recipe["steps"]][-1] == "quantize"


def test_an_impossible_budget(inside, few, recipe, tmp_path) -> None:
    run = tmp_path / "run"
    start = ("compress", "--data", str(few), "--recipe", str(recipe), "--out", str(run))
    answer = inside(*start, "--max-size", "2KB", "--json", "--device", "cpu")
    assert answer.returncode == 3
    assert "no network fits the budget: max-size binds; nearest: smallest (" in answer.stderr
    assert not (run / "model.onnx").exists()
    assert json.loads(answer.stdout) == results_of(run)
    assert [row["name"] for row in results_of(run)["trials"]] == ["dense", "smallest"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--max-size", "0"), "--max-size must be above 0, not 0"),
        (("--max-mac", "0"), "--max-mac must be above 0, not 0"),
        (("--max-size", "5 pounds"), "is not a size"),
        (("--max-mac", "10MB"), "is not a count"),
        (
            ("--controls",),
            "--controls needs a budget to search for: --max-size, --max-latency, --max-mac or --max-drop",
        ),
        (("--trial-epochs", "2"), "--trial-epochs needs a budget"),
        (("--cut-loss", "0"), "--cut-loss needs a budget"),
        (("--max-size", "9KB", "--bits", "4"), "--bits does not go with a search"),
        (("--max-size", "9KB", "--passes", "2"), "--passes does not go with a search"),
        (("--max-size", "9KB", "--ratio", "0.5", "--pareto"), "--pareto needs a budget to search for"),
        (("--samples", "9"), "--samples needs a budget to search for"),
        (("--max-drop", "1", "--samples", "9"), "samples need a limit of cost: --max-size, --max-latency or --max-mac"),
        (("--max-size", "9KB", "--samples", "-1"), "samples must be between 0 and 100000, not -1"),
        (("--max-size", "9KB", "--cut-loss", "0"), "cut_loss must be between 0.001 and 1000"),
    ],
)
def test_what_makes_no_sense_is_said(inside, few, recipe, tmp_path, flags, told) -> None:
    start = ("compress", "--data", str(few), "--recipe", str(recipe))
    answer = inside(*start, "--out", str(tmp_path / "run"), *flags)
    assert answer.returncode == 2, answer.stderr
    assert told in answer.stderr
    assert not (tmp_path / "run").exists()


def test_samples_are_counted_and_give_one_more_trial(inside, few, recipe, tmp_path) -> None:
    run = tmp_path / "run"
    start = ("compress", "--data", str(few), "--recipe", str(recipe), "--out", str(run), "--device", "cpu")
    answer = inside(*start, "--max-size", "11KB", "--round-to", "1", "--trials", "1", "--samples", "4")
    row = next(row for row in results_of(run)["trials"] if row["name"] == "sampled")
    assert row["bytes"] is None or row["bytes"] <= 11_000
    assert cells(row)[0] in answer.stdout
    assert "cutting and rounding many parts at once" in answer.stderr
    read = [key for key in json.loads((run / "search" / "ledger.json").read_text()) if key.startswith("read ")]
    assert len(read) == 1 + 4  # the dense network, and the samples


def test_samples_without_their_extra_are_refused_at_once(inside, few, recipe, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    start = ("compress", "--data", str(few), "--recipe", str(recipe), "--out", str(tmp_path / "run"))
    answer = inside(*start, "--max-size", "9KB", "--samples", "9")
    assert answer.returncode == 2
    assert re.search(r"samples needs Optuna \(.*\); pip install 'slimfer\[search\]', or samples = 0", answer.stderr)
    assert not (tmp_path / "run").exists()


def test_the_live_table_is_in_columns() -> None:
    row = {
        "name": "trial-1", "step": "keep 40 % of the channels, 4.1 bits", "parameter": {"cut_loss": 0.25},
        "bytes": 99_000, "macs": 4_400_000, "ms": 0.125, "accuracy": 0.6123, "drop": 1.234, "why": "within the budget",
    }  # fmt: skip
    assert cells(row) == (
        "trial-1", "keep 40 % of the channels, 4.1 bits", "cut_loss 0.25", "99.0 kB", "4.40 M", "0.125", "61.23",
        "1.23", "within the budget",
    )  # fmt: skip
    assert line(cells(row)).index("within") == line().index("verdict")
    nothing = {"name": "trial-2", "why": "dropped: the same plan as trial-1"}
    assert cells(nothing)[1:-1] == ("–",) * 7
    table = trial_table([row, nothing])
    assert table.header == HEADER
    assert len(table.rows) == 2
