"""Residual networks (He et al. 2016, arXiv 1512.03385) with a stem for 48-pixel faces.

The stem is one 3x3 convolution with stride 2 and no max-pooling: at 48 px it costs a quarter of the CIFAR stem
(`stem_stride=1`) and still leaves 24, 12, 6 and 3 pixels for the four stages.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from slimfer.model.blocks import Head, conv_bn, scaled


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, w_in: int, w: int, stride: int) -> None:
        """Build a block from `w_in` to `w` channels."""
        super().__init__()
        self.conv1, self.bn1 = conv_bn(w_in, w, 3, stride)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv_bn(w, w)
        self.shortcut = _shortcut(w_in, w, stride)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, w_in, H, W) -> (N, w, H/stride, W/stride)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, w_in: int, w: int, stride: int) -> None:
        """Build a block from `w_in` to `4 w` channels."""
        super().__init__()
        w_out = w * self.expansion
        self.conv1, self.bn1 = conv_bn(w_in, w, 1)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv_bn(w, w, 3, stride)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3, self.bn3 = conv_bn(w, w_out, 1)
        self.shortcut = _shortcut(w_in, w_out, stride)
        self.relu3 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, w_in, H, W) -> (N, 4 w, H/stride, W/stride)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu3(y + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, four stages of blocks, head."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        *,
        classes: int,
        channels: int,
        width: float = 1.0,
        stem_stride: int = 2,
        dropout: float = 0.0,
    ) -> None:
        """Build the network; stage i (from 0) has `depths[i]` blocks of `64 * 2**i * width` channels."""
        super().__init__()
        stem, *_ = widths = [scaled(64 * 2**stage, width) for stage in range(4)]
        self.conv1, self.bn1 = conv_bn(channels, stem, 3, stem_stride)
        self.relu = nn.ReLU(inplace=True)
        ends = [stem, *(w * block.expansion for w in widths)]
        self.layer1 = _stage(block, depths[0], ends[0], widths[0], 1)
        self.layer2 = _stage(block, depths[1], ends[1], widths[1], 2)
        self.layer3 = _stage(block, depths[2], ends[2], widths[2], 2)
        self.layer4 = _stage(block, depths[3], ends[3], widths[3], 2)
        self.head = Head(ends[4], classes, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) normalized pixels -> (N, classes) logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.head(x)


def resnet18(*, classes: int, channels: int, **args: Any) -> ResNet:
    """ResNet-18: 11.17M parameters, 312 MMAC at 48 px, 1 channel, width 1."""
    return ResNet(BasicBlock, (2, 2, 2, 2), classes=classes, channels=channels, **args)


def resnet34(*, classes: int, channels: int, **args: Any) -> ResNet:
    """ResNet-34: basic blocks, depths 3, 4, 6, 3."""
    return ResNet(BasicBlock, (3, 4, 6, 3), classes=classes, channels=channels, **args)


def resnet50(*, classes: int, channels: int, **args: Any) -> ResNet:
    """ResNet-50: bottleneck blocks, depths 3, 4, 6, 3."""
    return ResNet(Bottleneck, (3, 4, 6, 3), classes=classes, channels=channels, **args)


def _stage(block: type[BasicBlock] | type[Bottleneck], depth: int, w_in: int, w: int, stride: int) -> nn.Sequential:
    first = block(w_in, w, stride)
    return nn.Sequential(first, *(block(w * block.expansion, w, 1) for _ in range(depth - 1)))


def _shortcut(w_in: int, w_out: int, stride: int) -> nn.Module:
    if stride == 1 and w_in == w_out:
        return nn.Identity()
    return nn.Sequential(*conv_bn(w_in, w_out, 1, stride))
