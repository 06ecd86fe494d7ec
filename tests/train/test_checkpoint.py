import json

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import TINY, spec_of
from slimfer.errors import InputError
from slimfer.model.groups import channel_map
from slimfer.model.narrow import remove_atoms
from slimfer.model.spec import NetSpec
from slimfer.train.checkpoint import FORMAT, Checkpoint, load_tensors, save_tensors, weights_of
from slimfer.train.loop import initial

LABELS = ("angry", "happy", "neutral")
dtypes = st.sampled_from(
    [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.uint8, torch.bool]
)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


def checkpoint() -> Checkpoint:
    lineage = ({"step": "train", "config": {"lr": 0.1}, "scores": {"accuracy": 0.5}},)
    start = initial(TINY, LABELS, seed=1)
    return Checkpoint(start.spec, start.weights, LABELS, lineage, {"conv.scale": torch.rand(3)})


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b) for a, b in ((one[k], other[k]) for k in one)
    )


def test_round_trip_is_bit_equal(tmp_path):
    saved = checkpoint()
    saved.save(tmp_path / "a.safetensors")
    loaded = Checkpoint.load(tmp_path / "a.safetensors")
    assert equal(loaded.weights, saved.weights)
    assert equal(loaded.quant, saved.quant)
    assert (loaded.spec.to_dict(), loaded.labels, loaded.lineage) == (saved.spec.to_dict(), LABELS, saved.lineage)
    assert loaded.digest() == saved.digest()


def test_equal_checkpoints_are_equal_files(tmp_path):
    # safetensors itself writes metadata in a random order: of ten files some would differ.
    saved = checkpoint()
    for index in range(10):
        saved.save(tmp_path / str(index))
    Checkpoint.load(tmp_path / "0").save(tmp_path / "again")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


@given(st.dictionaries(st.text(max_size=6), st.tuples(dtypes, shapes), max_size=5), st.text())
@settings(max_examples=50, deadline=None)
def test_any_tensors_and_texts_survive(tmp_path_factory, contents, text):
    path = tmp_path_factory.mktemp("any") / "a"
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: (torch.rand(shape, generator=generator) * 100).to(dtype) for name, (dtype, shape) in contents.items()
    }
    save_tensors(path, tensors, {"text": text})
    loaded, meta = load_tensors(path)
    assert equal(loaded, tensors)
    assert meta == {"format": FORMAT, "text": text}
    assert equal(safetensors.torch.load_file(path), tensors)


def test_every_flipped_bit_and_every_cut_is_refused(tmp_path):
    path = tmp_path / "small.safetensors"
    save_tensors(path, {"weights.a": torch.arange(3.0), "weights.b": torch.tensor(True)}, {"kind": "checkpoint"})
    good = path.read_bytes()
    damaged = [bytes([*good[:at], good[at] ^ 1 << bit, *good[at + 1 :]]) for at in range(len(good)) for bit in range(8)]
    for data in [*damaged, *(good[:end] for end in range(len(good))), good + b"\0"]:
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"small\.safetensors: "):
            load_tensors(path)
    path.write_bytes(good)
    load_tensors(path)


def test_strange_files_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="nothing: no such file"):
        Checkpoint.load(tmp_path / "nothing")
    with pytest.raises(InputError, match="no such file"):
        Checkpoint.load(tmp_path)
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(InputError, match="other: a safetensors file, but not one of slimfer's"):
        Checkpoint.load(tmp_path / "other")
    save_tensors(tmp_path / "state", {}, {"kind": "state"})
    with pytest.raises(InputError, match="state: a state, not a network checkpoint"):
        Checkpoint.load(tmp_path / "state")
    save_tensors(tmp_path / "poor", {}, {"kind": "checkpoint", "labels": []})
    with pytest.raises(InputError, match="poor: a network checkpoint without lineage, spec"):
        Checkpoint.load(tmp_path / "poor")


def test_a_newer_format_is_named_as_such_whatever_its_hash(tmp_path):
    header = json.dumps({"format": FORMAT + 1, "kind": "checkpoint"})
    data = safetensors.torch.save({}, {"slimfer": header, "sha256": "taken in another way"})
    (tmp_path / "new").write_bytes(data)
    with pytest.raises(InputError, match=f"new: format {FORMAT + 1} is newer than {FORMAT}"):
        Checkpoint.load(tmp_path / "new")


def test_build_gives_the_network_back_and_refuses_weights_of_another():
    saved = initial(TINY, LABELS, seed=1)
    net = saved.build()
    assert not net.training
    assert equal(weights_of(net), saved.weights)
    with pytest.raises(InputError, match="weights do not fit the network resnet18: ") as caught:
        Checkpoint(NetSpec("resnet18"), saved.weights, LABELS).build()
    assert "\n" not in str(caught.value)


def test_a_cut_network_comes_back_from_disk_bit_equal(tmp_path):
    start = initial(spec_of("residual", "depthwise", "concat_add"), LABELS, seed=2)
    net = start.build()
    channels = channel_map(net, 1, 8)
    widths = remove_atoms(channels, channels.free_atoms()[::3])
    start.after("prune", net, spec=start.spec.with_widths(widths), ratio=0.3).save(tmp_path / "cut")
    loaded = Checkpoint.load(tmp_path / "cut")
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded.build()(x), net(x))
    assert loaded.lineage == ({"step": "prune", "ratio": 0.3},)


def test_weights_are_copies_in_plain_layout():
    net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    weights = weights_of(net)
    before = weights["weight"].clone()
    net.weight.data.zero_()
    assert weights["weight"].is_contiguous()
    assert torch.equal(weights["weight"], before)
