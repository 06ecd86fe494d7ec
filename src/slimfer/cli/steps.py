"""What the verbs of single compression steps share: a trained network in, a run folder with the changed one out."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimfer.cli.classifier import judge, judged_parts
from slimfer.cli.common import Answer, Common, torch_device
from slimfer.cli.progress import Watch, showing
from slimfer.cli.record import describe_data, document, finish
from slimfer.cli.start import open_start
from slimfer.errors import InputError
from slimfer.recipes import Recipe
from slimfer.runs import RunFolder, open_run, read_curve

if TYPE_CHECKING:
    from slimfer.compress.pipeline import Stage
    from slimfer.compress.plan import PlannedStep
    from slimfer.data.frames import Dataset
    from slimfer.train.checkpoint import Checkpoint


@dataclass(frozen=True)
class Step:
    """An opened run of one compression step.

    Attributes:
        run: the folder.
        tables: the recipe's tables that decide this step, resolved.
        checkpoint: the trained network to start from.
        dataset: has `train` and `validation`.
        device: `cpu` or `cuda`.
    """

    run: RunFolder
    tables: dict[str, Any]
    checkpoint: "Checkpoint"
    dataset: "Dataset"
    device: str


@contextmanager
def open_step(
    recipe: Recipe, tables: Sequence[str], out: Path, common: Common, *, seed: int, resume: bool, force: bool
) -> Iterator[Step]:
    """Open the run folder, the network and the data of a step; the verb's name is that of the command line.

    Raises:
        InputError: if the network is not trained, or something cannot be opened.
    """
    start = recipe.model
    if not start.checkpoint:
        raise InputError(f"{start.builder} is an untrained network; first: slimfer train --model {start.builder}")
    verb, parent = sys.argv[1], start.checkpoint
    with open_run(out, verb=verb, argv=sys.argv[1:], seed=seed, resume=resume, force=force, parent=parent) as run:
        checkpoint, dataset = open_start(recipe)
        assert checkpoint is not None
        device = torch_device(common)
        resolved = {"train": {"seed": seed}} | recipe.tables("data", "model", *tables)
        run.write_recipe(resolved)
        yield Step(run, resolved, checkpoint, dataset, device)


def run_planned(step: Step, planned: "Sequence[PlannedStep]", common: Common) -> "list[Stage]":
    """Run a chain in the run's folder, with its progress on the terminal and in the log."""
    from slimfer.compress.pipeline import run_steps

    with showing(common) as show:
        return run_steps(
            step.checkpoint,
            step.dataset,
            planned,
            step.run.path / "stages",
            device=step.device,
            watch=lambda name: Watch(show, step.run, name),
        )


def finish_step(step: Step, stages: "Sequence[Stage]", hint: str) -> Answer:
    """Keep the last network, judge all, write results.json.

    Args:
        step: the run.
        stages: the first is the control.
        hint: the next command.
    """
    run, last = step.run, stages[-1].checkpoint
    last.save(run.path / "weights" / "best.safetensors")
    validation = step.dataset["validation"]
    judged = [judge(stage.name, stage.checkpoint, validation, step.device) for stage in stages]
    results = document(
        run,
        str(run.record["verb"]),
        **judged_parts(judged, validation, run.path),
        model=last.spec.builder,
        labels=list(last.labels),
        data=describe_data(step.tables["data"]["source"], step.dataset),
        recipe=step.tables,
        curves=[{"stage": stage.name, "rows": rows} for stage in stages if (rows := read_curve(stage.folder))],
    )
    return finish(run, results, hint)
