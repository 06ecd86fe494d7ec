"""The chain of steps from a network to a smaller one; each step takes a checkpoint, gives one, and can be resumed."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from slimfer.compress.config import CompressConfig
from slimfer.compress.distill import distillation
from slimfer.compress.quantize import quantize
from slimfer.compress.slim import INITIAL_GAMMA, SlimmingPenalty, slim
from slimfer.data.frames import Dataset
from slimfer.errors import InputError
from slimfer.files import read_json, write_json
from slimfer.model.spec import NetSpec
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.loop import Watcher, fit, initial


@dataclass(frozen=True)
class Context:
    """What a step may use besides the checkpoint that it works on.

    Attributes:
        config: of the whole chain.
        dataset: must have `train` and `validation`.
        folder: for the files of this step.
        dense: the network before the first cut, which teaches; None in the first training.
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
    return slim(checkpoint, context.config.slim.one_pass(), context.dataset["train"])


def finetune_step(checkpoint: Checkpoint, context: Context) -> Checkpoint:
    """Train the narrower network without the penalty, taught by the dense one."""
    return _fit(checkpoint, context, context.config.finetune, "finetune")


def finetune_sparse_step(checkpoint: Checkpoint, context: Context) -> Checkpoint:
    """Train with the penalty between two passes of slimming."""
    penalty = SlimmingPenalty(context.config.slim.penalty)
    return _fit(checkpoint, context, context.config.finetune, "finetune", penalty)


def quantize_step(checkpoint: Checkpoint, context: Context) -> Checkpoint:
    """Turn weights and activations into integers."""
    config = context.config.quantize
    frames = context.dataset["train"]
    return quantize(checkpoint, frames, bits=config.bits, images=config.images, seed=context.config.train.seed)


STEPS: Mapping[str, Callable[[Checkpoint, Context], Checkpoint]] = {
    "train": train_step,
    "slim": slim_step,
    "finetune": finetune_step,
    "finetune-sparse": finetune_sparse_step,
    "quantize": quantize_step,
}


def plan(config: CompressConfig, *, trained: bool) -> tuple[str, ...]:
    """Return the steps of the chain, in order; `trained` leaves the first training out."""
    steps = [] if trained else ["train"]
    for number in range(config.slim.passes):
        steps += ["slim", "finetune" if number == config.slim.passes - 1 else "finetune-sparse"]
    if config.quantize.bits < 32:
        steps.append("quantize")
    return tuple(steps)


def run_steps(
    start: Checkpoint | NetSpec,
    dataset: Dataset,
    config: CompressConfig,
    folder: Path,
    *,
    device: str = "cpu",
    watch: Callable[[str], Watcher | None] = lambda name: None,
) -> list[Stage]:
    """Run the chain; steps whose result is already in `folder` are read instead of run again.

    Args:
        start: a trained network, or the spec of one to train.
        dataset: pictures.
        config: settings of all steps.
        folder: gets one folder per step, `1-train/`, `2-slim/`, ...
        device: `cpu` or `cuda`.
        watch: gives the watcher for a step, by name.

    Raises:
        InputError: if a split is missing, or `folder` holds a chain with other settings.
    """
    for split in ("train", "validation"):
        if split not in dataset:
            raise InputError(f"the data has no {split} split (it has {', '.join(dataset) or 'nothing'})")
    classes = dataset["train"].classes
    if isinstance(start, Checkpoint) and start.labels != classes:
        raise InputError(f"the network reads {', '.join(start.labels)}, the data has {', '.join(classes)}")
    if isinstance(start, Checkpoint) and start.quant:
        raise InputError("the network is quantized already; start from the float network that it was made from")
    steps = plan(config, trained=isinstance(start, Checkpoint))
    _claim(folder, start, config, steps)
    stages: list[Stage] = []
    if isinstance(start, NetSpec):
        current = initial(start, classes, seed=config.train.seed, gamma=INITIAL_GAMMA)
    else:
        current = start
        stages.append(Stage("start", "start", folder, start))
    dense = start if isinstance(start, Checkpoint) else None
    for number, kind in enumerate(steps, 1):
        name = f"{number}-{kind}"
        result = folder / name / "result.safetensors"
        if result.is_file():
            current = Checkpoint.load(result)
        else:
            context = Context(config, dataset, folder / name, dense, device, watch(name))
            current = STEPS[kind](current, context)
            current.save(result)
        dense = dense or current
        stages.append(Stage(name, kind, folder / name, current))
    return stages


def _fit(
    checkpoint: Checkpoint, context: Context, config: Any, name: str, penalty: SlimmingPenalty | None = None
) -> Checkpoint:
    """Train in the step's folder; it holds nothing or the state of this very training, so resuming is always right."""
    dataset = context.dataset
    extra = {}
    if context.dense is not None:
        extra["objective"] = distillation(context.dense, checkpoint, context.config.distill, context.device)
    return fit(
        checkpoint,
        dataset["train"],
        dataset["validation"],
        config,
        run=context.folder,
        resume=True,
        hooks=[penalty] if penalty else [],
        device=context.device,
        step_name=name,
        watch=context.watch,
        **extra,
    )


def _claim(folder: Path, start: Checkpoint | NetSpec, config: CompressConfig, steps: tuple[str, ...]) -> None:
    """Write what this chain is, or check that the folder holds the same one."""
    trained = isinstance(start, Checkpoint)
    identity = json.loads(
        json.dumps(
            {
                "start": start.digest() if isinstance(start, Checkpoint) else start.to_dict(),
                "config": asdict(replace(config, train=replace(config.train, save_seconds=0.0))),
                "steps": [*(["start"] if trained else []), *steps],
            }
        )
    )
    path = folder / "plan.json"
    if not path.exists():
        write_json(path, identity)
    elif read_json(path) != identity:
        raise InputError(f"{folder} holds a chain with other settings; use another --out, or --force to start again")
