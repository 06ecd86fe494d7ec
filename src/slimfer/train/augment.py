"""Batched augmentation on the device: one affine resampling (flip, rotation, shift, scale), then light and erasing.

All random numbers come from a CPU generator whose seed is a function of (run seed, epoch, step): nothing depends on how
far a run had got when it was killed, and CPU and GPU draw the same pictures.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from slimfer.preprocess import SCALE, ZERO_POINT
from slimfer.train.config import AugmentConfig


def step_generator(seed: int, epoch: int, step: int = 0) -> torch.Generator:
    """Return a fresh generator for one step (or, with step 0, for the order of one epoch)."""
    # SplitMix-like mixing in 63 bits, so that neighbouring (epoch, step) give unrelated streams.
    mixed = (seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9 + step * 0x94D049BB133111EB) & (2**63 - 1)
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & (2**63 - 1)
    return torch.Generator().manual_seed(mixed)


def to_input(images: Tensor) -> Tensor:
    """Normalize uint8 pixels (N, C, H, W); bit-equal to `slimfer.preprocess.normalize`."""
    return (images.float() - ZERO_POINT) * SCALE


def augment(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Vary a batch: uint8 (N, C, H, W) -> normalized float32 (N, C, H, W) on the same device."""
    n, _, height, width = images.shape
    x = to_input(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(n, *shape, generator=generator) * (high - low) + low
        return drawn.to(images.device, non_blocking=True)

    if config.flip or config.rotate or config.shift or config.scale:
        mirror = (uniform(0, 1) < 0.5).float() * -2 + 1 if config.flip else torch.ones(n, device=x.device)
        angle = uniform(-config.rotate, config.rotate) * (math.pi / 180)
        zoom = 1 / (1 + uniform(-config.scale, config.scale))
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        # grid_sample's unit is half a side, so a shift of s sides is 2 s units.
        shift_x, shift_y = uniform(-2 * config.shift, 2 * config.shift), uniform(-2 * config.shift, 2 * config.shift)
        theta = torch.stack((cos * mirror, -sin, shift_x, sin * mirror, cos, shift_y), 1).view(n, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if config.light:
        contrast = uniform(1 - config.light, 1 + config.light, 1, 1, 1)
        brightness = uniform(-config.light, config.light, 1, 1, 1)
        x = x * contrast + brightness
    if config.erase:
        x = x * _keep_mask(uniform, config.erase, height, width, x.device)
    return x


def mixup(x: Tensor, target: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blend each picture and its target with another of the batch; the weight is Beta(alpha, alpha), one per batch."""
    # Beta from two Gamma draws is not available with a generator in torch; Johnk's method needs only uniforms.
    while True:
        u, v = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        a, b = u ** (1 / alpha), v ** (1 / alpha)
        if 0 < a + b <= 1:
            break
    weight = a / (a + b)
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    return x * weight + x[partner] * (1 - weight), target * weight + target[partner] * (1 - weight)


def _keep_mask(
    uniform: Callable[[float, float], Tensor], probability: float, height: int, width: int, device: torch.device
) -> Tensor:
    """Return (N, 1, H, W): 0 inside one rectangle of 2-20 % of the area in `probability` of the pictures, else 1."""
    area, aspect = uniform(0.02, 0.20), torch.exp(uniform(-0.7, 0.7))
    box_h, box_w = torch.sqrt(area * aspect) * height, torch.sqrt(area / aspect) * width
    top, left = uniform(0, 1) * (height - box_h), uniform(0, 1) * (width - box_w)
    rows = torch.arange(height, device=device).view(1, -1, 1) + 0.5
    columns = torch.arange(width, device=device).view(1, 1, -1) + 0.5
    inside = ((rows - top.view(-1, 1, 1)).clamp(min=0) < box_h.view(-1, 1, 1)) & (rows > top.view(-1, 1, 1))
    inside = inside & (columns > left.view(-1, 1, 1)) & (columns - left.view(-1, 1, 1) < box_w.view(-1, 1, 1))
    erased = inside & (uniform(0, 1) < probability).view(-1, 1, 1)
    return (~erased).float().unsqueeze(1)
