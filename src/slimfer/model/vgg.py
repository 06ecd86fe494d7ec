"""VGG with batch normalization and ONE linear layer (Simonyan and Zisserman 2014; CIFAR form of Liu et al. 2017)."""

from typing import Any

from torch import Tensor, nn

from slimfer.model.blocks import Head, conv_bn, scaled

# Output channels of the 3x3 convolutions; "M" is 2x2 max-pooling.
DEPTHS: dict[int, tuple[int | str, ...]] = {
    11: (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512),
    13: (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512),
    16: (64, 64, "M", 128, 128, "M", *(256,) * 3, "M", *(512,) * 3, "M", *(512,) * 3),
    19: (64, 64, "M", 128, 128, "M", *(256,) * 4, "M", *(512,) * 4, "M", *(512,) * 4),
}


class VGG(nn.Module):
    """Convolution-BN-ReLU stages with max-pooling between, global average pooling, one linear layer."""

    def __init__(
        self,
        depth: int,
        *,
        classes: int,
        channels: int,
        width: float = 1.0,
        conv_bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        """Build VGG-`depth`; `conv_bias` adds the (redundant) bias that the FER port has before each BN."""
        super().__init__()
        layers: list[nn.Module] = []
        w_in = channels
        for item in DEPTHS[depth]:
            if isinstance(item, str):
                layers.append(nn.MaxPool2d(2))
                continue
            w_out = scaled(item, width)
            layers += [*conv_bn(w_in, w_out, bias=conv_bias), nn.ReLU(inplace=True)]
            w_in = w_out
        self.features = nn.Sequential(*layers)
        self.head = Head(w_in, classes, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) normalized pixels -> (N, classes) logits."""
        return self.head(self.features(x))


def vgg11(*, classes: int, channels: int, **args: Any) -> VGG:
    """VGG-11: 8 convolutions."""
    return VGG(11, classes=classes, channels=channels, **args)


def vgg13(*, classes: int, channels: int, **args: Any) -> VGG:
    """VGG-13: 10 convolutions."""
    return VGG(13, classes=classes, channels=channels, **args)


def vgg16(*, classes: int, channels: int, **args: Any) -> VGG:
    """VGG-16: 13 convolutions."""
    return VGG(16, classes=classes, channels=channels, **args)


def vgg19(*, classes: int, channels: int, **args: Any) -> VGG:
    """VGG-19: 16 convolutions; 20,035,018 parameters with 3 channels and 10 classes."""
    return VGG(19, classes=classes, channels=channels, **args)
