"""Whatever comes in, an answer comes out within a second: a status, or for a model that is none, one sentence."""

import errno
import io
import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fuzz.samples import encoded, picture, turned
from runtime.hostile import CASES, ENDS, HUGE, fifo, huge, named, whole
from slimfer.artifact import CALIBRATION_KEY, FORMAT, REQUIRED, open_artifact, seal
from slimfer.cli.app import run
from slimfer.errors import InputError
from slimfer.runtime.answer import Prediction
from slimfer.runtime.predict import Recognizer
from slimfer.shipped import SHIPPED

SMALL = SHIPPED["small"]
SECONDS = 1.0  # of the processor
LINES = ("--no-detect", "--threshold", "0", "--format", "jsonl")


@pytest.fixture(scope="module")
def reader() -> Recognizer:
    return Recognizer(detect=False, threshold=0)


@pytest.fixture(scope="module")
def finder(shared) -> Recognizer:
    return Recognizer(detector=shared / "face_detection_yunet_2023mar.onnx", threshold=0)


@contextmanager
def quickly():
    begun = time.process_time()
    yield
    assert time.process_time() - begun <= SECONDS


def command_line(capfd, *arguments: object) -> tuple[int, str, str]:
    """Run `slimfer ARGUMENTS`; no traceback may be seen, whatever else."""
    code = run([str(argument) for argument in arguments])
    told = capfd.readouterr()
    assert "Traceback" not in told.out + told.err
    return code, told.out, told.err


def check(answer: Prediction, status: str, error: str) -> None:
    assert answer.status == status, answer.error
    json.dumps(answer.to_dict(), allow_nan=False)
    if status == "ok":
        assert sum(answer.scores.values()) == pytest.approx(1, abs=1e-5)
    else:
        assert re.search(error, answer.error or "")
        assert answer.error


# --- pictures -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CASES)
def test_a_hostile_picture_gets_a_status(name, reader, tmp_path):
    case = CASES[name]
    path = case.make(tmp_path)
    for source in (path, str(path)):
        with quickly():
            check(reader(source), case.status, case.error)
    assert reader(path).path == str(path)


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_picture_gets_a_status_where_faces_are_looked_for(name, finder, tmp_path):
    path = CASES[name].make(tmp_path)
    with quickly():
        answer = finder(path)
    assert (
        answer.status in {"ok": ("no_face", "ok", "low_confidence"), "unreadable": ("unreadable",)}[CASES[name].status]
    )


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_picture_gets_a_status_on_the_command_line(name, tmp_path, capfd):
    path = CASES[name].make(tmp_path)
    with quickly():
        code, out, err = command_line(capfd, "predict", path, *LINES)
    if path.is_dir():
        assert (code, out) == (2, "")
        assert re.fullmatch(r"error: .*: a folder without pictures .*\n", err)
        return
    assert code == 0
    (line,) = out.splitlines()
    told = json.loads(line)
    assert told["status"] == CASES[name].status
    assert os.fsencode(told["path"]) == os.fsencode(path)
    assert (told["status"] == "ok") == (err == ""), err


def test_a_folder_of_hostile_pictures_is_read_to_the_end(tmp_path, capfd):
    """One of each; what is no file is not picked up in a folder, and what has another ending is not either."""
    endings = {f".{end}" for end in (*ENDS.values(), "heic")}
    expected = {}
    for index, case in enumerate(CASES.values()):
        folder = tmp_path / f"{index:02}"
        folder.mkdir()
        path = case.make(folder)
        if path.suffix in endings and (path.is_file() or not path.exists()):
            expected[os.fsencode(path)] = case.status
    code, out, err = command_line(capfd, "predict", tmp_path, "--recursive", *LINES)
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert {os.fsencode(answer["path"]): answer["status"] for answer in answers} == expected
    failed = sum(status == "unreadable" for status in expected.values())
    assert err.startswith(f"could not be read: {failed} of {len(expected)}\n")


def test_a_link_to_itself_does_not_hide_its_neighbours(tmp_path, capfd):
    for name in (b"a.png", b"z.png"):
        named(name, tmp_path)
    CASES["a link to itself"].make(tmp_path)
    _, out, _ = command_line(capfd, "predict", tmp_path, *LINES)
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["ok", "unreadable", "ok"]


