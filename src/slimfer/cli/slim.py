"""`slimfer slim`."""

import sys
from dataclasses import replace

from slimfer.cli.common import Answer, Common, torch_device
from slimfer.cli.flags import (
    Data,
    FinetuneFlags,
    Force,
    Out,
    RecipeFile,
    Resume,
    SlimFlags,
    StepFlags,
    Votes,
    base_recipe,
    override,
)
from slimfer.cli.progress import Watch, showing
from slimfer.cli.record import describe_data, document, finish, read_curve
from slimfer.cli.start import name_start, open_start
from slimfer.errors import InputError
from slimfer.recipes import Recipe
from slimfer.runs import RunFolder, open_run


def slim(
    model: str | None = None,
    /,
    *,
    out: Out,
    data: Data = None,
    recipe: RecipeFile = None,
    votes: Votes = None,
    resume: Resume = False,
    force: Force = False,
    slimming: SlimFlags = SlimFlags(),
    finetuning: FinetuneFlags = FinetuneFlags(),
    steps: StepFlags = StepFlags(),
    common: Common = Common(),
) -> Answer:
    """Cut the channels with the smallest BN scales from a trained network, and fine-tune it (network slimming).

    Args:
        model: a run folder or a checkpoint, best trained with --penalty.
        out: see flags.
        data: see flags.
        recipe: see flags.
        votes: see flags.
        resume: see flags.
        force: see flags.
        slimming: see `SlimFlags`.
        finetuning: see `FinetuneFlags`.
        steps: see `StepFlags`.
        common: see `Common`.
    """
    base = base_recipe(recipe, out, resume=resume)
    start = name_start(base.model, model)
    if not start.checkpoint:
        raise InputError(f"{start.builder} is an untrained network; first: slimfer train --model {start.builder}")
    resolved = replace(
        base,
        data=override(base.data, source=data, votes=votes and str(votes)),
        model=start,
        slim=slimming.over(base.slim),
        finetune=steps.over(finetuning.over(base.finetune), common.seed),
        quantize=replace(base.quantize, bits=32),
    )
    seed = resolved.finetune.seed
    with open_run(
        out, verb="slim", argv=sys.argv[1:], seed=seed, resume=resume, force=force, parent=start.checkpoint
    ) as run:
        return _slim(run, resolved, common)


def _slim(run: RunFolder, recipe: Recipe, common: Common) -> Answer:
    from slimfer.cli.classifier import judge
    from slimfer.compress.pipeline import run_steps

    device = torch_device(common)
    checkpoint, dataset = open_start(recipe)
    assert checkpoint is not None
    tables = recipe.tables("data", "model", "slim", "finetune", "distill")
    run.write_recipe(tables)
    with showing(common) as show:
        stages = run_steps(
            checkpoint,
            dataset,
            recipe.chain(),
            run.path / "stages",
            device=device,
            watch=lambda name: Watch(show, run, name),
        )
    slimmed = stages[-1].checkpoint
    slimmed.save(run.path / "weights" / "best.safetensors")
    results = document(
        run,
        "slim",
        [judge(stage.name, stage.checkpoint, dataset["validation"], device) for stage in stages],
        model=slimmed.spec.builder,
        labels=list(slimmed.labels),
        data=describe_data(recipe.data.source, dataset),
        recipe=tables,
        curves=[{"stage": s.name, "rows": rows} for s in stages if (rows := read_curve(s.folder / "results.csv"))],
    )
    return finish(run, results, f"slimfer quantize {run.path} --data {recipe.data.source} --out {run.path}-int8")
