import math
from dataclasses import replace

import pytest
import torch

from slimfer.compress.config import DistillConfig
from slimfer.compress.distill import distillation, soft_target_loss
from slimfer.errors import InputError
from slimfer.train.objective import cross_entropy


def slow(student, teacher, temperature):
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p = [math.exp(v / temperature) for v in t]
        q = [math.exp(v / temperature) for v in s]
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(student) * temperature**2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_loss_equals_a_slow_loop(temperature):
    student, teacher = torch.randn(5, 7), torch.randn(5, 7)
    assert float(soft_target_loss(student, teacher, temperature)) == pytest.approx(
        slow(student, teacher, temperature), rel=1e-4
    )


def test_loss_and_gradient_vanish_when_student_and_teacher_agree():
    logits = torch.randn(4, 7, requires_grad=True)
    loss = soft_target_loss(logits, logits.detach(), 3.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert float(logits.grad.abs().max()) < 1e-6


def test_weight_0_is_cross_entropy_and_weight_1_the_teacher_alone(sparse):
    x = torch.randn(6, 1, 48, 48)
    logits, target = torch.randn(6, 7), torch.softmax(torch.randn(6, 7), 1)
    plain = distillation(sparse, sparse, DistillConfig(weight=0))
    assert torch.equal(plain(logits, target, x), cross_entropy(logits, target))
    taught = distillation(sparse, sparse, DistillConfig(weight=1, temperature=2))
    with torch.no_grad():
        expected = soft_target_loss(logits, sparse.build()(x), 2)
    assert torch.allclose(taught(logits, target, x), expected)


def test_a_teacher_that_does_not_fit_is_refused(sparse):
    with pytest.raises(InputError, match="the teacher reads"):
        distillation(replace(sparse, labels=("a", "b")), sparse, DistillConfig())
    with pytest.raises(InputError, match="the teacher takes 1 x 64 px, the student 1 x 48 px"):
        distillation(replace(sparse, spec=replace(sparse.spec, image=64)), sparse, DistillConfig())
