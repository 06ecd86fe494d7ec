import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from compress.conftest import QUICK
from helpers import TINY, patterns
from networks import learnt, untrained
from slimfer.compress.config import DistillConfig
from slimfer.compress.distill import distillation, relational_loss, soft_target_loss, soften
from slimfer.compress.teachers import Network
from slimfer.errors import InputError
from slimfer.model.spec import NetSpec
from slimfer.train.augment import to_input
from slimfer.train.config import AugmentConfig, TrainConfig
from slimfer.train.loop import fit, initial
from slimfer.train.objective import Attached, cross_entropy


def batch(n=6, classes=3, *, seed=0, side=16):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, side, side, generator=generator) * 4 - 2
    target = torch.softmax(torch.randn(n, classes, generator=generator), 1)
    return torch.randn(n, classes, generator=generator, requires_grad=True), target, x


class Fixed:
    """A teacher that always says the same."""

    def __init__(self, logits, mirrored=None, name="fixed"):
        self.labels, self.channels, self.image = learnt().labels, 1, 16
        self.name, self.digest = name, f"{name} {logits.tolist()}"
        self.logits, self.mirrored, self.first, self.asked = logits, mirrored, None, 0

    def __call__(self, x):
        self.asked += 1
        self.first = x if self.first is None else self.first
        seen = self.mirrored is not None and torch.equal(x, self.first.flip(3))
        return self.mirrored if seen else self.logits

    def show_features(self):
        raise InputError("no features")


# --- soft targets --------------------------------------------------------------------------------------------------
def slow_loss(student, teachers, temperature):
    """Return the mean KL divergence from definitions alone, in float64."""

    def softened(row):
        powers = [math.exp(value / temperature) for value in row]
        return [power / sum(powers) for power in powers]

    total = 0.0
    for number, row in enumerate(student.tolist()):
        answers = [softened(teacher[number].tolist()) for teacher in teachers]
        p = [sum(column) / len(answers) for column in zip(*answers, strict=True)]
        total += sum(a * math.log(a / b) for a, b in zip(p, softened(row), strict=True))
    return total / len(student)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 100.0])
@pytest.mark.parametrize("teachers", [1, 3])
def test_the_loss_is_the_divergence_from_the_mean_of_softened_answers(temperature, teachers):
    student = torch.randn(5, 7, dtype=torch.float64)
    taught = [torch.randn(5, 7, dtype=torch.float64) for _ in range(teachers)]
    plain = soft_target_loss(student, soften(taught, temperature), temperature, square=False)
    assert float(plain) == pytest.approx(slow_loss(student, taught, temperature), rel=1e-3, abs=1e-7)
    square = soft_target_loss(student, soften(taught, temperature), temperature)
    assert float(square) == pytest.approx(float(plain) * temperature**2, rel=1e-6)


@given(st.floats(0.2, 50), st.integers(1, 4))
def test_loss_and_gradient_vanish_when_all_agree(temperature, teachers):
    logits = torch.randn(4, 7, requires_grad=True)
    loss = soft_target_loss(logits, soften([logits.detach()] * teachers, temperature), temperature, square=False)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert float(logits.grad.abs().max()) < 1e-6


def test_at_high_temperature_the_gradient_is_that_of_matching_logits():
    """Hinton et al., equation 4: with T^2, the gradient tends to (z - v) / K for logits of mean 0, per picture."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 7, dtype=torch.float64, generator=generator) for _ in range(2))
    student, teacher = (logits - logits.mean(1, keepdim=True) for logits in (student, teacher))
    student.requires_grad_()
    soft_target_loss(student, soften([teacher], 100), 100).backward()
    assert torch.allclose(student.grad * len(student), (student.detach() - teacher) / 7, atol=0.01)


def test_a_shift_of_a_teachers_logits_changes_nothing():
    """So the logarithms of an artifact's probabilities are as good as its logits."""
    student, teacher = torch.randn(5, 7), torch.randn(5, 7)
    shifted = teacher + torch.randn(5, 1)
    expected = soft_target_loss(student, soften([teacher], 3), 3)
    assert torch.allclose(soft_target_loss(student, soften([shifted], 3), 3), expected, atol=1e-6)
    assert torch.allclose(soft_target_loss(student, soften([teacher.log_softmax(1)], 3), 3), expected, atol=1e-6)


# --- the objective -------------------------------------------------------------------------------------------------
def test_weight_0_is_cross_entropy_and_weight_1_the_teacher_alone():
    logits, target, x = batch()
    teacher = Network(learnt())
    plain = distillation([teacher], learnt(), DistillConfig(weight=0))
    assert torch.equal(plain(logits, target, x), cross_entropy(logits, target))
    taught = distillation([teacher], learnt(), DistillConfig(weight=1, temperature=2))
    expected = soft_target_loss(logits, soften([learnt().build()(x).detach()], 2), 2)
    assert torch.allclose(taught(logits, target, x), expected)
    assert torch.equal(expected * 0 + 4 * taught(logits, target, x) / 4, taught(logits, target, x))


