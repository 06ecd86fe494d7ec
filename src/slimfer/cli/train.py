"""`slimfer train`."""

import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from slimfer.cli.common import Answer, Common, torch_device
from slimfer.cli.flags import (
    Data,
    Force,
    Out,
    RecipeFile,
    Resume,
    StepFlags,
    TrainFlags,
    Votes,
    base_recipe,
    over_data,
    override,
    with_width,
)
from slimfer.cli.progress import Watch, showing
from slimfer.cli.record import describe_data, document, finish
from slimfer.cli.start import PLAIN, first_network, name_start, open_start
from slimfer.recipes import Recipe
from slimfer.runs import RunFolder, open_run, read_curve

if TYPE_CHECKING:
    from slimfer.data.frames import Dataset
    from slimfer.train.checkpoint import Checkpoint


def train(
    *,
    out: Out,
    data: Data = None,
    model: Annotated[str | None, Parameter(alias="-m")] = None,
    recipe: RecipeFile = None,
    votes: Votes = None,
    width: float | None = None,
    image: Annotated[int | None, Parameter(show_default="48")] = None,
    channels: Annotated[int | None, Parameter(show_default="1")] = None,
    penalty: Annotated[float | None, Parameter(show_default="0")] = None,
    tensorboard: bool = False,
    resume: Resume = False,
    force: Force = False,
    training: TrainFlags = TrainFlags(),
    steps: StepFlags = StepFlags(),
    common: Common = Common(),
) -> Answer:
    """Train a network; the epoch is chosen on the validation split.

    Args:
        out: see flags.
        data: see flags.
        model: a network's name (`slimfer models`), package.module:function, or a checkpoint or run to start from.
        recipe: see flags.
        votes: see flags.
        width: width multiplier of the network.
        image: height and width in pixels.
        channels: 1 (gray) or 3 (RGB).
        penalty: lambda of the L1 penalty on BN scales, so that the network can be slimmed.
        tensorboard: write TensorBoard events to RUN/events, too.
        resume: see flags.
        force: see flags.
        training: see `TrainFlags`.
        steps: see `StepFlags`.
        common: see `Common`.
    """
    base = base_recipe(recipe, out, resume=resume, defaults=PLAIN)
    origin = name_start(override(base.model, image=image, channels=channels), model)
    resolved = replace(
        base,
        data=over_data(base.data, data, votes),
        model=replace(origin, args=with_width(origin.args, width)),
        train=steps.over(training.over(base.train), common.seed),
        slim=override(base.slim, penalty=penalty),
    )
    seed, parent = resolved.train.seed, origin.checkpoint or None
    with open_run(out, verb="train", argv=sys.argv[1:], seed=seed, resume=resume, force=force, parent=parent) as run:
        checkpoint, dataset = open_start(resolved)
        start = first_network(resolved, checkpoint, dataset)
        return _train(run, resolved, start, dataset, common, resume=resume, tensorboard=tensorboard)


def _train(
    run: RunFolder,
    recipe: Recipe,
    start: "Checkpoint",
    dataset: "Dataset",
    common: Common,
    *,
    resume: bool,
    tensorboard: bool,
) -> Answer:
    from slimfer.cli.classifier import judge, judged_parts
    from slimfer.compress.slim import SlimmingPenalty
    from slimfer.train.loop import fit
    from slimfer.train.track import TensorBoard

    device = torch_device(common)
    validation = dataset["validation"]
    penalty = recipe.slim.penalty
    tables = recipe.tables("data", "model", "train") | {"slim": {"penalty": penalty}}
    run.write_recipe(tables)
    events = TensorBoard(run.path / "events") if tensorboard else nullcontext()
    with showing(common) as show, events as board:
        trained = fit(
            start,
            dataset["train"],
            validation,
            recipe.train,
            run=run.path,
            resume=resume,
            hooks=[SlimmingPenalty(penalty)] if penalty else [],
            device=device,
            watch=Watch(show, run, also=board),
        )
    results = document(
        run,
        "train",
        **judged_parts([judge(trained.spec.builder, trained, validation, device)], validation, run.path),
        model=trained.spec.builder,
        labels=list(trained.labels),
        data=describe_data(recipe.data.source, dataset),
        recipe=tables,
        curves=[{"stage": "train", "rows": read_curve(run.path)}],
    )
    # Slimming goes by the scales of batch normalization, which not every network has.
    verb = "slim" if any(name.endswith("running_mean") for name in trained.weights) else "quantize"
    return finish(run, results, f"slimfer {verb} {run.path} --data {recipe.data.source} --out {run.path}-{verb}")
