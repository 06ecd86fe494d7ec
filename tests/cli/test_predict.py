import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slimfer.labels import EMOTIONS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two readable pictures, one of them deeper, a cut one, and a file that is none."""
    path = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40), np.uint8)
    Image.fromarray(pixels).save(path / "a.png")
    (path / "deeper").mkdir()
    Image.fromarray(255 - pixels).save(path / "deeper" / "b.png")
    (path / "cut.png").write_bytes((path / "a.png").read_bytes()[:100])
    (path / "notes.txt").write_text("no picture")
    return path


def test_json_is_one_array_with_a_status_for_each(slimfer, artifact: Path, folder: Path) -> None:
    done = slimfer("predict", str(folder), "--model", str(artifact), "--json")
    assert done.returncode == 0
    good, cut = json.loads(done.stdout)
    assert (good["status"], good["width"], good["height"]) == ("ok", 40, 30)
    assert list(good["faces"][0]["scores"]) == list(EMOTIONS)
    assert (cut["status"], cut["faces"]) == ("unreadable", [])


def test_both_runtimes_read_alike(slimfer, artifact: Path, folder: Path) -> None:
    scores = []
    for runtime in ("onnxruntime", "openvino"):
        done = slimfer("predict", str(folder / "a.png"), "-m", str(artifact), "--runtime", runtime, "--json")
        assert done.returncode == 0, done.stderr
        scores.append(list(json.loads(done.stdout)[0]["faces"][0]["scores"].values()))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)


def test_recursive_goes_deeper(slimfer, artifact: Path, folder: Path) -> None:
    done = slimfer("predict", str(folder), "-r", "-m", str(artifact), "--format", "jsonl")
    names = [Path(json.loads(line)["path"]).name for line in done.stdout.splitlines()]
    assert names == ["a.png", "cut.png", "b.png"]


def test_csv_has_a_column_per_class(slimfer, artifact: Path, folder: Path) -> None:
    done = slimfer("predict", str(folder), "--model", str(artifact), "--format", "csv")
    good, cut = csv.DictReader(io.StringIO(done.stdout))
    assert sum(float(good[label]) for label in EMOTIONS) == pytest.approx(1, abs=1e-5)
    assert good["label"] == max(EMOTIONS, key=lambda label: float(good[label]))
    assert cut["label"] == ""


def test_the_table_marks_what_is_uncertain(slimfer, artifact: Path, folder: Path) -> None:
    done = slimfer("predict", str(folder / "a.png"), "--model", str(artifact), "--threshold", "0.99")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].split()[-1] == "uncertain"


def test_stdin_file_checkpoint_and_artifact_give_the_same_scores(
    slimfer, artifact: Path, checkpoint: Path, folder: Path
) -> None:
    picture = folder / "a.png"
    answers = []
    for source, model in ((str(picture), artifact), (str(picture), checkpoint), ("-", artifact)):
        with open(picture, "rb") as stream:
            done = slimfer("predict", source, "--model", str(model), "--json", stdin=stream)
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout)[0]["faces"][0]["scores"])
    assert answers[0] == answers[1] == answers[2]


def test_a_folder_without_pictures_is_named(slimfer, artifact: Path, tmp_path: Path) -> None:
    done = slimfer("predict", str(tmp_path), "--model", str(artifact))
    assert done.returncode == 2
    assert "a folder without pictures" in done.stderr


def test_an_unknown_option_is_not_taken_for_a_picture(slimfer, artifact: Path, folder: Path) -> None:
    done = slimfer("predict", str(folder), "--model", str(artifact), "--fast")
    assert (done.returncode, done.stderr) == (2, "error: --fast: no such option\n")
