from dataclasses import replace
from pathlib import Path

import pytest

from data.tables import dataset, frames, same, write_files
from slimfer.data.convert import WRITERS, check_target, layout_for, write
from slimfer.data.loader import DATASETS, load
from slimfer.errors import InputError


@pytest.mark.parametrize(
    ("target", "to", "layout"),
    [
        ("out", None, "packed"),
        ("out.csv", None, "csv"),
        ("out.ZIP", None, "zip"),
        ("out", "folder", "folder"),
        ("out.zip", "zip", "zip"),
    ],
)
def test_layout_for(target, to, layout):
    assert layout_for(Path(target), to) == layout


@pytest.mark.parametrize(
    ("target", "to"), [("out", "tar"), ("out.csv", "zip"), ("out.zip", "packed"), ("out", "csv"), ("out", "zip")]
)
def test_layouts_that_do_not_go_with_the_target_are_refused(target, to):
    with pytest.raises(InputError, match=to):
        layout_for(Path(target), to)


@pytest.mark.parametrize("layout", list(WRITERS))
def test_every_written_layout_is_read_again(tmp_path, layout):
    # In the order of the classes and names of a folder, so that all layouts keep it.
    original = {s: f.take(f.labels.argsort(kind="stable")) for s, f in dataset(train=20, test=10).items()}
    target = tmp_path / {"csv": "out.csv", "zip": "out.zip"}.get(layout, "out")
    write(target, original, layout)
    read = load(target)
    for split, wanted in original.items():
        order = sorted(range(len(wanted)), key=lambda i, f=wanted: (f.classes[f.labels[i]], i))
        expected = wanted.take(order) if layout in ("folder", "zip") else wanted
        assert same({split: read[split]}, {split: expected})


@pytest.mark.parametrize("layout", ["csv", "zip", "folder"])
def test_layouts_without_votes_refuse_them_and_leave_nothing(tmp_path, layout):
    voted = replace(frames(3), votes=frames(3).targets())
    target = tmp_path / {"csv": "out.csv", "zip": "out.zip"}.get(layout, "out")
    with pytest.raises(InputError, match="cannot hold votes"):
        write(target, {"train": frames(2), "test": voted}, layout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", ["packed", "folder"])
def test_force_replaces_a_dataset_as_a_whole(tmp_path, layout):
    target = tmp_path / "out"
    write(target, dataset(train=5, validation=2), layout)
    with pytest.raises(InputError, match="is there already; --force replaces it"):
        check_target(target)
    check_target(target, force=True)
    write(target, dataset(test=4), layout)
    assert list(load(target)) == ["test"]


@pytest.mark.parametrize("layout", ["packed", "folder"])
def test_force_never_takes_what_is_not_ours(tmp_path, layout):
    target = tmp_path / "out"
    write(target, dataset(train=5), layout)
    write_files(target, {"train/happy/notes.txt": b"mine"})
    with pytest.raises(InputError, match="holds more than a dataset"):
        check_target(target, force=True)


def test_new_and_empty_targets_are_free(tmp_path):
    check_target(tmp_path)
    check_target(tmp_path / "new")


def test_source_and_target_must_be_apart(tmp_path):
    for target in (tmp_path / "a", tmp_path, tmp_path / "a" / "b"):
        with pytest.raises(InputError, match="write somewhere else"):
            check_target(target, source=tmp_path / "a", force=True)


def test_what_is_written_can_be_read():
    assert set(WRITERS) <= set(DATASETS)
