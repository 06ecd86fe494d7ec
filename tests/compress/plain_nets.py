"""Networks as a user would write them, outside the zoo."""

import torch
from torch import Tensor, nn


def without_bn(classes: int, channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
    )


class Residual(nn.Module):
    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(channels, 12, 5, stride=4), nn.BatchNorm2d(12)
        self.conv, self.bn2 = nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.side, self.bn3 = nn.Conv2d(12, 6, 1), nn.BatchNorm2d(6)
        self.out = nn.Linear(18 * 11 * 11, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(x + self.bn2(self.conv(x)))
        x = torch.cat((x, torch.relu(self.bn3(self.side(x)))), 1)
        return self.out(torch.flatten(x, 1))


def residual(classes: int, channels: int) -> nn.Module:
    torch.manual_seed(1)
    return Residual(classes, channels)
