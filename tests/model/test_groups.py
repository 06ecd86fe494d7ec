import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from helpers import BLOCKS, enliven, planned
from slimfer.errors import InputError
from slimfer.model.blocks import conv_bn
from slimfer.model.groups import ChannelMap, channel_map, trace
from slimfer.model.mode import evaluating
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import build


class Middle(nn.Module):
    """A stem of 4 channels, what is asked for, a linear head (after a mean over pixels, if it has few features)."""

    def __init__(self, middle: nn.Module | None = None, features: int = 4, function=None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.middle = middle or nn.Identity()
        self.function = function or (lambda net, x: net.middle(x))
        self.pool = features < 10
        self.last = nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(self, self.stem(x))
        return self.last(x.mean((2, 3)) if self.pool else x)


def through(function, *, features: int = 4, **members: object) -> Middle:
    """A network whose middle is `function(net, x)`, x of shape (N, 4, 6, 6), with more members."""
    net = Middle(features=features, function=function)
    for name, member in members.items():
        setattr(net, name, member)
    return net


def atoms_of(net: nn.Module) -> tuple[ChannelMap, dict[str, list[int]]]:
    channels = channel_map(net, 1, 6)
    return channels, {layer.name: layer.outputs.tolist() for layer in channels.layers}


# --- what is followed -------------------------------------------------------------------------------------------------


def test_residual_streams_of_a_resnet_are_one():
    channels, out = atoms_of(build(NetSpec("resnet18", image=8, args={"width": 0.125})))
    assert out["conv1"] == out["layer1.0.conv2"] == out["layer1.1.conv2"] == out["layer1.1.bn2"]
    assert out["layer2.0.conv2"] == out["layer2.0.shortcut.0"] == out["layer2.1.conv2"]
    assert not set(out["conv1"]) & set(out["layer1.0.conv1"])
    assert [channels.locked[a] for a in out["head.linear"]] == ["network output"] * 7


def test_depthwise_passes_on_and_concat_lists():
    channels, out = atoms_of(planned(classes=3, channels=1, plan=("depthwise", "concat", "twice")))
    assert out["blocks.0.body.0"] == out["stem.0"]
    assert [layer.name for layer in channels.layers if layer.depthwise] == ["blocks.0.body.0"]
    last = next(layer for layer in channels.layers if layer.name == "last")
    assert last.inputs.tolist() == (out["stem.0"] + out["blocks.1.body.0"]) * 2


def test_flatten_repeats_each_channel_once_per_pixel():
    flattened = [lambda net, x: x.flatten(1), lambda net, x: torch.flatten(x, 1), lambda net, x: x.view(x.size(0), -1),
                 lambda net, x: x.reshape(x.shape[0], -1), lambda net, x: x.view((x.size(0), -1)),
                 lambda net, x: torch.reshape(x, (x.size(0), x.size(1) * x.size(2) * x.size(3)))]  # fmt: skip
    for function in flattened:
        channels, out = atoms_of(through(function, features=4 * 36))
        assert channels.layers[-1].inputs.tolist() == [a for a in out["stem"] for _ in range(36)]
        assert not set(out["stem"]) & channels.locked.keys()


def test_shared_layers_have_the_same_channels_each_time():
    channels, out = atoms_of(planned(classes=3, channels=1, plan=("shared",)))
    assert [layer.name for layer in channels.layers].count("blocks.0.body.0") == 1
    shared = next(layer for layer in channels.layers if layer.name == "blocks.0.body.0")
    assert shared.inputs.tolist() == shared.outputs.tolist() == out["stem.0"]


def test_a_gate_of_one_value_per_channel_joins_but_a_map_of_one_channel_is_locked():
    _, out = atoms_of(planned(classes=3, channels=1, plan=("excite", "excite_conv")))
    assert out["blocks.0.fc.2"] == out["stem.0"] == out["blocks.1.excite"]
    channels, out = atoms_of(through(lambda net, x: x * torch.sigmoid(net.map(x)), map=nn.Conv2d(4, 1, 1)))
    assert "spread over all channels" in channels.locked[out["map"][0]]
    assert not set(out["stem"]) & channels.locked.keys()


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: x + 1 - x / 2,
        lambda net, x: -x,
        lambda net, x: x + x,
        lambda net, x: torch.maximum(x, net.scalar),
        lambda net, x: x * net.scalar + net.picture,
        lambda net, x: x + torch.ones(1, 6),
        lambda net, x: x.amax(-1, keepdim=True),
        lambda net, x: x.mean([-1, -2]).unsqueeze(-1).unsqueeze(3),
        lambda net, x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1).view(x.size(0), -1, 1, 1),
        lambda net, x: F.max_pool2d(F.relu(x, inplace=True), 2).clamp(min=0).clone(),
        lambda net, x: torch.max_pool2d(x.relu(), 2),
        lambda net, x: x.view(x.size(0), -1, 36).view(x.size(0), x.size(1), 6, 6),
    ],
)
def test_channels_stay_in_place_and_free(function):
    net = through(function, scalar=nn.Parameter(torch.ones(1)), picture=nn.Parameter(torch.ones(1, 1, 6, 6)))
    channels, out = atoms_of(net)
    assert channels.layers[-1].inputs.tolist() == out["stem"]
    assert channels.free_atoms().tolist() == out["stem"]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda net, x: x.view(-1, 144), "the size 144 is written into the reshape view"),
        (lambda net, x: x.reshape([x.size(0), 144]), "the size 144 is written into the reshape reshape"),
        (lambda net, x: x.view(-1, 4, 36).flatten(1), "the size 4 is written into the reshape view"),
        (lambda net, x: (x + net.bias).flatten(1), "constant bias has one value per channel"),
        (lambda net, x: (net.bias[0] * x).flatten(1), "constant getitem has one value per channel"),
        (lambda net, x: (x + torch.ones(4, 1, 1)).flatten(1), "constant _tensor_constant0 has one value per channel"),
        (lambda net, x: net.prelu(x).flatten(1), "one slope per channel in prelu"),
        (lambda net, x: net.grouped(x).flatten(1), "grouped convolution grouped"),
    ],
)
def test_what_is_followed_but_cannot_be_cut_is_locked_with_a_reason(function, reason):
    net = through(
        function, features=144, bias=nn.Parameter(torch.ones(1, 4, 1, 1)), prelu=nn.PReLU(4),
        grouped=nn.Conv2d(4, 4, 1, groups=2),
    )  # fmt: skip
    channels, out = atoms_of(net)
    assert [channels.locked[a] for a in out["stem"]] == [reason] * 4
    assert len(channels.free_atoms()) == 0


