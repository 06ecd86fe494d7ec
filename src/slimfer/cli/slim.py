"""`slimfer slim`."""

from dataclasses import replace

from slimfer.cli.common import Answer, Common
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
    over_data,
)
from slimfer.cli.start import name_start
from slimfer.cli.steps import finish_step, open_step, run_planned


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
    resolved = replace(
        base,
        data=over_data(base.data, data, votes),
        model=name_start(base.model, model),
        slim=slimming.over(base.slim),
        finetune=steps.over(finetuning.over(base.finetune), common.seed),
        quantize=replace(base.quantize, bits=32),
    )
    tables, seed = ("slim", "finetune", "distill"), resolved.finetune.seed
    with open_step(resolved, tables, out, common, seed=seed, resume=resume, force=force) as step:
        stages = run_planned(step, resolved.plan(trained=True), common)
        hint = f"slimfer quantize {out} --data {resolved.data.source} --out {out}-int8"
        return finish_step(step, stages, hint)