def test_folders_that_link_to_each_other_end(tmp_path, capfd):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    named(b"face.png", tmp_path / "a")
    code, out, _ = command_line(capfd, "predict", tmp_path, "-r", *LINES)
    assert code == 0
    assert len(out.splitlines()) == 1


@pytest.mark.parametrize("name", ["no such\0name.jpg", "n" * 300 + ".jpg", "a/" * 3000 + "b.jpg", "", "nowhere/b.jpg"])
def test_impossible_names_are_answered(name, reader, capfd):
    check(reader(name), "unreadable", "")
    code, _, err = command_line(capfd, "predict", name, "--no-detect")
    assert code == 2
    assert re.fullmatch("error: .*\n", err), err


def test_a_file_that_may_not_be_read_is_unreadable(reader, tmp_path, monkeypatch):
    """Refused by the system's own words; nobody forbids root to read, so the refusal is played."""

    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    path = named(b"face.png", tmp_path)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    check(reader(path), "unreadable", "Permission denied")


UPRIGHT = np.asarray(picture("L"))
STORED = {
    1: UPRIGHT, 2: UPRIGHT[:, ::-1], 3: UPRIGHT[::-1, ::-1], 4: UPRIGHT[::-1], 5: UPRIGHT.T, 6: np.rot90(UPRIGHT),
    7: UPRIGHT[::-1, ::-1].T, 8: np.rot90(UPRIGHT, -1),
}  # fmt: skip


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_turned_picture_reads_as_the_upright_one(kind, orientation, reader):
    expected = reader(UPRIGHT)
    options = {"lossless": True} if kind == "WEBP" else {}
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    answer = reader(encoded(stored.convert("RGB"), kind, exif=turned(orientation), **options))
    assert (answer.width, answer.height) == (UPRIGHT.shape[1], UPRIGHT.shape[0])
    assert dict(answer.scores) == pytest.approx(dict(expected.scores), abs=1e-3)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_picture_is_read(kind, reader):
    first, other = (Image.new("L", (40, 30), value) for value in (250, 10))
    frames = {"save_all": True, "append_images": [other, other]}
    lossless = {"lossless": True} if kind == "WEBP" else {}
    answer = reader(encoded(first, kind, **frames, **lossless))
    assert dict(answer.scores) == pytest.approx(dict(reader(first).scores), abs=1e-6)


def test_the_limit_of_pixels_can_be_set(tmp_path, capfd):
    path = named(b"face.png", tmp_path)
    assert Recognizer(detect=False, threshold=0, max_pixels=40 * 30)(path).status == "ok"
    check(Recognizer(detect=False, max_pixels=40 * 30 - 1)(path), "unreadable", "40 x 30 pixels, and 1199 are the most")
    flags = ("--no-detect", "--threshold", 0, "--json", "--max-pixels")
    assert json.loads(command_line(capfd, "predict", path, *flags, 1200)[1])[0]["status"] == "ok"
    assert json.loads(command_line(capfd, "predict", path, *flags, 1199)[1])[0]["status"] == "unreadable"


