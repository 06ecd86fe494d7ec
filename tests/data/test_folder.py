import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.tables import dataset, frames, jpeg, write_files, write_zip
from slimfer.data import folder
from slimfer.data.folder import class_order
from slimfer.data.loader import load
from slimfer.errors import InputError
from slimfer.labels import EMOTIONS


@pytest.fixture(params=["folder", "zip"])
def place(request, tmp_path):
    """Write files as a folder or as a .zip, and return its path."""

    def write(files):
        if request.param == "zip":
            return write_zip(tmp_path / "faces.zip", files)
        return write_files(tmp_path / "faces", files)

    return write


def labels(frames):
    return [frames.classes[i] for i in frames.labels]


def test_splits_and_classes(place):
    path = place(
        {
            "train/happy/b.jpg": jpeg(1),
            "train/happy/a.PNG": jpeg(2, kind="PNG"),
            "train/Anger/x.jpeg": jpeg(3),
            "val/surprised/y.jpg": jpeg(4, size=(60, 90)),
            "val/readme.txt": b"not a picture",
            "val/surprised/.hidden.jpg": b"",
            "__MACOSX/train/happy/b.jpg": b"",
        }
    )
    read = load(path)
    assert list(read) == ["train", "validation"]
    assert read["train"].classes == ("angry", "happy", "surprise")
    assert read["train"].names == ("train/Anger/x.jpeg", "train/happy/a.PNG", "train/happy/b.jpg")
    assert labels(read["train"]) == ["angry", "happy", "happy"]
    assert labels(read["validation"]) == ["surprise"]
    assert read["train"].images.shape == (3, 1, 48, 48)


@pytest.mark.parametrize("name", ["val", "valid", "dev", "Validation", "PublicTest"])
def test_names_of_the_validation_split(place, name):
    assert list(load(place({f"{name}/happy/a.jpg": jpeg()}))) == ["validation"]


def test_without_splits_all_is_train(place):
    read = load(place({"happy/a.jpg": jpeg(), "sad/b.jpg": jpeg(1)}))
    assert list(read) == ["train"]
    assert labels(read["train"]) == ["happy", "sad"]


@pytest.mark.parametrize("around", ["fer2013/", "a/b/"])
@pytest.mark.parametrize("inside", ["train/happy/a.jpg", "happy/a.jpg", "train/happy/1/2/a.jpg"])
def test_folders_around_it_are_looked_through(place, around, inside):
    read = load(place({around + inside: jpeg(), around + inside.replace("happy", "sad"): jpeg(1)}))
    assert list(read) == ["train"]
    assert sorted(labels(read["train"])) == ["happy", "sad"]


def test_single_class_is_a_class(place):
    read = load(place({"happy/a.jpg": jpeg(), "happy/b.jpg": jpeg(1)}))
    assert read["train"].classes == ("happy",)


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (set(EMOTIONS), EMOTIONS),
        ({"sad", "angry"}, ("angry", "sad")),
        ({*EMOTIONS, "contempt", "bored"}, (*EMOTIONS, "bored", "contempt")),
        ({"sad", "cat", "angry"}, ("angry", "cat", "sad")),
        ({"dog", "cat"}, ("cat", "dog")),
    ],
)
def test_class_order(names, order):
    assert class_order(names) == order


def test_size_and_colour_are_as_wanted(place):
    path = place({"train/a/x.jpg": jpeg(), "train/b/x.jpg": jpeg()})
    assert load(path, channels=3, image=20)["train"].images.shape == (2, 3, 20, 20)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"train/happy/a.jpg": jpeg()[:-40]}, r"train/happy/a\.jpg: the picture is truncated"),
        ({"train/happy/a.jpg": b""}, r"train/happy/a\.jpg: the picture is empty"),
        ({"train/happy/a.jpg": b"hello"}, r"train/happy/a\.jpg: not a picture"),
        ({"train/happy/a.tif": jpeg()}, r"train/happy/a\.tif: a picture in a format that is not read"),
        ({"train/a.jpg": jpeg()}, r"train/a\.jpg is in no class"),
        ({"a.jpg": jpeg()}, r"a\.jpg is in no class"),
        ({"train/happy/a.jpg": jpeg(), "sad/b.jpg": jpeg()}, r"sad/b\.jpg is in no split"),
        ({"val/happy/a.jpg": jpeg(), "valid/sad/b.jpg": jpeg()}, r"both val and valid are the split validation"),
        ({"notes.txt": b"hello"}, r"no pictures"),
    ],
)
def test_bad_pictures_and_layouts_are_named(place, files, sentence):
    with pytest.raises(InputError, match=sentence):
        load(place(files))


@pytest.mark.parametrize("around", ["", "fer2013/"])
def test_empty_split_is_refused(tmp_path, around):
    write_files(tmp_path, {f"{around}train/happy/a.jpg": jpeg()})
    (tmp_path / around / "validation" / "happy").mkdir(parents=True)
    with pytest.raises(InputError, match="the split validation is empty"):
        load(tmp_path)


def test_empty_split_of_a_zip_is_refused(tmp_path):
    path = write_zip(tmp_path / "faces.zip", {"train/happy/a.jpg": jpeg(), "validation/": b""})
    with pytest.raises(InputError, match="the split validation is empty"):
        load(path)


def test_links_to_folders_are_followed_once(tmp_path):
    write_files(tmp_path / "elsewhere", {"a.jpg": jpeg()})
    (tmp_path / "faces" / "train").mkdir(parents=True)
    os.symlink(tmp_path / "elsewhere", tmp_path / "faces" / "train" / "happy")
    os.symlink(tmp_path / "faces", tmp_path / "faces" / "train" / "sad")
    assert load(tmp_path / "faces")["train"].names == ("train/happy/a.jpg",)


@pytest.mark.parametrize("kind", ["folder", "zip"])
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts=st.lists(st.integers(1, 5), min_size=2, max_size=2), channels=st.sampled_from([1, 3]))
def test_round_trip(tmp_path, kind, counts, channels):
    original = {
        split: frames(n, seed=n, side=20, channels=channels) for split, n in zip(("train", "test"), counts, strict=True)
    }
    path = tmp_path / ("out.zip" if kind == "zip" else "out")
    getattr(folder, f"write_{kind}")(path, original)
    read = load(path, image=20, channels=channels)
    for split, wanted in original.items():
        names = labels(wanted)
        order = sorted(range(len(wanted)), key=lambda i, names=names: (names[i], i))
        assert (read[split].images == wanted.images[order]).all()
        assert labels(read[split]) == [names[i] for i in order]


def test_same_pictures_give_the_same_zip(tmp_path):
    for name in ("a.zip", "b.zip"):
        folder.write_zip(tmp_path / name, dataset(train=3))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_real_faces(real_faces):
    assert {split: len(f) for split, f in real_faces.items()} == {"train": 28_709, "validation": 3_589}
    assert real_faces["train"].classes == EMOTIONS
    counts = [int((real_faces["validation"].labels == i).sum()) for i in range(7)]
    assert counts == [467, 56, 496, 895, 653, 415, 607]
