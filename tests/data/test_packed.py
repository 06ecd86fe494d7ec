import json
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.tables import dataset, frames, same
from slimfer.data.loader import load
from slimfer.data.packed import HEADER, write_packed
from slimfer.errors import InputError


@pytest.fixture
def packed(tmp_path):
    voted = frames(5, seed=9)
    write_packed(tmp_path / "p", {**dataset(train=7), "validation": replace(voted, votes=voted.targets())})
    return tmp_path / "p"


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.lists(st.integers(1, 6), min_size=3, max_size=3),
    side=st.integers(8, 20),
    channels=st.sampled_from([1, 3]),
    voted=st.booleans(),
    name=st.text(max_size=5),
)
def test_round_trip(tmp_path, counts, side, channels, voted, name):
    original = {}
    for split, n in zip(("train", "validation", "test"), counts, strict=True):
        one = frames(n, seed=n, side=side, channels=channels, classes=("a", "b"))
        votes = one.targets() if voted else None
        original[split] = replace(one, votes=votes, names=tuple(f"{name}{i}" for i in range(n)))
    write_packed(tmp_path / "p", original)
    read = load(tmp_path / "p", image=side, channels=channels)
    assert same(read, original)
    for split, one in read.items():
        assert one.names == original[split].names
        assert one.classes == ("a", "b")
        assert (one.votes is not None) == voted
        assert (one.targets() == original[split].targets()).all()


def test_pictures_are_mapped_and_read_only(packed):
    images = load(packed)["train"].images
    assert isinstance(images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


FILES = (
    *(HEADER, "train.images.u8", "train.labels.i64", "train.names.json"),
    *("validation.images.u8", "validation.labels.i64", "validation.votes.f32", "validation.names.json"),
)


def test_files(packed):
    assert sorted(path.name for path in packed.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["cut", "longer", "gone"])
def test_cut_or_missing_file_is_refused_by_name(packed, name, change):
    file = packed / name
    data = file.read_bytes()
    if change == "gone":
        file.unlink()
    else:
        file.write_bytes(data[:-2] if change == "cut" else data + b"\0")
    with pytest.raises(InputError) as refused:
        load(packed)
    # Without its header a packed folder is just a folder, and one without pictures.
    assert name in str(refused.value) or (name, change) == (HEADER, "gone")


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith("images.u8")])
def test_every_flipped_bit_outside_the_pictures_is_refused(packed, name):
    file = packed / name
    data = file.read_bytes()
    if name == HEADER:
        # White space around values means nothing in JSON, and so may change.
        data = json.dumps(json.loads(data), separators=(",", ":")).encode()
    for place in range(0, len(data) * 8, 19):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        file.write_bytes(changed)
        with pytest.raises(InputError) as refused:
            load(packed)
        assert name in str(refused.value)


def test_other_format_is_refused(packed):
    header = json.loads((packed / HEADER).read_text())
    (packed / HEADER).write_text(json.dumps({**header, "format": 2}))
    with pytest.raises(InputError, match="format 2; this version reads format 1"):
        load(packed)


@pytest.mark.parametrize("content", ["[]", "3", "{}", "nonsense", '{"sha256": 1, "kind": "run"}'])
def test_other_json_is_refused(packed, content):
    (packed / HEADER).write_text(content)
    with pytest.raises(InputError, match=HEADER):
        load(packed)


@pytest.mark.parametrize("wanted", [{"image": 32}, {"channels": 3}])
def test_other_size_is_refused(packed, wanted):
    with pytest.raises(InputError, match="is packed as 1 x 48 x 48, not"):
        load(packed, **wanted)


def test_failure_while_packing_leaves_nothing(tmp_path):
    strange = replace(frames(2), names=("a", b"bytes are no JSON"))
    with pytest.raises(TypeError):
        write_packed(tmp_path / "p", {**dataset(train=3), "test": strange})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.alone
def test_real_faces_open_in_under_a_second(tmp_path, real_faces):
    write_packed(tmp_path / "p", real_faces)
    start = time.monotonic()
    read = load(tmp_path / "p")
    seconds = time.monotonic() - start
    assert same(read, real_faces)
    assert seconds < 1