# --- what is refused --------------------------------------------------------------------------------------------------


class OwnConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias, padding=1)


def tied() -> Middle:
    net = through(lambda net, x: net.second(net.first(x)), first=nn.Conv2d(4, 4, 1), second=nn.Conv2d(4, 4, 1))
    net.second.weight = net.first.weight
    return net


REFUSED = {
    "functional linear": (
        through(lambda net, x: F.linear(x.mean((2, 3)), net.last.weight)), r"linear \(node linear\)",
    ),
    "functional conv": (
        through(lambda net, x: F.conv2d(x, net.stem.weight.transpose(0, 1))), r"through conv2d \(node conv2d\)",
    ),
    "weight read outside": (
        through(lambda net, x: x * net.norm.weight.view(1, -1, 1, 1) + net.norm(x), norm=nn.BatchNorm2d(4)),
        "norm.weight is read outside of its layer norm",
    ),
    "tied": (tied(), "layers first and second share weights"),
    "weight norm": (through(lambda net, x: net.conv(x), conv=parametrizations.weight_norm(nn.Conv2d(4, 4, 1))), "conv"),
    "own forward": (Middle(OwnConv(4, 4, 3)), "OwnConv has a forward of its own"),
    "chunk": (through(lambda net, x: x.chunk(2, 1)[0], features=2), r"through chunk \(node chunk\)"),
    "split": (through(lambda net, x: torch.split(x, 2, 1)[0], features=2), "through split"),
    "slice": (through(lambda net, x: x[:, :2], features=2), r"through getitem \(node getitem\)"),
    "indices": (through(lambda net, x: F.max_pool2d(x, 2, return_indices=True)[0]), "several tensors|cannot trace"),
    "conv1d": (through(lambda net, x: net.conv(x.flatten(2)), conv=nn.Conv1d(4, 4, 1)), "a Conv1d"),
    "transposed": (Middle(nn.ConvTranspose2d(4, 4, 3)), "through middle .*ConvTranspose2d"),
    "group norm": (Middle(nn.GroupNorm(2, 4)), "a GroupNorm"),
    "softmax": (through(lambda net, x: torch.softmax(x, 1)), "through softmax"),
    "permute": (through(lambda net, x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2)), "through permute"),
    "linear on pixels": (Middle(nn.Linear(6, 6)), "a Linear that reads a tensor of 4 axes"),
    "mean of channels": (through(lambda net, x: x.mean(1, keepdim=True).expand_as(x)), "only the axes of the pixels"),
    "mean of all": (through(lambda net, x: x * x.mean()), "only the axes of the pixels"),
    "squeeze": (through(lambda net, x: x.mean((2, 3), keepdim=True).squeeze()), "only the axes of the pixels"),
    "cat along rows": (through(lambda net, x: torch.cat([x, x], 2)), "side by side along axis 1"),
    "cat with constant": (through(lambda net, x: torch.cat([x, net.c], 1), features=5, c=torch.ones(2, 1, 6, 6)),
                          "one of the tensors has no channels"),
    "flatten all": (through(lambda net, x: x.flatten().view(2, -1), features=144), "mixes pictures"),
    "merge pictures": (through(lambda net, x: x.view(-1, 288), features=288), "mixes pictures"),
    "shuffle": (through(lambda net, x: x.view(x.size(0), 2, 2, 6, 6).flatten(1), features=144), "mixes channels"),
    "matmul": (through(lambda net, x: x @ x), "through matmul"),
    "odd broadcast": (through(lambda net, x: x + x.mean((2, 3))[:1, :1].T), "getitem"),
    "rank broadcast": (through(lambda net, x: x + net.to6(x.mean((2, 3))), to6=nn.Linear(4, 6)), "cannot read|match"),
    "data-dependent": (through(lambda net, x: x if x.sum() > 0 else -x), "torch.fx cannot trace Middle"),
    "wrong rank": (nn.Sequential(Middle(), Middle()), "cannot read pictures"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(name):
    net, words = REFUSED[name]
    with pytest.raises(InputError, match=words) as caught:
        channel_map(net, 1, 6)
    assert "\n" not in str(caught.value)


def test_pictures_that_are_too_small_are_refused():
    with pytest.raises(InputError, match=r"VGG cannot read pictures of shape \(1, 8, 8\)"):
        channel_map(build(NetSpec("vgg11", args={"width": 0.1})), 1, 8)


def test_networks_that_return_more_than_logits_are_refused():
    class Two(Middle):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, super().forward(x)

    with pytest.raises(InputError, match="must return one tensor"):
        channel_map(Two(), 1, 6)


# --- the network is left as it was ------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(sorted(BLOCKS)), max_size=3), st.lists(st.booleans(), min_size=40, max_size=40))
@settings(max_examples=20, deadline=None)
def test_following_changes_neither_numbers_nor_modes(plan, modes):
    net = enliven(planned(classes=3, channels=1, plan=plan))
    for module, mode in zip(net.modules(), modes * 2, strict=False):
        module.training = mode
    state = copy.deepcopy(net.state_dict())
    flags = [module.training for module in net.modules()]
    channel_map(net, 1, 8)
    assert [module.training for module in net.modules()] == flags
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    with evaluating(net):
        assert not any(module.training for module in net.modules())
    assert [module.training for module in net.modules()] == flags


@given(st.lists(st.sampled_from(sorted(BLOCKS)), max_size=4))
@settings(max_examples=20, deadline=None)
def test_the_graph_computes_what_the_network_does(plan):
    net = enliven(planned(classes=3, channels=1, plan=plan))
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(trace(net)(x), net(x))


def test_a_network_without_layers_has_no_channels():
    assert channel_map(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), 3, 6).free_atoms().tolist() == []


def test_channels_of_a_narrowed_depthwise_pair_stay_distinct():
    conv, norm = conv_bn(4, 4, groups=4)
    _, out = atoms_of(through(lambda net, x: net.norm(net.conv(x)), conv=conv, norm=norm))
    assert out["stem"] == out["conv"] == out["norm"]
    assert len(np.unique(out["stem"])) == 4
