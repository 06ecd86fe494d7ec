"""Distillation: soft targets of a teacher (Hinton et al. 2015, arXiv 1503.02531).

Shapes: N pictures, K classes. logits (N, K), target (N, K), x (N, C, H, W) normalized pixels.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from slimfer.compress.config import DistillConfig
from slimfer.errors import InputError
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.objective import Objective, cross_entropy


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over N; 0 when both agree.

    T^2 keeps the size of the gradient independent of T (section 2).
    """
    log_student = F.log_softmax(student.float() / temperature, 1)
    log_teacher = F.log_softmax(teacher.float() / temperature, 1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


class Teacher(Protocol):
    """What gives soft targets."""

    labels: tuple[str, ...]
    channels: int
    image: int

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits, up to a constant per picture, (N, K) for normalized pixels."""


class Network:
    """A checkpoint as a teacher."""

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu") -> None:
        """Build the network on `device`."""
        self.labels, self.channels, self.image = checkpoint.labels, checkpoint.spec.channels, checkpoint.spec.image
        self._net = checkpoint.build().to(device)
        self._net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits."""
        with torch.no_grad():
            return self._net(x)


def open_teacher(path: str, device: str = "cpu") -> Teacher:
    """Return the teacher that `path` names."""
    raise NotImplementedError


def distillation(teachers: Sequence[Teacher], student: Checkpoint, config: DistillConfig) -> Objective:
    """Return the objective (1 - weight) * cross-entropy + weight * soft-target loss, the teachers seeing the same batch.

    Raises:
        InputError: if a teacher's classes or input are not the student's.
    """
    for teacher in teachers:
        if teacher.labels != student.labels:
            raise InputError(f"the teacher reads {', '.join(teacher.labels)}; the student {', '.join(student.labels)}")
        if (teacher.channels, teacher.image) != (student.spec.channels, student.spec.image):
            raise InputError(
                f"the teacher takes {teacher.channels} x {teacher.image} px, "
                f"the student {student.spec.channels} x {student.spec.image} px"
            )
    if not config.weight:
        return cross_entropy

    def objective(logits: Tensor, target: Tensor, x: Tensor) -> Tensor:
        taught = teachers[0](x)
        hard = cross_entropy(logits, target)
        return (1 - config.weight) * hard + config.weight * soft_target_loss(logits, taught, config.temperature)

    return objective
