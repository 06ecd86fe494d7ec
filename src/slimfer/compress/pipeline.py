"""The chain of steps from a network to a smaller one; each step takes a checkpoint, gives one, and can be resumed."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimfer.compress.config import CompressConfig
from slimfer.compress.cut import cut_groups
from slimfer.compress.distill import distillation
from slimfer.compress.mask import Mask, mask
from slimfer.compress.plan import PlannedStep
from slimfer.compress.prune import prune
from slimfer.compress.qat import finish_qat, prepare_qat
from slimfer.compress.quantize import quantize
from slimfer.compress.slim import INITIAL_GAMMA, SlimmingPenalty, slim
from slimfer.compress.teachers import Network, open_teacher
from slimfer.data.frames import Dataset
from slimfer.errors import InputError
from slimfer.files import read_json, write_json
from slimfer.model.spec import NetSpec
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.config import TrainConfig
from slimfer.train.loop import Hook, Watcher, fit, initial
from slimfer.train.objective import cross_entropy


@dataclass(frozen=True)
class Context:
    """What a step may use besides the checkpoint that it works on.

    Attributes:
        config: all settings as they are for this step.
        dataset: must have `train` and `validation`.
        folder: for the files of this step.
        dense: the first trained network of the chain, which teaches unless other teachers are named; None before.
        device: `cpu` or `cuda`.
        watch: called with the progress of trainings.
    """

    config: CompressConfig
    dataset: Dataset
    folder: Path
    dense: Checkpoint | None
    device: str
    watch: Watcher | None


@dataclass(frozen=True)
class Stage:
    """One finished step: its kind (a key of `STEPS`, or `start`), folder and result."""

    name: str
    kind: str
    folder: Path
    checkpoint: Checkpoint


def train_step(checkpoint: Checkpoint, context: Context) -> Checkpoint:
    """Train from scratch with the slimming penalty."""
    penalty = SlimmingPenalty(context.config.slim.penalty)
    return _fit(checkpoint, context, context.config.train, "train", penalty)


def slim_step(checkpoint: Checkpoint, context: Context) -> Checkpoint:
    """Cut channels by their BN scales."""
    return slim(checkpoint, context.config.slim, context.dataset["train"])


def prune_step(checkpoint: Checkpoint, context: Context) -> Checkpoint:
    """Cut channels by another criterion."""
    config = context.config
    return prune(checkpoint, context.dataset["train"], config.prune, seed=config.train.seed)


def cut_step(checkpoint: Checkpoint, context: Context) -> Checkpoint:
    """Cut named groups of channels to given widths."""
    config = context.config
    return cut_groups(checkpoint, context.dataset["train"], config.cut, seed=config.train.seed)


def mask_step(checkpoint: Checkpoint, context: Context) -> Checkpoint:
    """Set single weights to zero."""
    return mask(checkpoint, context.config.mask)


def finetune_step(checkpoint: Checkpoint, context: Context) -> Checkpoint:
    """Train the narrower network without the penalty, taught by the dense one."""
    return _fit(checkpoint, context, context.config.finetune, "finetune")


def finetune_sparse_step(checkpoint: Checkpoint, context: Context) -> Checkpoint:
    """Train with the penalty between two passes of slimming."""
    penalty = SlimmingPenalty(context.config.slim.penalty)
    return _fit(checkpoint, context, context.config.finetune, "finetune", penalty)


def sparse_step(checkpoint: Checkpoint, context: Context) -> Checkpoint:
    """Train while the weights that are zero stay zero."""
    return _fit(checkpoint, context, context.config.dsd.sparse, "sparse", Mask(checkpoint, context.config.mask))


def dense_step(checkpoint: Checkpoint, context: Context) -> Checkpoint:
    """Train all weights, at the lower rate of dense-sparse-dense training."""
    return _fit(checkpoint, context, context.config.dsd.dense, "dense")


def quantize_step(checkpoint: Checkpoint, context: Context) -> Checkpoint:
    """Turn weights and activations into integers."""
    config = context.config
    return quantize(checkpoint, context.dataset["train"], config.quantize, seed=config.train.seed)


def qat_step(checkpoint: Checkpoint, context: Context) -> Checkpoint:
    """Train with integers; a float network is quantized first."""
    if not checkpoint.quant:
        checkpoint = quantize_step(checkpoint, context)
    config = context.config.qat
    return finish_qat(_fit(prepare_qat(checkpoint, config), context, config.train, "qat"))


STEPS: Mapping[str, Callable[[Checkpoint, Context], Checkpoint]] = {
    "train": train_step,
    "slim": slim_step,
    "prune": prune_step,
    "cut": cut_step,
    "mask": mask_step,
    "finetune": finetune_step,
    "finetune-sparse": finetune_sparse_step,
    "sparse": sparse_step,
    "dense": dense_step,
    "quantize": quantize_step,
    "qat": qat_step,
}


# What can go on with integers; every other step works on BN or on weights that are not rounded.
ON_INTEGERS = ("prune", "qat")


def run_steps(
    start: Checkpoint | NetSpec,
    dataset: Dataset,
    steps: Sequence[PlannedStep],
    folder: Path,
    *,
    device: str = "cpu",
    watch: Callable[[str], Watcher | None] = lambda name: None,
) -> list[Stage]:
    """Run the chain; steps whose result is already in `folder` are read instead of run again.

    Args:
        start: a trained network, or the spec of one to train.
        dataset: pictures.
        steps: the chain.
        folder: gets one folder per step, `1-train/`, `2-slim/`, ...
        device: `cpu` or `cuda`.
        watch: gives the watcher for a step, by name.

    Raises:
        InputError: if a split is missing, the chain does not fit the start, or `folder` holds another chain.
    """
    for split in ("train", "validation"):
        if split not in dataset:
            raise InputError(f"the data has no {split} split (it has {', '.join(dataset) or 'nothing'})")
    classes = dataset["train"].classes
    if isinstance(start, Checkpoint) and start.labels != classes:
        raise InputError(f"the network reads {', '.join(start.labels)}, the data has {', '.join(classes)}")
    trained = isinstance(start, Checkpoint)
    if not trained and (not steps or steps[0].kind != "train"):
        raise InputError("an untrained network has to be trained first: the chain must begin with train")
    _claim(folder, start, steps)
    stages: list[Stage] = []
    if isinstance(start, NetSpec):
        current = initial(start, classes, seed=steps[0].config.train.seed, gamma=INITIAL_GAMMA)
    else:
        current = start
        stages.append(Stage("start", "start", folder, start))
    dense = current if trained else None
    for number, step in enumerate(steps, 1):
        name = f"{number}-{step.kind}"
        result = folder / name / "result.safetensors"
        if result.is_file():
            current = Checkpoint.load(result)
        else:
            if current.quant and step.kind not in ON_INTEGERS:
                told = " and ".join(ON_INTEGERS)
                raise InputError(f"{name}: the network is quantized already, and only {told} can follow")
            context = Context(step.config, dataset, folder / name, dense, device, watch(name))
            current = STEPS[step.kind](current, context)
            current.save(result)
        dense = dense or current
        stages.append(Stage(name, step.kind, folder / name, current))
    return stages


def _fit(
    checkpoint: Checkpoint, context: Context, config: TrainConfig, name: str, hook: Hook | None = None
) -> Checkpoint:
    """Train in the step's folder; it holds nothing or the state of this very training, so resuming is always right."""
    dataset, lessons = context.dataset, context.config.distill
    teachers = [open_teacher(path, context.device) for path in lessons.teachers]
    if context.dense is not None and not teachers:
        teachers = [Network(context.dense, context.device)]
    return fit(
        checkpoint,
        dataset["train"],
        dataset["validation"],
        config,
        run=context.folder,
        resume=True,
        objective=distillation(teachers, checkpoint, lessons) if teachers else cross_entropy,
        hooks=[hook] if hook else [],
        device=context.device,
        step_name=name,
        watch=context.watch,
    )


def _claim(folder: Path, start: Checkpoint | NetSpec, steps: Sequence[PlannedStep]) -> None:
    """Write what this chain is, or check that the folder holds the same one."""
    identity = json.loads(
        json.dumps(
            {
                "start": start.digest() if isinstance(start, Checkpoint) else start.to_dict(),
                "steps": [{"kind": step.kind, **_without_saves(step.settings())} for step in steps],
            }
        )
    )
    path = folder / "plan.json"
    if not path.exists():
        write_json(path, identity)
    elif read_json(path) != identity:
        raise InputError(f"{folder} holds a chain with other settings; use another --out, or --force to start again")


def _without_saves(value: Any) -> Any:
    """Return settings without how often trainings are saved, which does not change results."""
    if not isinstance(value, dict):
        return value
    return {key: _without_saves(inner) for key, inner in value.items() if key != "save_seconds"}
