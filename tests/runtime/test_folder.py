"""Answers in a file: whatever moment its writer was killed at, the same work ends in the same bytes."""

import csv
import io
import json
import os
import resource
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimfer.errors import InputError
from slimfer.runtime.answer import Box, Face, Prediction
from slimfer.runtime.folder import LISTED, AnswerFile, Tally
from slimfer.runtime.forms import Csv, Form, JsonLines

LABELS = ("happy", "sad")
MODEL = ("base", "0.1.0")
FORMS: dict[str, Callable[[], Form]] = {"jsonl": JsonLines, "csv": lambda: Csv(LABELS)}

# Names as file systems allow them: line ends, quotes, commas, bytes that are no text.
NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=("Cs",)), min_size=1) | st.binary(
    min_size=1
).map(lambda data: os.fsdecode(data.replace(b"\0", b"x").replace(b"/", b"y")))


def answer(path: str, faces: int = 1, error: str | None = None) -> Prediction:
    found = tuple(
        Face(Box(i, 2, 30, 40), "sad", 0.75, {"happy": 0.25, "sad": 0.75}, 0.7, detection_score=0.9)
        for i in range(faces)
    )
    status = "unreadable" if error else "ok" if faces else "no_face"
    return Prediction(path, status, 64, 48, found, {"inference": 0.1}, *MODEL, error)


def predictions(names: Sequence[str]) -> list[Prediction]:
    faces = [1, 3, 0, 2]
    return [
        answer(name, faces[i % 4], error='cut\nshort, "so"' if i % 4 == 2 else None) for i, name in enumerate(names)
    ]


def fill(path: Path, form: Form, answers: Sequence[Prediction], **how: bool) -> Tally:
    how = {"resume": False, "force": False, **how}
    with AnswerFile(path, form, MODEL, **how) as file:
        for one in answers:
            if (one.path or "-") not in file:
                file.write(one)
                file.tally.add(one.path, one.status, one.error)
        return file.tally


@pytest.mark.parametrize("kind", FORMS)
def test_cut_at_any_byte_and_resumed_it_is_the_same(kind: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # two thousand times, for a kill, which loses nothing written
    answers = predictions(["a.jpg", 'odd\n",name\r.png', "c\udcff.png", "d.png", "e.png", "f.png"])
    whole = tmp_path / f"whole.{kind}"
    all_told = fill(whole, FORMS[kind](), answers)
    data, path = whole.read_bytes(), tmp_path / f"cut.{kind}"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        tally = fill(path, FORMS[kind](), answers, resume=True)
        assert path.read_bytes() == data, length
        assert tally.statuses == all_told.statuses
        assert tally.problems == all_told.problems


@pytest.mark.parametrize("kind", FORMS)
@given(names=st.lists(NAMES, unique=True, max_size=5), cut=st.floats(0, 1))
def test_any_names_are_found_again(kind: str, names: list[str], cut: float, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("names") / "answers"
    answers = predictions(names)
    fill(path, FORMS[kind](), answers)
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data))])
    fill(path, FORMS[kind](), answers, resume=True)
    assert path.read_bytes() == data
    with AnswerFile(path, FORMS[kind](), MODEL, resume=True, force=False) as file:
        assert all(name in file for name in names)
        assert "another" not in file


@pytest.mark.parametrize("kind", FORMS)
def test_new_pictures_are_appended(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "answers"
    fill(path, FORMS[kind](), [answer("b.png"), answer("d.png")])
    before = path.read_bytes()
    fill(path, FORMS[kind](), [answer(f"{name}.png") for name in "abcd"], resume=True)
    after = path.read_bytes()
    assert after.startswith(before)
    assert [after.count(name) for name in (b"a.png", b"b.png", b"d.png")] == [1, 1, 1]


def test_a_line_is_the_answer_without_its_times(tmp_path: Path) -> None:
    one = answer("a.jpg")
    expected = one.to_dict()
    del expected["ms"]
    assert json.loads(JsonLines().record(one)) == expected
    assert json.loads(JsonLines(timed=True).record(one)) == one.to_dict()


def test_a_csv_has_a_row_per_face(tmp_path: Path) -> None:
    form = Csv(LABELS)
    text = form.head() + form.record(answer("two.png", 2)) + form.record(answer("none.png", 0))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["path"], row["face"], row["faces"], row["x"]) for row in rows] == [
        ("two.png", "1", "2", "0"), ("two.png", "2", "2", "1"), ("none.png", "", "0", ""),
    ]  # fmt: skip
    assert [float(rows[0][name]) for name in (*LABELS, "score", "confidence", "detection_score")] == [
        0.25, 0.75, 0.75, 0.7, 0.9,
    ]  # fmt: skip
    assert (rows[2]["status"], rows[2]["label"], rows[2]["model"]) == ("no_face", "", "base")


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize(
    "text",
    ["my diary", "my diary\n", "a,b\n1,2\n", '{"a": 1}\n', '{"a": 1}\n{"path"', '{"path": "x"}\n', "path;status"],
)
def test_a_file_of_somebody_else_is_not_touched(kind: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "diary"
    path.write_text(text)
    for how in ({}, {"resume": True}):
        with pytest.raises(InputError) as caught:
            fill(path, FORMS[kind](), [answer("a.jpg")], **how)
        assert "diary" in str(caught.value)
        assert path.read_text() == text
    fill(path, FORMS[kind](), [answer("a.jpg")], force=True)
    assert "diary" not in path.read_text()


@pytest.mark.parametrize("kind", FORMS)
def test_a_damaged_middle_is_not_cut_off(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "answers"
    fill(path, FORMS[kind](), predictions(["a.png", "b.png", "c.png"]))
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:2], b"xx\n", *lines[2:]])
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="line 3"):
        fill(path, FORMS[kind](), [answer("d.png")], resume=True)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("kind", FORMS)
def test_another_model_does_not_go_on(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "answers"
    fill(path, FORMS[kind](), [answer("a.png")])
    with pytest.raises(InputError, match=r"model base 0\.1\.0, not small 2"):
        AnswerFile(path, FORMS[kind](), ("small", "2"), resume=True, force=False)


def test_two_processes_do_not_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    with (
        AnswerFile(path, JsonLines(), MODEL, resume=False, force=False),
        pytest.raises(InputError, match="another process"),
    ):
        AnswerFile(path, JsonLines(), MODEL, resume=True, force=False)


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("limit", [100, 500, 777, 1000])
def test_a_full_disk_leaves_whole_answers(kind: str, limit: int, tmp_path: Path) -> None:
    """A limit on the size of files stops a write in its middle, as a full disk does."""
    answers = predictions([f"{i}.png" for i in range(20)])
    whole, path = tmp_path / "whole", tmp_path / "answers"
    fill(whole, FORMS[kind](), answers)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(InputError, match="File too large"):
            fill(path, FORMS[kind](), answers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    data = path.read_bytes()
    assert len(data) <= limit
    assert whole.read_bytes().startswith(data)
    assert not data or data.endswith(b"\n")
    fill(path, FORMS[kind](), answers, resume=True)
    assert path.read_bytes() == whole.read_bytes()


def test_only_the_first_problems_are_held() -> None:
    tally = Tally()
    for i in range(1000):
        tally.add(f"{i}.png", "unreadable", "broken")
    assert (tally.pictures, tally.failed, len(tally.problems)) == (1000, 1000, LISTED)
