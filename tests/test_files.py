import os

import pytest

from slimfer.files import atomic_folder, atomic_open

DEAD = 2**22 + 1  # beyond the largest process number of Linux


def test_folder_appears_when_the_block_ends_well(tmp_path):
    with atomic_folder(tmp_path / "data") as building:
        (building / "a").write_text("1")
        assert not (tmp_path / "data").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert (tmp_path / "data" / "a").read_text() == "1"


def test_error_leaves_what_was_there(tmp_path):
    with atomic_folder(tmp_path / "data") as building:
        (building / "a").write_text("1")

    def fail() -> None:
        with atomic_folder(tmp_path / "data") as building:
            (building / "a").write_text("2")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert (tmp_path / "data" / "a").read_text() == "1"


def test_folder_is_replaced_as_a_whole(tmp_path):
    for name in ("a", "b"):
        with atomic_folder(tmp_path / "data") as building:
            (building / name).write_text(name)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_leftovers_of_a_killed_writer_go_and_those_of_a_living_one_stay(tmp_path):
    left = tmp_path / f"data.slimfer-tmp-{DEAD}"
    alive = tmp_path / f"data.slimfer-tmp-{os.getppid()}"
    for folder in (left, alive):
        folder.mkdir()
    with atomic_folder(tmp_path / "data"):
        pass
    assert not left.exists()
    assert alive.exists()


def test_kill_between_the_two_renames_is_undone(tmp_path):
    old = tmp_path / f"data.slimfer-tmp-{DEAD}-old"
    old.mkdir()
    (old / "precious").write_text("1")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "data"):
        raise ZeroDivisionError
    assert (tmp_path / "data" / "precious").read_text() == "1"


def test_stream_becomes_the_file_or_nothing(tmp_path):
    path = tmp_path / "file"
    with atomic_open(path) as stream:
        stream.write(b"old")

    def fail() -> None:
        with atomic_open(path) as stream:
            stream.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
