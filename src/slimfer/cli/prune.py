"""`slimfer prune`."""

from dataclasses import replace
from typing import Annotated

from slimfer.cli.common import Answer, Common
from slimfer.cli.flags import Data, Force, Out, RecipeFile, Votes, base_recipe, default_of, over_data, override
from slimfer.cli.start import name_start
from slimfer.cli.steps import finish_step, open_step
from slimfer.compress.config import Criterion, PruneConfig

_DEFAULT = PruneConfig()


def prune(
    model: str | None = None,
    /,
    *,
    out: Out,
    data: Data = None,
    recipe: RecipeFile = None,
    votes: Votes = None,
    force: Force = False,
    criterion: Annotated[Criterion | None, default_of(_DEFAULT, "criterion")] = None,
    ratio: Annotated[float | None, default_of(_DEFAULT, "ratio")] = None,
    params: int | None = None,
    round_to: Annotated[int | None, default_of(_DEFAULT.limits, "round_to")] = None,
    min_channels: Annotated[int | None, default_of(_DEFAULT.limits, "min_channels")] = None,
    common: Common = Common(),
) -> Answer:
    """Cut filters by their L1 norm, or at random: the controls that network slimming has to beat.

    Args:
        model: a run folder or a checkpoint.
        out: see flags.
        data: see flags.
        recipe: see flags.
        votes: see flags.
        force: see flags.
        criterion: score of a filter; the lowest go.
        ratio: share of all channels to cut.
        params: number of parameters to come as close to as possible, instead of a ratio.
        round_to: round the width of every layer to a multiple of this; 1 is off.
        min_channels: channels that stay in every layer.
        common: see `Common`.
    """
    from slimfer.compress.prune import prune as pruned

    base = base_recipe(recipe, out, resume=False)
    limits = override(base.prune.limits, round_to=round_to, min_channels=min_channels)
    config = override(base.prune, criterion=criterion, ratio=ratio, params=params, limits=limits)
    resolved = replace(base, data=over_data(base.data, data, votes), model=name_start(base.model, model), prune=config)
    seed = base.train.seed if common.seed is None else common.seed
    with open_step(resolved, ("prune",), out, common, seed=seed, resume=False, force=force) as step:
        result = pruned(step.checkpoint, step.dataset["train"], config, seed=seed)
        stages = [("start", step.checkpoint, None), ("prune", result, None)]
        hint = f"slimfer train --model {out} --data {resolved.data.source} --out {out}-finetuned"
        return finish_step(step, stages, hint)
