"""`slimfer distill`: a student and its control, a sweep, and what is refused."""

import json
from pathlib import Path

import pytest

from slimfer.labels import EMOTIONS
from slimfer.model.spec import NetSpec
from slimfer.report.results import load_results
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.loop import initial

SMALL = ("--width", "0.25", "--batch-size", "64", "--epochs", "1", "--image", "24")


@pytest.fixture(scope="module")
def sweep(inside, faces: Path, checkpoint: Path, artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers, one of them an artifact; two temperatures, two weights."""
    out = tmp_path_factory.mktemp("runs") / "sweep"
    done = inside(
        "distill", "mobile", "--teacher", str(checkpoint), "--teacher", str(artifact), "--data", str(faces), *SMALL,
        "--mirror", "--no-square", "--sweep-temperatures", "1,4", "--sweep-weights", "0.3,0.9", "--out", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()
    assert rows[1].startswith("control")
    assert f"teacher {artifact}: " in done.stdout
    assert "T4-w0.9  epoch 1/1" in done.stderr
    return out


def test_a_sweep_reports_every_student_and_the_control_first(sweep: Path) -> None:
    results = load_results(sweep / "results.json")
    assert results.kind == "distill"
    assert results.first.name == "control"
    taught = [stage.accuracy for stage in results.stages[1:]]
    assert taught == sorted(taught)
    assert len(taught) == 4
    assert {(row["temperature"], row["weight"]) for row in results.sweep} == {(1, 0.3), (1, 0.9), (4, 0.3), (4, 0.9)}
    assert [row["accuracy"] for row in results.sweep] == taught
    assert len(results.data["teachers"]) == 2
    recipe = results.data["recipe"]
    assert (recipe["distill"]["square"], recipe["distill"]["mirror"]) == (False, True)
    assert "Temperature and weight" in (sweep / "report.html").read_text()
    assert "<svg" in (sweep / "plots" / "sweep.svg").read_text()


def test_the_best_student_is_kept_and_the_cache_is_shared(sweep: Path) -> None:
    results = load_results(sweep / "results.json")
    kept = Checkpoint.load(sweep / "weights" / "best.safetensors")
    lesson = kept.lineage[-1]["distill"]
    assert results.last.name == f"T{lesson['temperature']:g}-w{lesson['weight']:g}"
    answers = list((sweep / "sweep" / "answers").iterdir())
    assert len(answers) == 2, "one file per teacher"
    # Two steps, two views, 64 pictures of 7 classes in float32, whatever the number of students.
    assert {file.stat().st_size for file in answers} == {4 * (33 + 8 + 64 * 7 * 4 + 16)}


def test_resume_needs_no_flags_and_trains_nothing_again(inside, sweep: Path) -> None:
    before = load_results(sweep / "results.json")
    done = inside("distill", "--out", str(sweep), "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stages"] == list(before.data["stages"])
    assert "epoch" not in done.stderr


def test_a_student_beside_its_control(inside, faces: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = inside(
        "distill", str(checkpoint), "--teacher", str(checkpoint), "--data", str(faces), "--epochs", "1",
        "--batch-size", "64", "--features", "1", "--penalty", "1e-4", "--control", "--out", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = load_results(out / "results.json")
    assert [stage.name for stage in results.stages] == ["control", "T2-w0.7"]
    assert "with teachers reads" in done.stdout
    assert "smaller" not in done.stdout
    assert json.loads((out / "run.json").read_text())["parent"] == str(checkpoint)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ((), "no teacher given: --teacher RUN, CHECKPOINT or ARTIFACT"),
        (("--teacher", "nothing.onnx"), "nothing.onnx: no such file"),
        (("--teacher", "CHECKPOINT", "--temperature", "0"), "temperature must be above 0 and at most 100, not 0.0"),
        (("--teacher", "CHECKPOINT", "--weight", "2"), "distill weight must be between 0 and 1, not 2.0"),
        (("--teacher", "CHECKPOINT", "--sweep-weights", "0.3;0.5"), "--sweep-weights takes numbers with commas"),
        (("--teacher", "CHECKPOINT", "--sweep-temperatures", "1,0"), "temperature must be above 0 and at most 100"),
        (("--teacher", "ARTIFACT", "--features", "1"), "is an artifact, which shows no features"),
        (("--teacher", "LARGER"), "takes 1 x 48 px, the student 1 x 24 px"),
        (("--teacher", "CHECKPOINT", "--features", "1", "--cache", "c"), "a cache keeps the teachers' answers"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_the_folder_free(
    inside, faces: Path, checkpoint: Path, artifact: Path, tmp_path: Path, flags: tuple[str, ...], sentence: str
) -> None:
    larger = tmp_path / "larger.safetensors"
    initial(NetSpec("mobile", args={"width": 0.25}), EMOTIONS, seed=1).save(larger)
    files = {"CHECKPOINT": str(checkpoint), "ARTIFACT": str(artifact), "LARGER": str(larger)}
    given = [files.get(flag, flag) for flag in flags]
    out = tmp_path / "run"
    done = inside("distill", "mobile", "--data", str(faces), *SMALL, *given, "--out", str(out))
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not out.exists() or not any(out.iterdir())