def test_bombs_are_refused_without_memory(tmp_path):
    """In a process of its own: 900 million pixels would be 3.6 GB, and a comment of a gigabyte one more."""
    for name in (f"{kind} of 30,000 x 30,000" for kind in ENDS):
        CASES[name].make(tmp_path)
    CASES["a comment of a gigabyte"].make(tmp_path)
    code = (
        "import resource, sys, warnings, slimfer\n"
        "from pathlib import Path\n"
        "warnings.simplefilter('ignore')\n"
        "reader = slimfer.Recognizer(detect=False)\n"
        "reader(sys.argv[2])\n"
        "limit = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize() + (100 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "print(*{reader(path).status for path in sorted(Path(sys.argv[1]).iterdir())})\n"
    )
    face = named(b"whole.png", tmp_path)
    face = face.rename(tmp_path.parent / "whole.png")
    command = [sys.executable, "-c", code, str(tmp_path), str(face)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("unreadable\n", "", 0)


def test_the_terminal_shows_our_sentence_and_no_warning_of_a_library(tmp_path):
    """Pillow warns from 90 to 180 million pixels; the pictures of this process cannot show it, warnings are errors."""
    path = tmp_path / "huge.png"
    path.write_bytes(huge("PNG", 12_000))
    command = [sys.executable, "-m", "slimfer", "predict", str(path), "--no-detect", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0
    assert re.fullmatch(f"could not be read: 1 of 1\n  {path}: the picture has 12000 x 12000 .*\n", done.stderr)


def test_there_is_a_bomb_of_every_format(monkeypatch):
    """Control: each says what it is meant to say."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    for kind in ENDS:
        with Image.open(io.BytesIO(huge(kind))) as image:
            assert image.size == ((16_000, 16_000) if kind == "WEBP" else (HUGE, HUGE))


# --- other things that are given as a picture -----------------------------------------------------------------------
GRAY = np.asarray(picture("L"))
ARRAYS = {
    "NaN": np.full((9, 9), np.nan),
    "one NaN": np.where(np.eye(9), np.nan, 0.5),
    "infinity": np.full((9, 9), np.inf),
    "below 0": np.full((9, 9), -0.1),
    "above 1": np.full((9, 9), 255.0),
    "whole numbers of 32 bits": np.zeros((9, 9), np.int32),
    "signed bytes": np.zeros((9, 9), np.int8),
    "complex": np.zeros((9, 9), complex),
    "objects": np.full((9, 9), None),
    "texts": np.full((9, 9), "x"),
    "dates": np.zeros((9, 9), "datetime64[s]"),
    "records": np.zeros((9, 9), [("a", np.uint8)]),
    "no axis": np.array(7, np.uint8),
    "one axis": np.zeros(9, np.uint8),
    "two channels": np.zeros((9, 9, 2), np.uint8),
    "five channels": np.zeros((9, 9, 5), np.uint8),
    "channels first": np.zeros((3, 9, 9), np.uint8),
    "a batch": np.zeros((2, 9, 9, 3), np.uint8),
    "no rows": np.zeros((0, 9), np.uint8),
    "no columns": np.zeros((9, 0, 3), np.uint8),
    "no channels": np.zeros((9, 9, 0), np.uint8),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_that_is_no_picture_is_unreadable(name, reader):
    with quickly():
        check(reader(ARRAYS[name]), "unreadable", "an array of")


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(GRAY), GRAY[::-1, ::-1][::-1, ::-1], np.repeat(GRAY, 2, 1)[:, ::2], GRAY[..., None],
        GRAY / 255, (GRAY / 255).astype(np.float32), GRAY.astype(np.uint16) * 257, GRAY.astype(">u2") * 257,
        np.repeat(GRAY[..., None], 3, 2), np.repeat(GRAY[..., None], 4, 2), np.ma.masked_array(GRAY, GRAY > 99),
        np.broadcast_to(GRAY[..., None], (*GRAY.shape, 3)), GRAY.view(np.memmap),
    ],
    ids=[
        "columns first", "turned twice", "every second", "one channel", "float64", "float32", "16 bits", "big-endian",
        "RGB", "RGBA", "masked", "broadcast", "subclass",
    ],
)  # fmt: skip
def test_every_form_of_the_same_array_reads_alike(array, reader):
    assert dict(reader(array).scores) == dict(reader(GRAY).scores)


class Broken(io.BytesIO):
    def read(self, *_: object) -> bytes:
        raise RuntimeError("the line is dead")


@pytest.mark.parametrize("stream", [Broken(), io.StringIO("abc"), io.BytesIO(b"")], ids=["breaks", "text", "empty"])
def test_a_stream_that_gives_no_picture_is_unreadable(stream, reader):
    check(reader(stream), "unreadable", "")


@pytest.mark.parametrize("source", [None, 7, 1.5, {}, object(), Ellipsis], ids=lambda source: type(source).__name__)
def test_what_cannot_be_a_picture_is_the_callers_mistake(source, reader):
    with pytest.raises(InputError, match="is no picture"):
        reader(source)


def test_a_picture_object_that_is_closed_is_unreadable(reader):
    image = Image.open(io.BytesIO(whole("PNG")))
    image.close()
    check(reader(image), "unreadable", "")


def test_a_picture_object_beyond_the_limit_is_not_decoded():
    image = Image.open(io.BytesIO(whole("PNG")))
    check(Recognizer(detect=False, max_pixels=100)(image), "unreadable", "40 x 30 pixels, and 100 are the most")


# --- models ---------------------------------------------------------------------------------------------------------
def refused(path: Path, capfd, pattern: str) -> None:
    """A model that is none is one sentence, in Python and on the command line."""
    with quickly(), pytest.raises(InputError, match=pattern):
        Recognizer(path, detect=False)
    code, out, err = command_line(capfd, "predict", SMALL, "--model", path)
    assert (code, out) == (2, "")
    assert re.fullmatch(f"error: .*(?:{pattern}).*\n", err), err


def opened(folder: Path, **changes: str | None) -> Path:
    """Write the model that ships with other metadata and a hash that is right."""
    artifact = open_artifact(SMALL)
    metadata = {**artifact.metadata, **changes}
    path = folder / "model.onnx"
    path.write_bytes(seal(artifact.data, {key: value for key, value in metadata.items() if value is not None}))
    return path


def test_an_onnx_file_that_is_not_ours_is_refused(shared, capfd):
    refused(shared / "face_detection_yunet_2023mar.onnx", capfd, "not a slimfer model")


@pytest.mark.parametrize("content", [b"", b"\0" * 100, whole("PNG")], ids=["empty", "zeros", "a picture"])
def test_a_file_that_is_no_model_is_refused(content, tmp_path, capfd):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    refused(path, capfd, "not a slimfer model")


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_field_is_named(key, tmp_path, capfd):
    refused(opened(tmp_path, **{key: None}), capfd, f"metadata without {re.escape(key)}")


@pytest.mark.parametrize("key", [*REQUIRED, CALIBRATION_KEY])
def test_a_field_that_was_changed_is_noticed(key, tmp_path, capfd):
    """One letter of the value, and the hash as it was."""
    data = bytearray(opened(tmp_path, **{key: "0123456789"}).read_bytes())
    place = data.index(b"0123456789")
    data[place] ^= 1
    path = tmp_path / "changed.onnx"
    path.write_bytes(data)
    refused(path, capfd, "does not match its SHA-256")


@pytest.mark.parametrize(
    ("key", "value", "pattern"),
    [
        ("slimfer.format", str(FORMAT + 1), "newer than this slimfer reads"),
        ("slimfer.format", "9" * 5000, "not a number"),
        ("slimfer.labels", '["a", "b"]', "does not fit the graph"),
        ("imgsz", "[64, 64]", "does not fit the graph|reads|shape"),
        ("channels", "3", "does not fit the graph|reads|shape"),
        (CALIBRATION_KEY, "", "cannot be read"),
        (CALIBRATION_KEY, "[]", "calibration cannot be read"),
        (CALIBRATION_KEY, '{"temperature": 0}', "temperature|cannot be read"),
        (CALIBRATION_KEY, '{"temperature": NaN}', "temperature|cannot be read"),
        (CALIBRATION_KEY, '{"threshold": 2}', "threshold|cannot be read"),
        (CALIBRATION_KEY, '{"threshold": "high"}', "number|cannot be read"),
    ],
)
def test_a_field_that_lies_is_refused(key, value, pattern, tmp_path, capfd):
    refused(opened(tmp_path, **{key: value}), capfd, pattern)


def test_what_is_no_file_is_no_model(tmp_path, capfd):
    refused(fifo(tmp_path), capfd, "no such file|neither")
    refused(Path("/dev/zero"), capfd, "no such file|neither")


@pytest.mark.parametrize("what", ["pipe", "device", "folder", "missing", "model", "NUL"])
def test_what_is_no_detector_is_refused(what, tmp_path, capfd):
    paths = {"pipe": fifo(tmp_path), "device": Path("/dev/zero"), "folder": tmp_path, "missing": tmp_path / "x.onnx",
             "model": SMALL, "NUL": Path("a\0b")}  # fmt: skip
    with quickly(), pytest.raises(InputError):
        Recognizer(detector=paths[what])
    if what != "NUL":
        code, _, err = command_line(capfd, "predict", named(b"face.png", tmp_path), "--detector", paths[what])
        assert code == 2
        assert re.fullmatch("error: .*\n", err), err
