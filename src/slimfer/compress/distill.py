"""Distillation: soft targets of teachers, and relations between their features.

- Soft targets (Hinton et al. 2015, arXiv 1503.02531): the student learns the teachers' probabilities, softened by a
  temperature T; several teachers are averaged.
- Relational distillation (Park et al. 2019, arXiv 1904.05068): distances and angles between the features of a batch's
  pictures, which have no parameters and so fit networks of any two widths.

Shapes: N pictures, K classes, D features. logits (N, K), target (N, K), x (N, C, H, W) normalized pixels.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimfer.compress.answers import Answers, ask, batch_key
from slimfer.compress.config import DistillConfig
from slimfer.compress.teachers import Teacher, watch_features
from slimfer.errors import InputError
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.objective import Objective, cross_entropy

# Relations are taken among at most so many pictures, since angles are between all triples: 5 ms per batch of 128.
RELATED = 32
# Weight of angles against distances: usually 50 against 25 in classification.
ANGLE = 2.0


def soften(logits: Sequence[Tensor], temperature: float) -> Tensor:
    """Return the mean over teachers of softmax(logits / T), (N, K)."""
    return torch.stack([F.softmax(one.float() / temperature, 1) for one in logits]).mean(0)


def soft_target_loss(student: Tensor, taught: Tensor, temperature: float, *, square: bool = True) -> Tensor:
    """Return KL(taught || softmax(student / T)), mean over N; 0 when both agree.

    Args:
        student: logits (N, K).
        taught: probabilities (N, K), softened by the same temperature.
        temperature: T, above 0.
        square: multiply by T^2, which keeps the size of the gradient independent of T (Hinton et al., section 2).
    """
    log_student = F.log_softmax(student.float() / temperature, 1)
    loss = F.kl_div(log_student, taught, reduction="batchmean")
    return loss * temperature**2 if square else loss


def relational_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return RKD-D + 2 RKD-A (Park et al.): the mean Huber losses between relations; 0 when they agree.

    Distances are those of all pairs, each side divided by its mean distance, and angles those of all triples, so the
    loss stays the same when features are moved, turned or scaled. A batch of more than `RELATED` pictures is cut into
    equal parts, whose mean this is.

    Args:
        student: features (N, D).
        teacher: features (N, D'), any width.
    """
    parts = -(-len(student) // RELATED)
    pairs = zip(student.double().chunk(parts), teacher.double().chunk(parts), strict=True)
    return torch.stack([_compare_relations(one, other) for one, other in pairs]).mean().float()


def _compare_relations(student: Tensor, teacher: Tensor) -> Tensor:
    (distances, angles), (wanted_distances, wanted_angles) = _relations(student), _relations(teacher)
    return F.smooth_l1_loss(distances, wanted_distances) + ANGLE * F.smooth_l1_loss(angles, wanted_angles)


def _relations(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return distances over their mean (N, N), and at [j, i, k] the cosine of the angle between i - j and k - j.

    Both come from Gram's matrix G: <i - j, k - j> = G_ik - G_ij - G_jk + G_jj, at no cost per feature and triple. Such
    differences need float64, in which autocast does not meddle either. Pictures with equal features have the angle 0.
    """
    features = features - features.mean(0)
    gram = features @ features.T
    norms = gram.diagonal()
    least = 1e-12 * norms.mean().detach() + 1e-30
    squares = (norms[:, None] + norms[None, :] - 2 * gram).clamp(min=least)
    apart = squares.detach() > least
    distances = squares.sqrt() * apart
    products = gram[None] - gram[:, :, None] - gram[:, None, :] + norms[:, None, None]
    angles = products * (apart / squares.sqrt())[:, :, None] * (apart / squares.sqrt())[:, None, :]
    mean = distances.sum() / max(len(gram) * (len(gram) - 1), 1)
    return distances / mean.clamp(min=least.sqrt()), angles


class Distillation:
    """The objective (1 - weight) * cross-entropy + weight * soft-target loss + features * relational loss.

    The plain attributes tell a run with other settings or teachers apart when it is resumed; where answers are kept
    does not matter.
    """

    def __init__(self, teachers: Sequence[Teacher], config: DistillConfig) -> None:
        """Take teachers that fit the student.

        Raises:
            InputError: if features are to be compared and a teacher shows none.
        """
        self.weight, self.temperature, self.square = config.weight, config.temperature, config.square
        self.mirror, self.features = config.mirror, config.features
        self.teachers = " ".join(teacher.digest for teacher in teachers)
        self._teachers = tuple(teachers)
        self._shown = [teacher.show_features() for teacher in teachers] if config.features else []
        self._own: Callable[[], Tensor] | None = None
        self._answers = Answers(config.cache) if config.cache else None

    def attach(self, net: nn.Module) -> None:
        """Watch the student's features, if they are compared.

        Raises:
            InputError: if the student has none.
        """
        if self.features:
            self._own = watch_features(net, "the student")

    def __call__(self, logits: Tensor, target: Tensor, x: Tensor) -> Tensor:
        """Return the loss of a batch."""
        batch = batch_key(x) if self._answers else b""
        answers, relations = [], []
        for number, teacher in enumerate(self._teachers):
            answers.append(self._ask(teacher, x, batch, mirrored=False))
            if self._own:  # before the teacher sees other pictures
                relations.append(relational_loss(self._own(), self._shown[number]()))
            if self.mirror:
                answers.append(self._ask(teacher, x, batch, mirrored=True))
        soft = soft_target_loss(logits, soften(answers, self.temperature), self.temperature, square=self.square)
        loss = (1 - self.weight) * cross_entropy(logits, target) + self.weight * soft
        return loss + self.features * torch.stack(relations).mean() if relations else loss

    def _ask(self, teacher: Teacher, x: Tensor, batch: bytes, *, mirrored: bool) -> Tensor:
        if self._answers:
            return self._answers.ask(teacher, x, batch, mirrored=mirrored)
        return ask(teacher, x, mirrored=mirrored)


def distillation(teachers: Sequence[Teacher], student: Checkpoint, config: DistillConfig) -> Objective:
    """Return the objective with which teachers teach `student`, all seeing the same batch; see `Distillation`.

    Raises:
        InputError: if there is no teacher, a teacher's classes or input are not the student's, or a teacher shows no
            features that are to be compared.
    """
    if not config.weight and not config.features:
        return cross_entropy
    if not teachers:
        raise InputError("distillation needs at least one teacher, not 0")
    for teacher in teachers:
        if teacher.labels != student.labels:
            raise InputError(
                f"the teacher {teacher.name} reads {', '.join(teacher.labels)}; the student {', '.join(student.labels)}"
            )
        if (teacher.channels, teacher.image) != (student.spec.channels, student.spec.image):
            raise InputError(
                f"the teacher {teacher.name} takes {teacher.channels} x {teacher.image} px, "
                f"the student {student.spec.channels} x {student.spec.image} px"
            )
    return Distillation(teachers, config)
