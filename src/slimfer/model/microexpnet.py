"""MicroExpNet: two convolutions and one hidden layer (Cugu, Sener, Akbas 2017, arXiv 1711.07011).

An 8x8 convolution to 16 channels, a 4x4 one with stride 2 to 32, a hidden layer, the classes. The four networks differ
in where they pool (see `VARIANTS`); those with pooling after the second convolution have a hidden layer that is three
times as wide. The four sizes divide the hidden layer's width by 1, 4, 8 or 16. There is no batch normalization.

The published networks read 84 px and pad as TensorFlow's `SAME` does, which depends on the size of the picture and can
be one pixel more after than before. Here the picture may have any size; at 48 px all padding is even.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from slimfer.errors import InputError
from slimfer.model.blocks import scaled


@dataclass(frozen=True)
class Variant:
    """Stride of the first convolution, 2x2 max-pooling after each convolution or not, width of the hidden layer."""

    stride: int
    pool1: bool
    pool2: bool
    hidden: int


VARIANTS: Mapping[str, Variant] = {
    "v": Variant(4, False, False, 256),
    "p1": Variant(2, True, False, 256),
    "p2": Variant(4, False, True, 768),
    "p12": Variant(2, True, True, 768),
}
SIZES: Mapping[str, int] = {"M": 1, "S": 4, "XS": 8, "XXS": 16}


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the zeros (before, after) with which an axis of `side` pixels gives ceil(side / stride) outputs.

    As TensorFlow's `SAME`: what cannot be shared evenly goes after.
    """
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


class MicroExpNet(nn.Module):
    """Convolution, ReLU, pooling, twice; hidden layer, ReLU, dropout, classes."""

    def __init__(
        self,
        variant: str,
        *,
        classes: int,
        channels: int,
        image: int,
        size: str = "XXS",
        width: float = 1.0,
        dropout: float = 0.5,
    ) -> None:
        """Build the network; `width` multiplies every channel count and, besides `size`, the hidden layer's width.

        Raises:
            InputError: if `size` is none of `SIZES`.
        """
        super().__init__()
        if size not in SIZES:
            raise InputError(f"size must be one of {', '.join(SIZES)}, not {size}")
        plan = VARIANTS[variant]
        w1, w2, hidden = (scaled(count, width) for count in (16, 32, plan.hidden // SIZES[size]))
        side = image
        self.pad1, self.conv1 = _same_conv(channels, w1, 8, plan.stride, side)
        side = -(-side // plan.stride)
        self.relu1 = nn.ReLU(inplace=True)
        self.pool1, side = _same_pool(plan.pool1, side)
        self.pad2, self.conv2 = _same_conv(w1, w2, 4, 2, side)
        side = -(-side // 2)
        self.relu2 = nn.ReLU(inplace=True)
        self.pool2, side = _same_pool(plan.pool2, side)
        self.flatten = nn.Flatten()
        self.hidden = nn.Linear(w2 * side**2, hidden)
        self.relu3 = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.linear = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, image, image) normalized pixels -> (N, classes) logits."""
        x = self.pool1(self.relu1(self.conv1(self.pad1(x))))
        x = self.pool2(self.relu2(self.conv2(self.pad2(x))))
        x = self.dropout(self.relu3(self.hidden(self.flatten(x))))
        return self.linear(x)


def _same_conv(w_in: int, w_out: int, kernel: int, stride: int, side: int) -> tuple[nn.Module, nn.Conv2d]:
    """Return the padding that a convolution cannot do by itself, if any is left, and the convolution."""
    before, after = same_padding(side, kernel, stride)
    if before == after:
        return nn.Identity(), nn.Conv2d(w_in, w_out, kernel, stride, before)
    return nn.ZeroPad2d((before, after, before, after)), nn.Conv2d(w_in, w_out, kernel, stride)


def _same_pool(pools: bool, side: int) -> tuple[nn.Module, int]:
    """Return 2x2 max-pooling, or nothing, and the side after it; an odd side keeps its last row and column."""
    return (nn.MaxPool2d(2, ceil_mode=True), -(-side // 2)) if pools else (nn.Identity(), side)


def microexpnet(*, classes: int, channels: int, image: int, **args: Any) -> MicroExpNet:
    """The published network, with both poolings (p12): 65,000 parameters at 84 px, 8 classes and size XXS."""
    return MicroExpNet("p12", classes=classes, channels=channels, image=image, **args)


def microexpnet_p1(*, classes: int, channels: int, image: int, **args: Any) -> MicroExpNet:
    """Pooling after the first convolution: 71,368 parameters at 84 px, 8 classes and size XXS."""
    return MicroExpNet("p1", classes=classes, channels=channels, image=image, **args)


def microexpnet_p2(*, classes: int, channels: int, image: int, **args: Any) -> MicroExpNet:
    """Pooling after the second convolution: 65,000 parameters at 84 px, 8 classes and size XXS."""
    return MicroExpNet("p2", classes=classes, channels=channels, image=image, **args)


def microexpnet_v(*, classes: int, channels: int, image: int, **args: Any) -> MicroExpNet:
    """No pooling: 71,368 parameters at 84 px, 8 classes and size XXS."""
    return MicroExpNet("v", classes=classes, channels=channels, image=image, **args)
