"""What a step minimizes: a function of logits, target probabilities and the input batch.

Shapes: N pictures, K classes. logits (N, K), target (N, K) with rows that sum to 1, x (N, C, H, W).
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]


@runtime_checkable
class Attached(Protocol):
    """An objective that looks into the network: it is shown to it before the first step."""

    def attach(self, net: nn.Module) -> None:
        """Take note of the network that will be trained."""


def cross_entropy(logits: Tensor, target: Tensor, x: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy against soft targets; `x` is not used."""
    return F.cross_entropy(logits.float(), target)


def smooth(target: Tensor, smoothing: float) -> Tensor:
    """Mix the uniform distribution into targets with weight `smoothing` (Szegedy et al. 2016, section 7)."""
    return target * (1 - smoothing) + smoothing / target.shape[1] if smoothing else target


def weighted(target: Tensor, class_weights: Tensor | None) -> Tensor:
    """Scale each row by the expected weight of its classes; rows then no longer sum to 1."""
    return target if class_weights is None else target * (target @ class_weights).unsqueeze(1)


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Return (K,) inverse class frequencies scaled so that their mean over the pictures is 1."""
    counts = torch.bincount(labels, minlength=classes).clamp(min=1).float()
    weights = 1 / counts
    return weights / weights[labels].mean()
