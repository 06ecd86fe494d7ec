import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
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


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many faces, one of them broken."""
    path = tmp_path_factory.mktemp("crops") / "crops"
    rng = np.random.default_rng(1)
    for i in range(300):
        place = path / f"{i % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 24), np.uint8)).save(place / f"{i:03d}.png")
    (path / "1" / "broken.png").write_bytes(b"no picture")
    return path


@pytest.fixture
def read(inside, artifact: Path):
    """Run `slimfer predict ARGUMENTS --no-detect` with a small artifact in this process."""
    return lambda *arguments: inside("predict", *map(str, arguments), "--no-detect", "-m", str(artifact))


# --- what is printed --------------------------------------------------------------------------------------------------
def test_json_is_one_array_with_a_status_for_each(slimfer, artifact: Path, folder: Path) -> None:
    done = slimfer("predict", str(folder), "--no-detect", "--model", str(artifact), "--json")
    assert done.returncode == 0
    good, cut = json.loads(done.stdout)
    assert (good["status"], good["width"], good["height"]) == ("ok", 40, 30)
    assert list(good["faces"][0]["scores"]) == list(EMOTIONS)
    assert (cut["status"], cut["faces"]) == ("unreadable", [])


def test_both_runtimes_read_alike(read, folder: Path) -> None:
    scores = []
    for runtime in ("onnxruntime", "openvino"):
        done = read(folder / "a.png", "--runtime", runtime, "--json")
        assert done.returncode == 0, done.stderr
        scores.append(list(json.loads(done.stdout)[0]["faces"][0]["scores"].values()))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)


def test_recursive_goes_deeper(read, folder: Path) -> None:
    done = read(folder, "-r", "--format", "jsonl")
    names = [Path(json.loads(line)["path"]).name for line in done.stdout.splitlines()]
    assert names == ["a.png", "cut.png", "b.png"]


def test_csv_has_a_column_per_class(read, folder: Path) -> None:
    done = read(folder, "--format", "csv")
    good, cut = csv.DictReader(io.StringIO(done.stdout))
    assert sum(float(good[label]) for label in EMOTIONS) == pytest.approx(1, abs=1e-5)
    assert good["label"] == max(EMOTIONS, key=lambda label: float(good[label]))
    assert (cut["label"], cut["status"], cut["error"]) == ("", "unreadable", "the picture is truncated")


def test_the_table_marks_what_is_uncertain(read, folder: Path) -> None:
    done = read(folder / "a.png", "--threshold", "0.99")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].split()[-1] == "uncertain"


def test_stdin_file_checkpoint_and_artifact_give_the_same_scores(
    slimfer, artifact: Path, checkpoint: Path, folder: Path
) -> None:
    picture = folder / "a.png"
    answers = []
    for source, model in ((str(picture), artifact), (str(picture), checkpoint), ("-", artifact)):
        with open(picture, "rb") as stream:
            done = slimfer("predict", source, "--no-detect", "--model", str(model), "--json", stdin=stream)
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout)[0]["faces"][0]["scores"])
    assert answers[0] == answers[1] == answers[2]


def test_a_quoted_glob_is_a_glob(read, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = read("**/*.png", "*.txt", "--format", "jsonl")
    assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == [
        "a.png", "cut.png", "deeper/b.png", "notes.txt",
    ]  # fmt: skip


def test_a_name_cannot_command_the_terminal(read, tmp_path: Path) -> None:
    name = b"red\x1b[31m\xff.png"
    Image.new("L", (9, 9)).save(os.path.join(os.fsencode(tmp_path), name))
    for form in ("table", "jsonl"):
        done = read(tmp_path, "--format", form)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout


@pytest.mark.alone
def test_a_real_face_is_found_and_read(slimfer, shared: Path, tmp_path: Path) -> None:
    detector = str(shared / "face_detection_yunet_2023mar.onnx")
    start = time.monotonic()
    done = slimfer("predict", str(shared / "photos" / "anger_1.jpg"), "--detector", detector, "--json")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 5  # under a second on a free core
    face = json.loads(done.stdout)[0]["faces"][0]
    assert face["label"] == "angry"
    assert face["detection_score"] > 0.8


# --- files ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", ["jsonl", "csv", "json"])
def test_a_file_has_what_is_printed_but_no_times(read, folder: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"answers.{ending}"
    done = read(folder, "-r", "--out", out)
    assert (done.returncode, done.stdout) == (0, "")
    assert "cut.png: the picture is truncated" in done.stderr
    assert "3 pictures: 2 ok, 1 unreadable" in done.stderr
    printed = read(folder, "-r", "--format", ending).stdout
    if ending == "csv":
        assert out.read_text() == printed
        return
    values = [json.loads(text) for text in (out.read_text(), printed)] if ending == "json" else [
        [json.loads(line) for line in text.splitlines()] for text in (out.read_text(), printed)
    ]  # fmt: skip
    for value in values[1]:
        assert value.pop("ms")
    assert values[0] == values[1]


def test_with_json_a_summary_is_printed(read, folder: Path, tmp_path: Path) -> None:
    done = read(folder, "--out", tmp_path / "a.csv", "--json", "--quiet")
    summary = json.loads(done.stdout)
    assert summary["statuses"] == {"ok": 1, "unreadable": 1}
    assert [one["error"] for one in summary["unreadable"]] == ["the picture is truncated"]


def test_strict_exits_with_1(read, folder: Path) -> None:
    assert read(folder, "--strict").returncode == 1
    assert read(folder / "a.png", "--strict").returncode == 0


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_any_number_of_workers_writes_the_same(read, crops: Path, tmp_path: Path, ending: str) -> None:
    files = []
    for workers in (1, 3):
        files.append(tmp_path / f"{workers}.{ending}")
        assert read(crops, "-r", "--out", files[-1], "--workers", workers).returncode == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def started(artifact: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start `slimfer predict` with pictures that take 5 ms each, so that there is time to interrupt it."""
    code = (
        "import time\nfrom slimfer.runtime import predict\nreal = predict.Recognizer.predict\n"
        "predict.Recognizer.predict = lambda self, one: (time.sleep(0.005), real(self, one))[1]\n"
        "from slimfer.cli.app import main; main()"
    )
    command = [sys.executable, "-c", code, "predict", "--no-detect", "-m", str(artifact), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait_for(path: Path, size: int) -> None:
    end = time.monotonic() + 60
    while not path.exists() or path.stat().st_size < size:
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_killed_and_resumed_each_picture_is_there_once(
    read, artifact: Path, crops: Path, tmp_path: Path, ending: str
) -> None:
    whole, out = tmp_path / f"whole.{ending}", tmp_path / f"out.{ending}"
    read(crops, "-r", "--out", whole)
    for share in (0.001, 0.4):
        process = started(artifact, str(crops), "-r", "--out", str(out), "--resume", "--workers", "2")
        wait_for(out, int(share * whole.stat().st_size))
        process.kill()
        process.communicate()
        assert out.stat().st_size < whole.stat().st_size
    done = read(crops, "-r", "--out", out, "--resume")
    assert done.returncode == 0
    assert "301 pictures: " in done.stderr
    assert "broken.png" in done.stderr
    assert out.read_bytes() == whole.read_bytes()
    assert read(crops, "-r", "--out", out, "--resume").returncode == 0
    assert out.read_bytes() == whole.read_bytes()


def test_ctrl_c_leaves_a_whole_file(read, artifact: Path, crops: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    process = started(artifact, str(crops), "-r", "--out", str(out))
    wait_for(out, 2000)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.decode().endswith("the same command with --resume goes on\ninterrupted\n")
    assert "Traceback" not in err.decode()
    assert all(json.loads(line)["status"] for line in out.read_text().splitlines())


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


# --- marked pictures --------------------------------------------------------------------------------------------------
def test_marked_pictures_mirror_the_folder(read, folder: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    out, marked = tmp_path / "a.jsonl", tmp_path / "new" / "marked"
    done = read(folder, "-r", "--out", out, "--annotate", marked)
    assert done.returncode == 0, done.stderr
    assert sorted(str(path.relative_to(marked)) for path in marked.rglob("*.png")) == ["a.png", "deeper/b.png"]
    assert size_of(marked / "a.png") > (240, 240)
    assert before == {path: path.read_bytes() for path in folder.rglob("*.png")}
    assert (
        out.read_text() == (tmp_path / "b.jsonl").read_text() if read(folder, "-r", "-o", tmp_path / "b.jsonl") else 0
    )


def test_marked_pictures_inside_are_not_read_again(read, crops: Path, tmp_path: Path) -> None:
    inner = tmp_path / "faces"
    (inner / "deep").mkdir(parents=True)
    Image.new("L", (20, 20)).save(inner / "deep" / "x.pgm")
    for how in ((), ("--force",)):
        done = read(inner, "-r", "--annotate", inner / "marked", "--format", "jsonl", *how)
        assert len(done.stdout.splitlines()) == 1
    assert size_of(inner / "marked" / "deep" / "x.pgm.png") > (240, 240)


@pytest.mark.parametrize("place", [".", "..", "deeper/.."])
def test_pictures_are_never_marked_where_they_are(read, folder: Path, place: str) -> None:
    before = (folder / "a.png").read_bytes()
    done = read(folder / "a.png", folder / "deeper", "--annotate", folder / place, "--force")
    assert done.returncode == 2
    assert "must go to another folder" in done.stderr
    assert (folder / "a.png").read_bytes() == before


# --- what is refused --------------------------------------------------------------------------------------------------
def test_what_cannot_be_is_one_sentence(read, folder: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.csv"
    there.write_text("mine\n")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.png").write_bytes(b"")
    for arguments, words in [
        ((tmp_path,), "a folder without pictures"),
        ((folder, "--fast"), "--fast: no such option"),
        ((folder / "none.jpg",), "none.jpg: no such file or folder"),
        ((str(folder / "*.bmp"),), "*.bmp: the pattern matches no picture"),
        ((folder, "--out", there), "there.csv exists; --resume goes on with it, --force replaces it"),
        ((folder, "--out", there, "--resume"), "the columns are not those"),
        ((folder, "--out", there, "--resume", "--force"), "give one of them"),
        ((folder, "--out", tmp_path), "is a folder; --out takes the name of a file"),
        ((folder, "--out", tmp_path / "no" / "a.csv"), "no such folder to write a.csv into"),
        ((folder, "--out", tmp_path / "a.txt"), "give --format jsonl, csv or json"),
        ((folder, "--out", tmp_path / "a.json", "--resume"), "--resume needs jsonl or csv"),
        ((folder, "--resume"), "--resume needs --out FILE"),
        ((folder, "--json", "--format", "csv"), "contradict"),
        ((folder, "--out", "/dev/full", "--format", "csv"), "/dev/full: No space left on device"),
        ((folder, "--annotate", full), "is not empty"),
        ((folder, "--annotate", there), "is a file; marked pictures need a folder"),
        ((folder, "--max-pixels", "0"), "max-pixels"),
        ((folder, "--workers", "0"), "workers"),
    ]:
        done = read(*arguments)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), (arguments, done.stderr)
        assert words in done.stderr
    assert there.read_text() == "mine\n"


def test_a_closed_stdin_is_one_sentence(slimfer, artifact: Path) -> None:
    done = slimfer("predict", "-", "--no-detect", "-m", str(artifact), code="import sys; sys.stdin = None")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "a picture on stdin, and there is none" in done.stderr


def test_too_large_is_a_status(read, folder: Path) -> None:
    done = read(folder / "a.png", "--max-pixels", "1199", "--json")
    assert json.loads(done.stdout)[0]["status"] == "unreadable"
    assert json.loads(read(folder / "a.png", "--max-pixels", "1200", "--json").stdout)[0]["status"] == "ok"


def test_without_a_detector_no_file_is_filled(slimfer, folder: Path, tmp_path: Path) -> None:
    """Pictures would count as done."""
    env = {"SLIMFER_HOME": str(tmp_path / "home"), "SLIMFER_OFFLINE": "1"}
    hide = "import sys; sys.modules['cv2'] = None"
    done = slimfer("predict", str(folder), "--json", env=env, code=hide)
    assert done.returncode == 0, done.stderr
    assert [one["status"] for one in json.loads(done.stdout)] == ["no_detector", "unreadable"]
    done = slimfer("predict", str(folder), "--out", str(tmp_path / "a.csv"), env=env, code=hide)
    assert done.returncode == 2
    assert "--no-detect" in done.stderr


# --- what the page says -----------------------------------------------------------------------------------------------
def test_the_page_shows_the_answer_as_it_is(read, folder: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "predict.md").read_text()
    example = json.loads(page.partition("```json\n")[2].partition("```")[0])
    answer = json.loads(read(folder / "a.png", "--json").stdout)[0]
    assert example.keys() == answer.keys()
    assert example["faces"][0].keys() == answer["faces"][0].keys()
    assert example["faces"][0]["scores"].keys() == answer["faces"][0]["scores"].keys()
    columns = read(folder / "a.png", "--format", "csv").stdout.splitlines()[0].replace(",", ", ")
    before, _, after = columns.partition(", angry, disgust, fear, happy, sad, surprise, neutral, ")
    words = " ".join(page.split())
    assert f"`{before}`" in words
    assert f"`{after}`" in words


@pytest.mark.long
def test_a_hundred_kills(read, artifact: Path, crops: Path, tmp_path: Path) -> None:
    """At uniform times, over both forms and with marked pictures: the same bytes, and nothing left behind."""
    rng = np.random.default_rng(0)
    for ending in ("jsonl", "csv"):
        whole, expected = tmp_path / f"whole.{ending}", tmp_path / f"expected_{ending}"
        read(crops, "-r", "--out", whole, "--annotate", expected)
        kills = 0
        while kills < 50:
            out, marked = tmp_path / f"{kills}.{ending}", tmp_path / f"{kills}_{ending}"
            arguments = (str(crops), "-r", "--out", str(out), "--annotate", str(marked), "--resume", "--workers", "3")
            for _ in range(5):
                process = started(artifact, *arguments)
                wait_for(out, 0)
                time.sleep(rng.uniform(0, 0.4))
                process.kill()
                process.communicate()
                kills += 1
            assert read(*arguments).returncode == 0
            assert out.read_bytes() == whole.read_bytes()
            assert {path.relative_to(marked): path.read_bytes() for path in marked.rglob("*") if path.is_file()} == {
                path.relative_to(expected): path.read_bytes() for path in expected.rglob("*") if path.is_file()
            }