@pytest.mark.parametrize("square", [True, False])
def test_the_loss_is_what_its_settings_say(square):
    logits, target, x = batch()
    answers = [torch.randn(6, 3) for _ in range(4)]
    teachers = [Fixed(answers[0], answers[1], "first"), Fixed(answers[2], answers[3], "second")]
    config = DistillConfig(weight=0.7, temperature=2, square=square, mirror=True)
    loss = distillation(teachers, learnt(), config)(logits, target, x)
    probabilities = sum(torch.softmax(answer / 2, 1) for answer in answers) / 4
    divergence = (probabilities * (probabilities.log() - torch.log_softmax(logits / 2, 1))).sum(1).mean()
    assert torch.allclose(loss, 0.3 * cross_entropy(logits, target) + 0.7 * divergence * (4 if square else 1))
    assert [teacher.asked for teacher in teachers] == [2, 2]


def test_equal_teachers_are_as_one():
    logits, target, x = batch()
    teacher = Network(learnt())
    one, three = (distillation([teacher] * n, learnt(), DistillConfig())(logits, target, x) for n in (1, 3))
    assert torch.allclose(one, three, atol=1e-6)


def test_a_network_sees_the_mirrored_batch():
    _, _, x = batch()
    seen = []

    class Spy(Fixed):
        def __call__(self, x):
            seen.append(x)
            return super().__call__(x)

    logits, target, _ = batch()
    distillation([Spy(torch.randn(6, 3))], learnt(), DistillConfig(mirror=True))(logits, target, x)
    assert torch.equal(seen[0], x)
    assert torch.equal(seen[1][..., 0], x[..., -1])


def test_a_teacher_that_does_not_fit_is_refused():
    student = learnt()
    with pytest.raises(InputError, match=r"the teacher old reads a, b; the student angry, happy, neutral"):
        distillation([Network(replace(student, labels=("a", "b")), name="old")], student, DistillConfig())
    for spec, told in ((replace(TINY, image=24), "1 x 24 px"), (replace(TINY, channels=3), "3 x 16 px")):
        teacher = Network(replace(untrained(spec), labels=student.labels))
        with pytest.raises(InputError, match=f"takes {told}, the student 1 x 16 px"):
            distillation([teacher], student, DistillConfig())
    with pytest.raises(InputError, match="at least one teacher, not 0"):
        distillation([], student, DistillConfig())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"weight": -0.1}, "distill weight must be between 0 and 1, not -0.1"),
        ({"weight": math.nan}, "distill weight must be between 0 and 1, not nan"),
        ({"temperature": 0.0}, "temperature must be above 0 and at most 100, not 0.0"),
        ({"temperature": 101.0}, "temperature must be above 0 and at most 100, not 101.0"),
        ({"features": -1.0}, "weight of features must be between 0 and 10000, not -1.0"),
        ({"features": 1.0, "cache": "answers"}, "a cache keeps the teachers' answers, not their features"),
    ],
)
def test_values_out_of_range_are_refused(values, sentence):
    with pytest.raises(InputError) as caught:
        DistillConfig(**values)
    assert sentence in str(caught.value)


# --- features ------------------------------------------------------------------------------------------------------
def slow_relations(student, teacher):
    """Park et al.'s distance-wise and angle-wise losses, with loops over pairs and triples."""

    def huber(a, b):
        return 0.5 * (a - b) ** 2 if abs(a - b) <= 1 else abs(a - b) - 0.5

    def relations(features):
        n = len(features)
        distance = [[math.dist(features[i], features[j]) for j in range(n)] for i in range(n)]
        mean = sum(map(sum, distance)) / (n * (n - 1))
        angles = {}
        for i in range(n):
            for j in range(n):
                for k in range(n):
                    if j in (i, k):
                        angles[i, j, k] = 0.0
                        continue
                    one = [(a - b) / distance[i][j] for a, b in zip(features[i], features[j], strict=True)]
                    two = [(a - b) / distance[k][j] for a, b in zip(features[k], features[j], strict=True)]
                    angles[i, j, k] = sum(a * b for a, b in zip(one, two, strict=True))
        return [[d / mean for d in row] for row in distance], angles

    (d, a), (e, b) = relations(student.tolist()), relations(teacher.tolist())
    n = len(d)
    distances = sum(huber(d[i][j], e[i][j]) for i in range(n) for j in range(n)) / n**2
    return distances + 2 * sum(huber(a[key], b[key]) for key in a) / n**3


def test_relations_equal_the_loops_of_the_paper():
    student, teacher = torch.randn(6, 4), torch.randn(6, 9) * 3 + 5
    assert float(relational_loss(student, teacher)) == pytest.approx(slow_relations(student, teacher), rel=1e-5)


def test_large_batches_are_related_in_equal_parts():
    student, teacher = torch.randn(66, 4), torch.randn(66, 5)
    parts = [slow_relations(student[i : i + 22], teacher[i : i + 22]) for i in (0, 22, 44)]
    assert float(relational_loss(student, teacher)) == pytest.approx(sum(parts) / 3, rel=1e-5)


