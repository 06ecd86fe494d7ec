import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import BLOCKS, enliven, planned, silence, spec_of
from slimfer.errors import InputError
from slimfer.model.groups import ChannelMap, channel_map
from slimfer.model.narrow import remove_atoms
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import build

plans = st.lists(st.sampled_from(sorted(BLOCKS)), max_size=4)
heads = st.sampled_from(["pool", "flatten", "hidden"])
ZOO = [NetSpec("resnet18"), NetSpec("resnet50"), NetSpec("vgg11"), NetSpec("mobile")]


def some_atoms(channels: ChannelMap, rng: np.random.Generator) -> np.ndarray:
    """Any free channels whose removal leaves every layer at least one."""
    removed: list[int] = []
    for atom in rng.permutation(channels.free_atoms())[: rng.integers(1, 30)]:
        trial = [*removed, int(atom)]
        if all(not np.isin(a, trial).all() for layer in channels.layers for a in (layer.inputs, layer.outputs)):
            removed = trial
    return np.array(removed, dtype=np.int64)


def pictures(spec: NetSpec) -> torch.Tensor:
    return torch.randn(3, spec.channels, spec.image, spec.image, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def check_surgery(spec: NetSpec, seed: int) -> None:
    net = enliven(build(spec, seed=seed), seed)
    x = pictures(spec)
    channels = channel_map(net, spec.channels, spec.image)
    depthwise = [layer.depthwise for layer in channels.layers]
    removed = some_atoms(channels, np.random.default_rng(seed))
    silence(channels, removed)
    before, parameters = net(x), sum(p.numel() for p in net.parameters())

    widths = remove_atoms(channels, removed)

    after = net(x)
    assert torch.allclose(after, before, rtol=1e-5, atol=1e-5)
    assert (sum(p.numel() for p in net.parameters()) < parameters) == (len(removed) > 0) == bool(widths)
    # The same structure, from the numbers alone; and what is cut once can be cut again.
    rebuilt = build(spec.with_widths(widths), seed=seed + 1).eval()
    rebuilt.load_state_dict(net.state_dict())
    assert torch.equal(rebuilt(x), after)
    again = channel_map(rebuilt, spec.channels, spec.image)
    # (A depthwise convolution of one channel is a plain one, which makes a channel of its own.)
    alone = sum(old and not new.depthwise for old, new in zip(depthwise, again.layers, strict=True))
    assert len(again.free_atoms()) == len(channels.free_atoms()) - len(removed) + alone


@given(plans, heads, st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_silent_channels_go_without_a_trace(plan, head, seed):
    check_surgery(spec_of(*plan, head=head), seed)


@pytest.mark.parametrize("spec", ZOO, ids=lambda spec: spec.builder)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=5, deadline=None)
def test_silent_channels_go_without_a_trace_in_the_zoo(spec, seed):
    check_surgery(NetSpec(spec.builder, image=32, args={"width": 0.07}), seed)


@pytest.mark.parametrize("block", sorted(BLOCKS))
@torch.no_grad()
def test_loud_channels_do_leave_a_trace(block):
    spec = spec_of(block, "plain", head="flatten")
    before = enliven(build(spec))(pictures(spec))
    traces = []
    for channel in range(4):
        net = enliven(build(spec))
        channels = channel_map(net, 1, spec.image)
        stem = next(layer for layer in channels.layers if layer.name == "stem.0")
        remove_atoms(channels, stem.outputs[channel : channel + 1])
        traces.append(float((net(pictures(spec)) - before).abs().max()))
    assert max(traces) > 5e-4, traces  # fifty times what silent channels may change


def test_branches_side_by_side_may_be_cut_unevenly():
    spec = spec_of("concat_add")
    net = build(spec)
    channels = channel_map(net, 1, spec.image)
    named = {layer.name: layer.outputs for layer in channels.layers}
    widths = remove_atoms(channels, np.concatenate([named["blocks.0.a.0"][:2], named["blocks.0.b.0"][1:2]]))
    assert widths == {"blocks.0.a.0": 1, "blocks.0.b.0": 3, "blocks.0.c.0": 4}
    rebuilt = build(spec.with_widths(widths))
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}
    with pytest.raises(InputError, match=r"the full width of layer blocks\.0\.c\.0 contradicts"):
        build(spec.with_widths({"blocks.0.a.0": 1}))
    with pytest.raises(InputError, match=r"the width 2 of layer .* contradicts"):
        build(spec.with_widths({**widths, "blocks.0.c.0": 2}))


def test_nothing_is_cut_when_something_cannot_be():
    net = planned(classes=3, channels=1, plan=("residual",))
    channels = channel_map(net, 1, 8)
    before = copy.deepcopy(net.state_dict())
    named = {layer.name: layer for layer in channels.layers}
    for removed, words in (
        (named["stem.0"].outputs, "layer stem.0 would be left without channels"),
        (named["stem.0"].inputs, "cannot be cut: network input"),
        (named["last"].outputs[:1], "cannot be cut: network output"),
    ):
        with pytest.raises(InputError, match=words):
            remove_atoms(channels, removed)
    assert {k: v.tolist() for k, v in net.state_dict().items()} == {k: v.tolist() for k, v in before.items()}


def test_norms_without_scale_or_statistics_and_frozen_layers():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 5, 3),
        nn.BatchNorm2d(5, track_running_stats=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip
    net[0].weight.requires_grad_(False)
    channels = channel_map(net, 1, 8)
    remove_atoms(channels, np.concatenate([channels.layers[0].outputs[:1], channels.layers[2].outputs[:2]]))
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert not net[0].weight.requires_grad
    assert net[2].weight.requires_grad
    assert (net[1].num_features, net[3].num_features, net[6].in_features) == (3, 3, 3)
