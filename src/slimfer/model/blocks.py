"""The few building blocks that the networks of the zoo share."""

import math

from torch import Tensor, nn

from slimfer.errors import InputError


def scaled(channels: int, width: float) -> int:
    """Return `channels` times the width multiplier, rounded to the nearest integer, at least 1.

    Raises:
        InputError: if `width` is not a positive number.
    """
    if not 0 < width < math.inf:
        raise InputError(f"the width multiplier must be above 0, not {width}")
    return max(1, round(channels * width))


def conv_bn(
    w_in: int, w_out: int, kernel: int = 3, stride: int = 1, groups: int = 1, bias: bool = False
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Return a same-padded convolution and its batch normalization."""
    conv = nn.Conv2d(w_in, w_out, kernel, stride, kernel // 2, groups=groups, bias=bias)
    return conv, nn.BatchNorm2d(w_out)


def init_weights(net: nn.Module, gamma: float = 1.0) -> None:
    """Initialize in place: He normal (fan-out) for convolutions, `gamma` for all BN scales, zeros for shifts.

    Network slimming starts every BN scale at 0.5 (Liu et al. 2017, section 4.2); pass `gamma=0.5` for that.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, gamma)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Head(nn.Module):
    """Global average pooling, optional dropout, one linear layer: (N, C, H, W) -> (N, classes) logits."""

    def __init__(self, w_in: int, classes: int, dropout: float = 0.0) -> None:
        """Build the head; `dropout` in [0, 1) is left out of the graph when 0."""
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.linear = nn.Linear(w_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.linear(self.dropout(self.flatten(self.pool(x))))
