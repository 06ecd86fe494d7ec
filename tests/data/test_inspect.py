import json
from dataclasses import replace

import numpy as np
import pytest

from data.tables import dataset, frames, jpeg, picture, write_files, write_rows
from slimfer.data.inspect import inspect
from slimfer.data.packed import write_packed
from slimfer.errors import InputError


def test_clean_dataset(tmp_path):
    write_packed(tmp_path / "p", {s: replace(frames(50, seed=i)) for i, s in enumerate(("train", "validation"))})
    found = inspect(tmp_path / "p")
    assert found.problems == {}
    assert found.layout == "packed"
    assert sum(found.splits["train"].values()) == 50
    assert found.sizes == {"48x48": 100}


def test_every_kind_of_problem_is_found_and_named(tmp_path):
    flat = jpeg(0, size=(1, 1), kind="PNG")
    write_files(
        tmp_path,
        {
            "train/happy/a.jpg": jpeg(1),
            "train/happy/again.jpg": jpeg(1),
            "train/sad/b.jpg": jpeg(2, size=(60, 40)),
            "train/sad/cut.jpg": jpeg(3)[:-60],
            "train/sad/text.png": b"hello",
            "train/sad/flat.png": flat,
            "val/happy/b.jpg": jpeg(2, size=(60, 40)),
        },
    )
    (tmp_path / "test").mkdir()
    found = inspect(tmp_path)
    assert [line.partition(": ")[2] for line in found.unreadable] == [
        "train/sad/cut.jpg: the picture is truncated",
        "train/sad/text.png: not a picture in a format that is read here (JPEG, PNG, WEBP, BMP, PPM, GIF)",
    ]
    assert found.constant == ("train/sad/flat.png",)
    assert found.duplicates == (("train/happy/a.jpg", "train/happy/again.jpg"),)
    assert found.shared == (("train/sad/b.jpg", "validation: val/happy/b.jpg"),)
    assert found.conflicts == (("train/sad/b.jpg (sad)", "validation: val/happy/b.jpg (happy)"),)
    assert found.empty == ("validation/sad", "test")
    assert found.sizes == {"48x48": 2, "60x40": 2, "1x1": 1}
    assert found.splits["train"] == {"happy": 2, "sad": 2}
    assert found.problems == {
        "unreadable": 2,
        "empty": 2,
        "constant": 1,
        "duplicates": 1,
        "shared": 1,
        "conflicts": 1,
    }
    assert json.loads(json.dumps(found.to_dict()))["problems"] == found.problems


def test_bad_rows_are_all_listed(tmp_path):
    rows = [(0, picture(), "Training"), (9, picture(), "Training"), (1, "1 2 3", "Training"), (2, picture(1), "Nope")]
    found = inspect(write_rows(tmp_path / "fer.csv", rows))
    named = [line.rpartition("fer.csv ")[2].partition(":")[0] for line in found.unreadable]
    assert named == ["row 3", "row 4", "row 5"]
    assert sum(found.splits["train"].values()) == 1


def test_bad_rows_do_not_move_votes(tmp_path):
    rows = [(9, picture(), "Training"), (0, picture(), "Training")]
    path = write_rows(tmp_path / "fer.csv", rows)
    header = ["Usage", "anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]
    votes = [["Training", 0, 0, 0, 9, 0, 0, 0], ["Training", 9, 0, 0, 0, 0, 0, 0]]
    found = inspect(path, votes=write_rows(tmp_path / "votes.csv", votes, header))
    assert found.votes
    assert len(found.unreadable) == 1


def test_changed_pictures_of_a_packed_dataset_are_found(tmp_path):
    write_packed(tmp_path / "p", dataset(train=40))
    file = tmp_path / "p" / "train.images.u8"
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    (problem,) = inspect(tmp_path / "p").unreadable
    assert "train.images.u8: changed since it was written" in problem


def test_duplicates_are_found_whatever_their_number(tmp_path):
    rng = np.random.default_rng(0)
    original = frames(30)
    chosen = rng.integers(0, 30, 100)
    write_packed(tmp_path / "p", {"train": original.take(chosen)})
    found = inspect(tmp_path / "p")
    counts = np.bincount(chosen, minlength=30)
    assert sorted(map(len, found.duplicates)) == sorted(counts[counts > 1].tolist())
    assert found.conflicts == ()


def test_broken_structure_is_refused(tmp_path):
    for source in (tmp_path, tmp_path / "missing", write_rows(tmp_path / "a.csv", [], ["emotion"])):
        with pytest.raises(InputError):
            inspect(source)


def test_synthetic_faces_have_no_problems():
    assert inspect("synthetic", image=24).problems == {}
