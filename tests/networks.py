"""Networks for the tests of integers and export: each operation once, and a small one that has learnt something."""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import CLASSES, TINY, enliven, patterns
from slimfer.compress.quantize import quantize
from slimfer.data.frames import Frames
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import build
from slimfer.train.checkpoint import Checkpoint, weights_of
from slimfer.train.config import AugmentConfig, TrainConfig
from slimfer.train.loop import fit, initial

# Layers on (N, 6, 16, 16).
LAYERS = {
    "identity": nn.Identity, "relu": nn.ReLU, "relu6": nn.ReLU6, "leaky": lambda: nn.LeakyReLU(0.1), "elu": nn.ELU,
    "prelu": lambda: nn.PReLU(6), "silu": nn.SiLU, "gelu": nn.GELU, "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid, "hardtanh": lambda: nn.Hardtanh(-0.5, 0.7), "sigmoid": nn.Sigmoid, "tanh": nn.Tanh,
    "dropout": nn.Dropout, "max_pool": lambda: nn.MaxPool2d(3, 2, 1),
    "max_pool_ceil": lambda: nn.MaxPool2d(3, 2, ceil_mode=True), "adaptive": lambda: nn.AdaptiveAvgPool2d(4),
    "max_pool_dilated": lambda: nn.MaxPool2d(2, 1, dilation=2), "avg_pool": lambda: nn.AvgPool2d(3, 2, 1),
    "avg_pool_inside": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "adaptive_max": lambda: nn.AdaptiveMaxPool2d((4, 8)), "adaptive_max_all": lambda: nn.AdaptiveMaxPool2d(1),
    "zero_pad": lambda: nn.ZeroPad2d((1, 2, 0, 3)),
    "zero_pad_relu": lambda: nn.Sequential(nn.ZeroPad2d((1, 2, 0, 3)), nn.ReLU()), "norm": lambda: nn.BatchNorm2d(6),
    "depthwise": lambda: nn.Conv2d(6, 6, 3, groups=6), "grouped": lambda: nn.Conv2d(6, 4, 3, groups=2, padding=1),
    "dilated": lambda: nn.Conv2d(6, 5, 3, dilation=2, stride=(2, 1), padding=(1, 2)),
    "same": lambda: nn.Conv2d(6, 5, (5, 3), padding="same"), "valid": lambda: nn.Conv2d(6, 5, 3, padding="valid"),
}  # fmt: skip

# Functions of (N, 6, 16, 16).
FUNCTIONS = {
    "f_relu": F.relu, "f_relu_in_place": lambda x: F.relu(x, inplace=True), "m_relu": lambda x: x.relu(),
    "f_leaky": lambda x: F.leaky_relu(x, 0.2), "f_max_pool": lambda x: F.max_pool2d(x, 2),
    "f_avg_pool": lambda x: F.avg_pool2d(x, kernel_size=2, stride=1), "clamp": lambda x: x.clamp(-1, 1),
    "clamp_named": lambda x: torch.clamp(x, min=0, max=0.5), "add": lambda x: x + torch.tanh(x),
    "add_twice": lambda x: x + x, "scaled": lambda x: 2 * x - 0.5, "divided": lambda x: x / 4, "negative": lambda x: -x,
    "larger": lambda x: torch.maximum(x, x * 0.1), "smaller": lambda x: torch.minimum(x, torch.sigmoid(x)),
    "cat": lambda x: torch.cat((x, torch.relu(x)), 1), "cat_twice": lambda x: torch.cat([x, x], dim=-3),
    "mean": lambda x: x.mean((2, 3), keepdim=True), "largest": lambda x: torch.amax(x, (-2, -1), True),
    "gate": lambda x: x * torch.sigmoid(x.mean((2, 3)).view(-1, 6).view(x.size(0), 6, 1, 1)).expand_as(x),
    "squeeze": lambda x: x.mean((2, 3), keepdim=True).squeeze(-1).unsqueeze(3),
    "clone": lambda x: F.dropout(x.clone().contiguous().float(), training=False),
}  # fmt: skip


class Case(nn.Module):
    """Convolution and norm, the operation, convolution, pooled head."""

    def __init__(self, name: str, classes: int, channels: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.layer = LAYERS[name]() if name in LAYERS else nn.Identity()
        self.function = FUNCTIONS.get(name)
        with torch.no_grad():
            width = self.middle(torch.zeros(2, channels, 16, 16)).shape[1]
        self.second, self.last = nn.Conv2d(width, 8, 1), nn.Linear(8, classes)

    def middle(self, x: Tensor) -> Tensor:
        x = self.layer(self.norm(self.first(x)))
        return self.function(x) if self.function else x

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(self.middle(x)))
        return self.last(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def case(*, classes: int, channels: int, name: str) -> nn.Module:
    return Case(name, classes, channels)


def case_spec(name: str) -> NetSpec:
    return NetSpec("networks:case", classes=3, image=16, args={"name": name})


def untrained(spec: NetSpec) -> Checkpoint:
    """Random weights, lively norms, spread logits."""
    net = enliven(build(spec, seed=1), seed=2)
    return Checkpoint(spec, weights_of(net), tuple(f"class {i}" for i in range(spec.classes)))


def noise(n: int, side: int, *, channels: int = 1, classes: int = 7, seed: int = 0) -> Frames:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, channels, side, side), np.uint8)
    return Frames(images, rng.integers(0, classes, n), tuple(f"class {i}" for i in range(classes)))


@functools.cache
def learnt() -> Checkpoint:
    """A tiny net that reads the patterns of `helpers`."""
    torch.set_num_threads(1)
    config = TrainConfig(
        epochs=4, batch_size=32, lr=0.1, average=0.9, precision="fp32",
        augment=AugmentConfig(flip=False, rotate=0, shift=0, scale=0, light=0, erase=0),
    )  # fmt: skip
    return fit(initial(TINY, CLASSES, seed=0), patterns(640), patterns(128, seed=1), config)


@functools.cache
def integers() -> Checkpoint:
    """`learnt`, quantized."""
    return quantize(learnt(), patterns(256, seed=2))
