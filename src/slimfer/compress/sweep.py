"""Several students of the same teachers, and one without any: what a temperature or a weight is worth.

The published finding (MicroExpNet, arXiv 1711.07011) is that the temperature needs a fine search. All students share
start, seed, pictures and augmentation, so all ask the teachers the same questions: the first writes the answers down,
and the others read them (see `slimfer.compress.answers`).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

from slimfer.compress.config import DistillConfig, SweepConfig
from slimfer.compress.distill import distillation
from slimfer.compress.teachers import open_teacher
from slimfer.data.frames import Dataset
from slimfer.errors import InputError
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.config import TrainConfig
from slimfer.train.loop import Hook, Watcher, fit
from slimfer.train.objective import cross_entropy

CONTROL = "control"


@dataclass(frozen=True)
class Student:
    """One student: its name, how it is taught (None: not at all), and where its training is.

    Attributes:
        name: `control`, or such as `T2-w0.7`.
        config: how it is taught; None for the control.
        folder: of its training.
    """

    name: str
    config: DistillConfig | None
    folder: Path


def plan_students(config: DistillConfig, sweep: SweepConfig, folder: Path) -> list[Student]:
    """Return the students, the control first; those of a sweep share the cache `folder/answers` if none is named.

    Raises:
        InputError: if no teacher is named, nothing is taught, or a value is out of range.
    """
    if not config.teachers:
        raise InputError("no teacher given: --teacher RUN, CHECKPOINT or ARTIFACT; several are averaged")
    temperatures, weights = sweep.temperatures or (config.temperature,), sweep.weights or (config.weight,)
    if len(temperatures) * len(weights) > 1 and not config.features:
        config = replace(config, cache=config.cache or str(folder / "answers"))
    taught = [replace(config, temperature=t, weight=w) for t, w in product(temperatures, weights)]
    if any(not one.weight and not one.features for one in taught):
        raise InputError("weight 0 without features teaches nothing: that is the control; use a weight above 0")
    named: dict[str, DistillConfig | None] = {CONTROL: None} if sweep.control or len(taught) > 1 else {}
    named |= {f"T{one.temperature:.10g}-w{one.weight:.10g}": one for one in taught}
    return [Student(name, one, folder / name) for name, one in named.items()]


def train_students(
    start: Checkpoint,
    dataset: Dataset,
    training: TrainConfig,
    students: Sequence[Student],
    *,
    hooks: Sequence[Hook] = (),
    device: str = "cpu",
    watch: Callable[[str], Watcher | None] = lambda name: None,
) -> list[Checkpoint]:
    """Train each student from the same start; those that are trained already, or in part, go on where they stopped.

    Args:
        start: structure and first weights.
        dataset: must have `train` and `validation`.
        training: the recipe, the same for all.
        students: from `plan_students`; all have the same teachers.
        hooks: for every training, such as the slimming penalty.
        device: `cpu` or `cuda`.
        watch: gives the watcher for a student, by name.

    Raises:
        InputError: if a teacher cannot be opened or does not fit, or a folder holds another training.
    """
    paths = next(student.config.teachers for student in students if student.config)
    teachers = [open_teacher(path, device) for path in paths]
    # All objectives before the first training, so that what does not fit is said at once.
    objectives = [distillation(teachers, start, s.config) if s.config else cross_entropy for s in students]
    trained = []
    for student, objective in zip(students, objectives, strict=True):
        checkpoint = fit(
            start,
            dataset["train"],
            dataset["validation"],
            training,
            run=student.folder,
            resume=True,
            objective=objective,
            hooks=hooks,
            device=device,
            step_name="distill" if student.config else "train",
            watch=watch(student.name),
        )
        if student.config:
            digests = [teacher.digest for teacher in teachers]
            record = {**checkpoint.lineage[-1], "distill": asdict(student.config), "teachers": digests}
            checkpoint = replace(checkpoint, lineage=(*checkpoint.lineage[:-1], record))
        trained.append(checkpoint)
    return trained
