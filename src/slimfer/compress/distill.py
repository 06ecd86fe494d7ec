"""Distillation: soft targets of a teacher (Hinton et al. 2015, arXiv 1503.02531).

Shapes: N pictures, K classes. logits (N, K), target (N, K), x (N, C, H, W) normalized pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def distillation(teacher: Checkpoint, student: Checkpoint, config: DistillConfig, device: str = "cpu") -> Objective:
    """Return the objective (1 - weight) * cross-entropy + weight * soft-target loss, the teacher seeing the same batch.

    Raises:
        InputError: if the teacher's classes or input are not the student's.
    """
    if teacher.labels != student.labels:
        raise InputError(f"the teacher reads {', '.join(teacher.labels)}; the student {', '.join(student.labels)}")
    if (teacher.spec.channels, teacher.spec.image) != (student.spec.channels, student.spec.image):
        raise InputError(
            f"the teacher takes {teacher.spec.channels} x {teacher.spec.image} px, "
            f"the student {student.spec.channels} x {student.spec.image} px"
        )
    if not config.weight:
        return cross_entropy
    net: nn.Module = teacher.build().to(device)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def objective(logits: Tensor, target: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            taught = net(x)
        hard = cross_entropy(logits, target)
        return (1 - config.weight) * hard + config.weight * soft_target_loss(logits, taught, config.temperature)

    return objective
