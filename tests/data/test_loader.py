import pytest

from data.tables import jpeg, write_files
from slimfer.data.loader import DATASETS, layout_of, load
from slimfer.errors import InputError


def test_synthetic_is_the_embedded_default():
    dataset = load("synthetic", image=24)
    assert list(dataset) == ["train", "validation", "test"]
    assert dataset["train"].side == 24


@pytest.mark.parametrize("name", ["missing", "missing.zip", "missing.csv"])
def test_nothing_there(tmp_path, name):
    with pytest.raises(InputError, match=f"{name}: no such file or folder"):
        load(tmp_path / name)


def test_other_file_is_no_dataset(tmp_path):
    write_files(tmp_path, {"faces.tar": b"x"})
    with pytest.raises(InputError, match="not a dataset; it can be a packed folder"):
        load(tmp_path / "faces.tar")


@pytest.mark.parametrize("wrong", [{"image": 7}, {"image": 1025}, {"channels": 2}])
def test_sizes_out_of_range(tmp_path, wrong):
    write_files(tmp_path, {"train/happy/a.jpg": jpeg()})
    with pytest.raises(InputError, match="must be"):
        load(tmp_path, **wrong)


def test_every_layout_says_what_it_is():
    assert all(layout.what for layout in DATASETS.values())


def test_folder_is_the_last_resort(tmp_path):
    assert layout_of(tmp_path) == "folder"
