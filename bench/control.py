"""The plain way to train such a network, as tutorials have it: the control of `bench.train_speed`.

torch's DataLoader, one PIL image at a time, float32, NCHW. The transforms are those of torchvision
(RandomHorizontalFlip, RandomAffine, ColorJitter, ToTensor, Normalize, RandomErasing), written out with the same PIL and
torch calls, with the ranges of slimfer's defaults. Images are decoded already and lie in memory, which favours the
control.
"""

import math
import random
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from slimfer.data.frames import Frames
from slimfer.train.config import AugmentConfig, TrainConfig


class Pictures(Dataset[tuple[Tensor, int]]):
    """Pictures of `frames` as PIL images, transformed one by one."""

    def __init__(self, frames: Frames, augment: AugmentConfig) -> None:
        """Keep `frames` as they are; `augment` gives the ranges."""
        self.frames, self.augment = frames, augment

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.frames)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return (C, H, W) float32 and the class."""
        return transform(picture(self.frames.images[index]), self.augment), int(self.frames.labels[index])


def picture(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """Return (C, H, W) uint8 as a PIL image."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def transform(image: Image.Image, config: AugmentConfig) -> Tensor:
    """Return the varied picture, (C, H, W) float32 with mean 0.5 and deviation 0.5 taken out."""
    if config.flip and random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.transform(image.size, Image.Transform.AFFINE, _affine(image.size, config), Image.Resampling.BILINEAR)
    image = ImageEnhance.Brightness(image).enhance(random.uniform(1 - config.light, 1 + config.light))
    image = ImageEnhance.Contrast(image).enhance(random.uniform(1 - config.light, 1 + config.light))
    array = np.asarray(image)
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    x = torch.from_numpy(array.copy()).float().div(255).sub_(0.5).div_(0.5)
    return _erase(x) if random.random() < config.erase else x


def _affine(size: tuple[int, int], config: AugmentConfig) -> tuple[float, ...]:
    """Return PIL's six numbers: the map from output to input pixels, about the centre."""
    angle = math.radians(random.uniform(-config.rotate, config.rotate))
    zoom = 1 / random.uniform(1 - config.scale, 1 + config.scale)
    shift_x, shift_y = (random.uniform(-config.shift, config.shift) * side for side in size)
    cos, sin = math.cos(angle) * zoom, math.sin(angle) * zoom
    x, y = (side / 2 for side in size)
    return (
        cos,
        sin,
        x - cos * (x + shift_x) - sin * (y + shift_y),
        -sin,
        cos,
        y + sin * (x + shift_x) - cos * (y + shift_y),
    )


def _erase(x: Tensor) -> Tensor:
    _, height, width = x.shape
    area, aspect = random.uniform(0.02, 0.20) * height * width, math.exp(random.uniform(-0.7, 0.7))
    box_h, box_w = min(height, round(math.sqrt(area * aspect))), min(width, round(math.sqrt(area / aspect)))
    top, left = random.randint(0, height - box_h), random.randint(0, width - box_w)
    x[:, top : top + box_h, left : left + box_w] = 0
    return x


def train_steps(net: nn.Module, frames: Frames, config: TrainConfig, workers: int) -> list[float]:
    """Train one epoch; return the moments (seconds, monotonic) at which its steps were done."""
    loader: DataLoader[Any] = DataLoader(
        Pictures(frames, config.augment), config.batch_size, shuffle=True, num_workers=workers, drop_last=True
    )
    optimizer = torch.optim.SGD(
        net.parameters(), config.lr, momentum=config.momentum, nesterov=True, weight_decay=config.weight_decay
    )
    net.train()
    moments = []
    for x, labels in loader:
        loss = F.cross_entropy(net(x), labels, label_smoothing=config.label_smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()
        moments.append(time.monotonic())
    return moments
