"""A small depthwise-separable network for 48-pixel faces (MobileNet v1, Howard et al. 2017, arXiv 1704.04861)."""

from typing import Any

from torch import Tensor, nn

from slimfer.model.blocks import Head, conv_bn, scaled

# (output channels, stride) of each depthwise-separable block.
BLOCKS = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (128, 1), (256, 2), (256, 1))


class DepthwiseSeparable(nn.Module):
    """3x3 depthwise convolution, then 1x1 convolution, each with BN and ReLU."""

    def __init__(self, w_in: int, w_out: int, stride: int) -> None:
        """Build a block from `w_in` to `w_out` channels."""
        super().__init__()
        self.depthwise, self.bn1 = conv_bn(w_in, w_in, 3, stride, groups=w_in)
        self.relu1 = nn.ReLU(inplace=True)
        self.pointwise, self.bn2 = conv_bn(w_in, w_out, 1)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, w_in, H, W) -> (N, w_out, H/stride, W/stride)."""
        x = self.relu1(self.bn1(self.depthwise(x)))
        return self.relu2(self.bn2(self.pointwise(x)))


class MobileNet(nn.Module):
    """Stem, eight depthwise-separable blocks, head."""

    def __init__(
        self, *, classes: int, channels: int, width: float = 1.0, stem_stride: int = 2, dropout: float = 0.0
    ) -> None:
        """Build the network; every channel count is multiplied by `width`."""
        super().__init__()
        w_in = scaled(32, width)
        self.conv1, self.bn1 = conv_bn(channels, w_in, 3, stem_stride)
        self.relu = nn.ReLU(inplace=True)
        blocks = []
        for item, stride in BLOCKS:
            w_out = scaled(item, width)
            blocks.append(DepthwiseSeparable(w_in, w_out, stride))
            w_in = w_out
        self.blocks = nn.Sequential(*blocks)
        self.head = Head(w_in, classes, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) normalized pixels -> (N, classes) logits."""
        return self.head(self.blocks(self.relu(self.bn1(self.conv1(x)))))


def mobile(*, classes: int, channels: int, **args: Any) -> MobileNet:
    """Build the depthwise net: about 0.2M parameters at width 1."""
    return MobileNet(classes=classes, channels=channels, **args)
