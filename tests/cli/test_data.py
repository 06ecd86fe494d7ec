import json

import pytest

from slimfer.cli.app import run


def test_synth_inspect_convert(tmp_path, capsys):
    faces, packed = tmp_path / "faces", tmp_path / "packed"
    assert run(["data", "synth", str(faces), "--train", "40", "--validation", "14", "--test", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "path": str(faces),
        "layout": "folder",
        "splits": {"train": 40, "validation": 14},
    }
    assert run(["data", "convert", str(faces), str(packed)]) == 0
    assert "40 train, 14 validation" in capsys.readouterr().out
    assert run(["data", "inspect", str(packed), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layout"] == "packed"
    assert sum(found["splits"]["train"].values()) == 40


def test_seed_decides_the_faces(tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        counts = ["--train", "5", "--validation", "2", "--test", "0"]
        assert run(["data", "synth", str(tmp_path / f"{name}.zip"), *counts, "--seed", seed, "-q"]) == 0
    a, b, c = ((tmp_path / f"{name}.zip").read_bytes() for name in "abc")
    assert a == b != c


def test_strict_exits_with_1_when_there_are_problems(tmp_path, capsys):
    run(["data", "synth", str(tmp_path / "f"), "--train", "3", "--validation", "0", "--test", "0"])
    picture = next((tmp_path / "f").rglob("*.png"))
    (picture.parent / "copy.png").write_bytes(picture.read_bytes())
    (picture.parent / "cut.png").write_bytes(picture.read_bytes()[:100])
    assert run(["data", "inspect", str(tmp_path / "f")]) == 0
    shown = capsys.readouterr().out
    assert "groups of equal pictures within a split: 1" in shown
    assert "cut.png: the picture is truncated" in shown
    assert run(["data", "inspect", str(tmp_path / "f"), "--strict"]) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "{}/missing"],
        ["convert", "{}/missing", "{}/out"],
        ["convert", "synthetic", "{}/notes"],
        ["convert", "synthetic", "{}/notes", "--force"],
        ["convert", "synthetic", "{}/out", "--to", "tar"],
        ["synth", "{}/out", "--train", "-1"],
        ["synth", "{}/out", "--image", "9999"],
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path, capsys, arguments):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("precious")
    assert run(["data", *(word.format(tmp_path) for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["notes", "mine.txt"]