@given(st.integers(0, 2**31), st.floats(0.01, 100), st.sampled_from([2, 3, 17, 40]))
def test_relations_do_not_change_when_features_are_moved_turned_and_scaled(seed, scale, n):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 5, generator=generator)
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator))
    moved = scale * features @ turn + 3
    assert float(relational_loss(moved, features)) == pytest.approx(0, abs=1e-6)


def test_relations_have_finite_gradients_where_features_are_equal():
    for features in (torch.ones(8, 4), torch.cat([torch.zeros(5, 4), torch.randn(3, 4)])):
        features.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            relational_loss(features, torch.randn(8, 3)).backward()
        assert torch.isfinite(features.grad).all()


def test_the_feature_term_compares_what_the_last_linear_layers_read():
    _, target, x = batch(8)
    teacher, student = learnt(), replace(untrained(TINY), labels=learnt().labels)
    config = DistillConfig(weight=0.5, features=10, mirror=True)
    objective = distillation([Network(teacher)], student, config)
    assert isinstance(objective, Attached)
    net = student.build()
    objective.attach(net)
    loss = objective(net(x), target, x)
    loss.backward()
    read = [nn.Sequential(*list(one.build())[:-1])(x) for one in (student, teacher)]
    plain = distillation([Network(teacher)], student, replace(config, features=0))(net(x), target, x)
    assert float((loss - plain).detach()) == pytest.approx(10 * float(relational_loss(*read).detach()), rel=1e-4)
    assert all(parameter.grad is not None for parameter in net.parameters())


def no_linear(*, classes, channels):
    return nn.Sequential(nn.Conv2d(channels, classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_features_need_a_linear_layer():
    bare = replace(untrained(NetSpec("compress.test_distill:no_linear", classes=3, image=16)), labels=learnt().labels)
    config = DistillConfig(features=1)
    with pytest.raises(InputError, match="has no linear layer"):
        distillation([Network(bare)], learnt(), config)
    with pytest.raises(InputError, match="the student has no linear layer"):
        distillation([Network(learnt())], bare, config).attach(bare.build())


# --- training ------------------------------------------------------------------------------------------------------
def test_with_wrong_labels_a_teacher_beats_the_same_training_without_one(sparse, faces):
    """The control differs in the objective alone: same student, seed, pictures, labels and number of steps."""
    rng = np.random.default_rng(0)
    few = faces["train"].take(np.arange(512))
    noisy = replace(few, labels=np.where(rng.random(512) < 0.8, rng.integers(0, 7, 512), few.labels))
    student = initial(NetSpec("mobile", args={"width": 0.25}), few.classes, seed=0)
    config = replace(QUICK, epochs=6, batch_size=32, average=0.9)
    taught = distillation([Network(sparse)], student, DistillConfig(weight=0.9, temperature=2))
    scores = [
        fit(student, noisy, faces["validation"], config, objective=objective).lineage[-1]["val_accuracy"]
        for objective in (cross_entropy, taught)
    ]
    assert scores[1] > scores[0] + 0.08


def test_the_feature_term_brings_relations_closer_on_unseen_pictures():
    frames, unseen = patterns(256), to_input(torch.from_numpy(patterns(96, seed=9).images))
    start = initial(TINY, frames.classes, seed=5)
    plain = AugmentConfig(flip=False, rotate=0, shift=0, scale=0, light=0, erase=0)
    config = TrainConfig(epochs=4, batch_size=32, lr=0.05, average=0, precision="fp32", augment=plain)

    def features(net):
        return nn.Sequential(*list(net.build())[:-1])(unseen).detach()

    apart = []
    for weight in (0.0, 3.0):
        objective = distillation([Network(learnt())], start, DistillConfig(weight=0.1, features=weight))
        trained = fit(start, frames, frames, config, objective=objective)
        apart.append(float(relational_loss(features(trained), features(learnt()))))
    assert apart[1] < 0.8 * apart[0]


def test_a_run_goes_on_only_with_the_same_teachers_and_settings(tmp_path):
    frames, config = patterns(64), TrainConfig(epochs=1, batch_size=32)
    start = initial(TINY, learnt().labels, seed=0)
    teachers = [Network(learnt())]
    objective = distillation(teachers, start, DistillConfig())
    fit(start, frames, frames, config, run=tmp_path, objective=objective)
    fit(start, frames, frames, config, run=tmp_path, resume=True, objective=objective)
    for changed, name in (
        (distillation([Network(start)], start, DistillConfig()), "objective.teachers"),
        (distillation(teachers, start, DistillConfig(temperature=3)), "objective.temperature"),
        (distillation(teachers, start, DistillConfig(mirror=True)), "objective.mirror"),
    ):
        with pytest.raises(InputError, match=name):
            fit(start, frames, frames, config, run=tmp_path, resume=True, objective=changed)
    cached = distillation(teachers, start, DistillConfig(cache=str(tmp_path / "answers")))
    fit(start, frames, frames, config, run=tmp_path, resume=True, objective=cached)  # where answers lie is no matter
