"""`slimfer prune`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter
from cyclopts.validators import Number

from slimfer.cli.common import Answer, Common
from slimfer.cli.flags import (
    TRAINING,
    Data,
    Force,
    Out,
    RecipeFile,
    Resume,
    StepFlags,
    Votes,
    base_recipe,
    default_of,
    over_data,
    override,
)
from slimfer.cli.masks import MaskFlags
from slimfer.cli.start import name_start
from slimfer.cli.steps import finish_step, open_step, run_planned
from slimfer.compress.config import CompressConfig, Criterion, PruneConfig
from slimfer.compress.plan import PlannedStep, prune_steps, sparse_steps
from slimfer.errors import InputError
from slimfer.recipes import Recipe

if TYPE_CHECKING:
    from slimfer.train.checkpoint import Checkpoint

_DEFAULT = PruneConfig()


@Parameter(name="*", group=Group("Filters", sort_key=60))
@dataclass(frozen=True)
class FilterFlags:
    """Flags over the recipe's [prune] table.

    Attributes:
        ratio: share of all channels to cut.
        params: number of parameters to come as close to as possible, instead of a ratio.
        passes: rounds of cutting and fine-tuning; the ratio is that of all together.
        images: training pictures that taylor looks at.
        round_to: round the width of every layer to a multiple of this; 1 is off.
        min_channels: channels that stay in every layer.
    """

    ratio: Annotated[float | None, default_of(_DEFAULT, "ratio")] = None
    params: int | None = None
    passes: Annotated[int | None, default_of(_DEFAULT, "passes")] = None
    images: Annotated[int | None, default_of(_DEFAULT, "images")] = None
    round_to: Annotated[int | None, default_of(_DEFAULT.limits, "round_to")] = None
    min_channels: Annotated[int | None, default_of(_DEFAULT.limits, "min_channels")] = None

    def given(self) -> list[str]:
        """Return the names of the flags that were given."""
        return [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value is not None]

    def over(self, config: PruneConfig, criterion: Criterion | None, epochs: int | None) -> PruneConfig:
        """Return `config` with the flags that were given over it; `epochs` are those of fine-tuning, if given."""
        values: dict[str, Any] = dict(vars(self))
        limits = override(config.limits, round_to=values.pop("round_to"), min_channels=values.pop("min_channels"))
        finetune = epochs > 0 if epochs is not None else (self.passes or 1) > 1 or config.finetune
        return override(config, **values, criterion=criterion, finetune=finetune, limits=limits)


def prune(
    model: str | None = None,
    /,
    *,
    out: Out,
    data: Data = None,
    recipe: RecipeFile = None,
    votes: Votes = None,
    resume: Resume = False,
    force: Force = False,
    criterion: Annotated[Criterion | Literal["magnitude"] | None, default_of(_DEFAULT, "criterion")] = None,
    finetune_epochs: Annotated[
        int | None, Parameter(group=TRAINING, show_default="0, with passes 30", validator=Number(gte=0))
    ] = None,
    finetune_lr: Annotated[float | None, Parameter(group=TRAINING, show_default="0.05, under a mask 0.02")] = None,
    filters: FilterFlags = FilterFlags(),
    masks: MaskFlags = MaskFlags(),
    steps: StepFlags = StepFlags(),
    common: Common = Common(),
) -> Answer:
    """Cut filters by norm, redundancy or effect on the loss, or set single weights to zero; fine-tune if asked.

    Cutting filters makes a smaller and faster network; single zeros make a file that zips better, and nothing faster.

    Args:
        model: a run folder or a checkpoint.
        out: see flags.
        data: see flags.
        recipe: see flags.
        votes: see flags.
        resume: see flags.
        force: see flags.
        criterion: score of a filter, the lowest go; or magnitude, for single weights (as --sparsity and --pattern).
        finetune_epochs: passes over the training split after each cut; 0 is no fine-tuning.
        finetune_lr: highest learning rate after each cut.
        filters: see `FilterFlags`.
        masks: see `MaskFlags`.
        steps: see `StepFlags`.
        common: see `Common`.
    """
    base = base_recipe(recipe, out, resume=resume)
    tuned = {"epochs": finetune_epochs or None, "lr": finetune_lr}
    seed = base.train.seed if common.seed is None else common.seed
    resolved = replace(
        base,
        data=over_data(base.data, data, votes),
        model=name_start(base.model, model),
        train=replace(base.train, seed=seed),
        finetune=steps.over(override(base.finetune, **tuned), common.seed),
    )
    sparse = steps.over(override(base.dsd.sparse, **tuned), common.seed)
    if criterion == "magnitude" or masks.given():
        if criterion not in (None, "magnitude"):
            raise InputError(f"masks go by magnitude, not by {criterion}, which cuts whole filters")
        if filters.given():
            raise InputError(f"{filters.given()[0]} is for cutting filters; masks have --sparsity or --pattern")
        resolved = replace(resolved, mask=masks.over(base.mask), dsd=replace(base.dsd, sparse=sparse))
        resolved = replace(resolved, steps=_mask_steps(resolved, finetune_epochs))
    elif criterion or filters.given() or not base.steps:
        resolved = replace(resolved, prune=filters.over(base.prune, criterion, finetune_epochs), steps=())
    else:
        resolved = replace(resolved, dsd=replace(base.dsd, sparse=sparse))
    if resolved.steps:
        tables = (*(field.name for field in fields(CompressConfig)), "steps")
    else:
        tables = ("prune", "finetune", "distill")
    with open_step(resolved, tables, out, common, seed=seed, resume=resume, force=force) as step:
        stages = run_planned(step, _plan(resolved, step.checkpoint), common)
        hint = f"slimfer quantize {out} --data {resolved.data.source} --out {out}-int8"
        if stages[-1].kind == "prune":
            hint = f"slimfer train --model {out} --data {resolved.data.source} --out {out}-finetuned"
        return finish_step(step, stages, hint)


def _mask_steps(recipe: Recipe, epochs: int | None) -> tuple[Mapping[str, Any], ...]:
    """Return the [[steps]] of masking; training under the mask is one of them if it is asked for, or was before."""
    trained = epochs > 0 if epochs is not None else any(step.get("do") == "sparse" for step in recipe.steps)
    kinds = [step.kind for step in sparse_steps(recipe.chain()) if trained or step.kind == "mask"]
    if not kinds:
        raise InputError("a sparsity that grows needs training: --schedule cubic with --finetune-epochs above 0")
    return tuple({"do": kind} for kind in kinds)


def _plan(recipe: Recipe, start: "Checkpoint") -> tuple[PlannedStep, ...]:
    """Return the chain: that of the recipe's [[steps]], or cuts of filters in passes."""
    from slimfer.compress.surgery import channels_of, count_params

    if recipe.steps:
        return recipe.plan(trained=True)
    several = recipe.prune.params and recipe.prune.passes > 1
    params = count_params(channels_of(start, start.build())) if several else 0
    return prune_steps(recipe.chain(), params=params)
