"""The truth by arithmetic alone (no torch), kept in tests/golden/complexity.json.

Renew the file with `python tests/model/test_complexity.py`.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from slimfer.errors import InputError
from slimfer.model.complexity import complexity
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import build

GOLDEN = Path(__file__).parent.parent / "golden" / "complexity.json"

VGG19 = (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512)


class Formula:
    """Sums of one network, layer by layer: a square picture of `side` pixels with `width` channels so far."""

    def __init__(self, channels, side):
        self.width, self.side = channels, side
        self.params = self.macs = self.activations = self.buffers = 0

    def conv(self, out, kernel, stride=1, bias=False):
        """A same-padded convolution and its BN: scale and shift to learn, mean, variance and a counter to store."""
        self.side = -(-self.side // stride)
        pixels = self.side**2
        self.params += kernel**2 * self.width * out + (out if bias else 0) + 2 * out
        self.macs += kernel**2 * self.width * out * pixels
        self.activations += out * pixels
        self.buffers += 2 * out * 4 + 8
        self.width = out

    def linear(self, out):
        self.params += self.width * out + out
        self.macs += self.width * out
        self.activations += out

    def totals(self):
        return {
            "params": self.params,
            "macs": self.macs,
            "activations": self.activations,
            "bytes": 4 * self.params + self.buffers,
        }


def vgg19_formula(classes, channels, conv_bias):
    net = Formula(channels, 48)
    for item in VGG19:
        if item == "M":
            net.side //= 2
        else:
            net.conv(item, 3, bias=conv_bias)
    net.linear(classes)
    return net.totals()


def resnet18_formula(stem_stride):
    net = Formula(1, 48)
    net.conv(64, 3, stem_stride)
    for width in (64, 128, 256, 512):
        for stride in (2 if width > 64 else 1, 1):
            before, side = net.width, net.side
            net.conv(width, 3, stride)
            net.conv(width, 3)
            if before != width:
                shortcut = Formula(before, side)
                shortcut.conv(width, 1, stride)
                for name in ("params", "macs", "activations", "buffers"):
                    setattr(net, name, getattr(net, name) + getattr(shortcut, name))
    net.linear(7)
    return net.totals()


CASES = {
    "vgg19, 10 classes, 3 channels": (
        NetSpec("vgg19", classes=10, channels=3),
        lambda: vgg19_formula(10, 3, False),
    ),
    "vgg19, 10 classes, 3 channels, conv bias": (
        NetSpec("vgg19", classes=10, channels=3, args={"conv_bias": True}),
        lambda: vgg19_formula(10, 3, True),
    ),
    "vgg19, 7 classes, 3 channels, conv bias": (
        NetSpec("vgg19", classes=7, channels=3, args={"conv_bias": True}),
        lambda: vgg19_formula(7, 3, True),
    ),
    "resnet18, stem stride 1": (NetSpec("resnet18", args={"stem_stride": 1}), lambda: resnet18_formula(1)),
    "resnet18, stem stride 2": (NetSpec("resnet18"), lambda: resnet18_formula(2)),
}


def regenerate():
    """Write the golden file from the formulas."""
    GOLDEN.write_text(json.dumps({name: formula() for name, (_, formula) in CASES.items()}, indent=2) + "\n")


def golden():
    return json.loads(GOLDEN.read_text())


def test_golden_file_is_what_the_formulas_give():
    assert golden() == {name: formula() for name, (_, formula) in CASES.items()}


def test_golden_counts_of_vgg19_are_the_published_ones():
    assert [row["params"] for name, row in golden().items() if "vgg" in name] == [20_035_018, 20_040_522, 20_038_983]


@pytest.mark.parametrize("name", CASES)
def test_counts_are_the_golden_ones(name):
    spec = CASES[name][0]
    counted = complexity(build(spec), spec.channels, spec.image)
    assert {key: getattr(counted, key) for key in golden()[name]} == golden()[name]
    assert counted.uncounted == ()


@pytest.mark.parametrize("builder", ["mobile", "resnet50", "vgg11"])
def test_rows_add_up_to_the_totals(builder):
    spec = NetSpec(builder, args={"width": 0.25})
    counted = complexity(build(spec), spec.channels, spec.image)
    assert sum(row.params for row in counted.layers) == counted.params
    assert sum(row.macs for row in counted.layers) == counted.macs > 0
    assert counted.uncounted == ()


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_grouped_convolution_divides_its_macs(groups):
    counted = complexity(nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 8, (3, 5), groups=groups)), 1, 10)
    row = counted.layers[1]
    assert row.shape == (8, 8, 6)
    assert row.macs == 8 * 8 * 6 * (4 // groups) * 3 * 5


def test_a_layer_that_runs_twice_costs_twice_and_weighs_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x))

    counted = complexity(Twice(), 1, 8)
    assert (counted.params, counted.macs, counted.activations) == (10, 2 * 9 * 64, 2 * 64)


class Odd(nn.Module):
    """Computes in every way that is not counted."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(1, 2, 2)
        self.recurrent = nn.LSTM(81, 4, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.inner = Inner()
        self.idle = nn.Linear(2, 3)

    def forward(self, x):
        y = self.recurrent(self.up(x).flatten(2))[0]
        return self.inner(self.attention(y, y, y)[0])


class Inner(nn.Module):
    def forward(self, y):
        return torch.matmul(y, y.transpose(1, 2))


def test_what_is_not_counted_is_named():
    counted = complexity(Odd(), 1, 8)
    assert counted.uncounted == (
        "up (ConvTranspose2d)",
        "recurrent (LSTM)",
        "attention (MultiheadAttention)",
        "inner (bmm called as a function)",
        "idle (Linear, never called)",
    )
    assert counted.macs == 0
    assert counted.params == sum(p.numel() for p in Odd().parameters())


def test_a_functional_convolution_is_named():
    class Functional(nn.Module):
        def forward(self, x):
            return nn.functional.conv2d(x, torch.ones(1, 1, 3, 3))

    assert complexity(Functional(), 1, 8).uncounted == ("Functional (convolution called as a function)",)


def test_the_network_is_left_as_it_was():
    net = build(NetSpec("mobile", args={"width": 0.25})).train()
    net.bn1.eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    complexity(net, 1, 48)
    assert net.training
    assert not net.bn1.training
    assert net.blocks[0].bn1.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_network_that_does_not_run_on_the_shape_is_refused():
    with pytest.raises(InputError, match=r"Sequential does not run on \(1, 3, 8, 8\)"):
        complexity(nn.Sequential(nn.Conv2d(1, 1, 3)), 3, 8)


if __name__ == "__main__":
    regenerate()
