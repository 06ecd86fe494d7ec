"""Small networks and pictures that many tests share; `helpers:planned` and `helpers:tiny` are builders for a spec."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from slimfer.data.frames import Frames
from slimfer.model.groups import ChannelMap
from slimfer.model.spec import NetSpec

CLASSES = ("angry", "happy", "neutral")


def patterns(n: int, *, side: int = 16, channels: int = 1, seed: int = 0) -> Frames:
    """Stripes in one of three directions, with noise, any phase and contrast: a small CNN learns them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    y, x = np.mgrid[:side, :side]
    along = np.stack([x, y, x + y])[labels]
    wave = np.sin(along * 1.6 + rng.uniform(0, 6.28, (n, 1, 1))) * rng.uniform(20, 60, (n, 1, 1))
    pixels = np.clip(128 + wave + rng.normal(0, 12, (n, side, side)), 0, 255).astype(np.uint8)
    return Frames(np.repeat(pixels[:, None], channels, 1), labels, CLASSES)


def spec_of(*plan: str, head: str = "pool", **values: int) -> NetSpec:
    return NetSpec(
        "helpers:planned", classes=3, image=values.pop("image", 8), args={"plan": plan, "head": head, **values}
    )


class ConvNorm(nn.Sequential):
    def __init__(self, w_in: int, w_out: int, kernel: int = 3, groups: int = 1) -> None:
        conv = nn.Conv2d(w_in, w_out, kernel, padding=kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(w_out))


class Plain(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.body, self.out = ConvNorm(w, w + 2), w + 2

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x))


class Residual(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.first, self.second, self.out = ConvNorm(w, w + 1), ConvNorm(w + 1, w), w
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.relu(self.first(x)))
        y += x
        return self.relu(y)


class Depthwise(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.body, self.out = ConvNorm(w, w, groups=w), w

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).relu_()


class Concat(nn.Module):
    """DenseNet: what came in, beside what was made of it."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.body, self.out = ConvNorm(w, 3), w + 3

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.relu(self.body(x))], dim=1)


class Twice(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.out = 2 * w

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, x), -3)


class ConcatAdd(nn.Module):
    """Two branches side by side, added to a third that is as wide as both."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = ConvNorm(w, 3), ConvNorm(w, 4), ConvNorm(w, 7), 7

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.cat([self.a(x), self.b(x)], 1).add(self.c(x)))


class Shared(nn.Module):
    """One layer called twice."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.body, self.out = ConvNorm(w, w), w

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(torch.relu(self.body(x))))


class Excite(nn.Module):
    """Squeeze and excitation, as it is usually written."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(w, 3), nn.ReLU(), nn.Linear(3, w), nn.Sigmoid())
        self.out = w

    def forward(self, x: Tensor) -> Tensor:
        n, w, _, _ = x.size()
        gate = self.fc(self.pool(x).view(n, w)).view(n, w, 1, 1)
        return x * gate.expand_as(x)


class ExciteConv(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.squeeze, self.excite, self.out = nn.Conv2d(w, 2, 1), nn.Conv2d(2, w, 1), w

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))


BLOCKS = {
    "plain": Plain, "residual": Residual, "depthwise": Depthwise, "concat": Concat, "twice": Twice,
    "concat_add": ConcatAdd, "shared": Shared, "excite": Excite, "excite_conv": ExciteConv,
}  # fmt: skip


class Planned(nn.Module):
    """A network of the named blocks; the head flattens pixels, averages them, or has a hidden layer."""

    def __init__(self, plan: Sequence[str], head: str, *, classes: int, channels: int, width: int, side: int) -> None:
        super().__init__()
        self.stem = ConvNorm(channels, width)
        blocks = []
        for name in plan:
            blocks.append(BLOCKS[name](width))
            width = blocks[-1].out
        self.blocks, self.head = nn.Sequential(*blocks), head
        self.hidden = nn.Linear(width * 9, 5) if head == "hidden" else nn.Identity()
        self.last = nn.Linear({"pool": width, "flatten": width * side * side // 4, "hidden": 5}[head], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.stem(x)))
        if self.head == "pool":
            return self.last(x.mean([2, 3]))
        if self.head == "flatten":
            x = nn.functional.max_pool2d(x, 2)
            return self.last(x.view(x.size(0), -1))
        x = nn.functional.adaptive_avg_pool2d(x, 3)
        return self.last(nn.functional.relu(self.hidden(torch.flatten(x, 1)), inplace=True))


def planned(
    *, classes: int, channels: int, plan: Sequence[str] = (), head: str = "pool", width: int = 4, side: int = 8
) -> nn.Module:
    return Planned(plan, head, classes=classes, channels=channels, width=width, side=side)


def tiny(*, classes: int, channels: int, dropout: float = 0.0) -> nn.Module:
    """A residual net with dropout that trains in milliseconds."""
    return nn.Sequential(
        ConvNorm(channels, 6), nn.ReLU(), nn.MaxPool2d(2), Residual(6), Depthwise(6), nn.MaxPool2d(2), Plain(6),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(8, classes),
    )  # fmt: skip


TINY = NetSpec("helpers:tiny", classes=3, image=16, args={"dropout": 0.1})


def enliven(net: nn.Module, seed: int = 0) -> nn.Module:
    """Give BN layers statistics, scales and shifts as after training."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.2, 1.2), (module.bias.data, -0.5, 0.5),
            ):  # fmt: skip
                tensor.uniform_(low, high, generator=generator)
    return net.eval()


def silence(channels: ChannelMap, removed: np.ndarray) -> None:
    """Make the channels zero wherever they are made: BN scale and shift, filters and biases."""
    for layer in channels.layers:
        gone = torch.as_tensor(np.isin(layer.outputs, removed))
        for name in ("weight", "bias"):
            if getattr(layer.module, name) is not None:
                getattr(layer.module, name).data[gone] = 0
