import pytest
import torch
from torch import nn

from helpers import spec_of
from slimfer.errors import InputError
from slimfer.model.groups import channel_map
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import MODELS, build

every_net = pytest.mark.parametrize("name", sorted(MODELS))


def shapes_only(spec: NetSpec) -> nn.Module:
    """The network without numbers: shapes are all that is asked, and large nets take seconds to fill."""
    with torch.device("meta"):
        return build(spec).eval()


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("classes", "bias", "count"), [(10, False, 20_035_018), (10, True, 20_040_522), (7, True, 20_038_983)]
)
def test_vgg19_has_the_known_number_of_parameters(classes, bias, count):
    spec = NetSpec("vgg19", classes=classes, channels=3, image=32, args={"conv_bias": bias})
    assert parameters(shapes_only(spec)) == count


def test_resnet18_has_the_known_number_of_parameters():
    # torchvision's 11,689,512 less its 7x7 RGB stem (9,408) and 1,000 classes (513,000), plus ours.
    assert parameters(shapes_only(NetSpec("resnet18"))) == 11_689_512 - 9_408 - 513_000 + 64 * 9 + 513 * 7


@every_net
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [0.1, 0.25, 0.5, 1, 1.5])
def test_every_net_reads_faces_at_any_width(name, channels, width):
    net = shapes_only(NetSpec(name, channels=channels, args={"width": width}))
    for side in (48, 32) if name.startswith("vgg") else (48,):
        assert net(torch.zeros(2, channels, side, side, device="meta")).shape == (2, 7)


@every_net
def test_every_net_can_be_followed(name):
    spec = NetSpec(name, args={"width": 0.1})
    channels = channel_map(build(spec), 1, 48)
    convs = [module for module in build(spec).modules() if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))]
    assert len(channels.layers) == len(convs)
    assert len(channels.free_atoms()) > 0


@every_net
def test_weights_follow_from_the_seed_alone(name):
    spec = NetSpec(name, args={"width": 0.1})
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = build(spec, seed=1, gamma=0.5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    same, other = build(spec, seed=1, gamma=0.5).state_dict(), build(spec, seed=2).state_dict()
    assert all(torch.equal(tensor, same[key]) for key, tensor in one.state_dict().items())
    assert not all(torch.equal(tensor, other[key]) for key, tensor in one.state_dict().items())
    assert all((m.weight == 0.5).all() and (m.bias == 0).all() for m in one.modules() if isinstance(m, nn.BatchNorm2d))


def test_own_builders_keep_their_weights_but_for_the_norm_scales():
    spec = spec_of("residual")
    one, half = build(spec, seed=1), build(spec, seed=1, gamma=0.5)
    for (key, a), b in zip(one.state_dict().items(), half.state_dict().values(), strict=True):
        scale = 0.5 if key.endswith("1.weight") else 1.0
        assert torch.equal(a * scale, b), key


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (NetSpec("resnet19"), "unknown network 'resnet19'; the zoo has microexpnet, "),
        (NetSpec("nowhere:net"), "cannot import nowhere:net"),
        (NetSpec("helpers:nothing"), "cannot import helpers:nothing"),
        (NetSpec(":x"), "cannot import :x"),
        (NetSpec("helpers:CLASSES"), "helpers:CLASSES is not a function"),
        (NetSpec("helpers:enliven"), "network helpers:enliven"),
        (NetSpec("resnet18", args={"depth": 3}), "network resnet18.*depth"),
        (NetSpec("resnet18", args={"width": 0}), "the width multiplier must be above 0, not 0"),
        (NetSpec("mobile", args={"width": float("nan")}), "the width multiplier"),
        (NetSpec("vgg11", args={"dropout": 2}), "network vgg11.*dropout"),
        (NetSpec("model.test_zoo:wrong_outputs"), r"must return logits of shape \(N, 7\), not \(2, 9\)"),
        (NetSpec("model.test_zoo:wrong_inputs"), "cannot read pictures of 48 px"),
        (NetSpec("builtins:dict"), "returned dict, not a torch module"),
        (NetSpec("resnet18", args={"width": 0.1}, widths={"conv9": 3}), "layer conv9, which the network does not have"),
        (NetSpec("resnet18", args={"width": 0.1}, widths={"conv1": 30}), "conv1 has 6 channels, the spec asks for 30"),
        (NetSpec("resnet18", args={"width": 0.1}, widths={"conv1": 3}), "layer conv1 contradicts|layer .* contradicts"),
        (NetSpec("resnet18", args={"width": 0.1}, widths={"head.linear": 3}), "cannot be cut: network output"),
    ],
    ids=lambda value: value.builder if isinstance(value, NetSpec) else "",
)
def test_what_cannot_be_built_is_refused_by_name(spec, words):
    with pytest.raises(InputError, match=words):
        build(spec)


def wrong_outputs(*, classes, channels):
    return nn.Sequential(nn.Conv2d(channels, 9, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def wrong_inputs(*, classes, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(100, classes))
