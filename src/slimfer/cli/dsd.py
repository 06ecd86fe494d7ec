"""`slimfer dsd`."""

from dataclasses import dataclass, replace
from typing import Annotated

from cyclopts import Group, Parameter

from slimfer.cli.common import Answer, Common
from slimfer.cli.flags import (
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
from slimfer.compress.config import DsdConfig, MaskConfig
from slimfer.compress.plan import dsd_steps
from slimfer.recipes import Recipe

# Plain dense-sparse-dense training has no teacher unless the recipe says so.
DEFAULTS = replace(Recipe(), distill=replace(Recipe().distill, weight=0.0))

_DSD = DEFAULTS.dsd


@Parameter(name="*", group=Group("Phases", sort_key=60))
@dataclass(frozen=True)
class DsdFlags:
    """Flags over the recipe's [dsd] table.

    Attributes:
        rounds: of a sparse and a dense phase.
        sparse_epochs: passes over the training split under the mask, in each round.
        sparse_lr: highest learning rate under the mask.
        dense_epochs: passes over the training split without the mask, in each round.
        dense_lr: highest learning rate without the mask.
        frozen: glob pattern of layers that do not learn, and are not masked; may be given several times.
        control: run the control instead, the same phases at the same rates without any mask.
    """

    rounds: Annotated[int | None, default_of(_DSD, "rounds")] = None
    sparse_epochs: Annotated[int | None, default_of(_DSD.sparse, "epochs")] = None
    sparse_lr: Annotated[float | None, default_of(_DSD.sparse, "lr")] = None
    dense_epochs: Annotated[int | None, default_of(_DSD.dense, "epochs")] = None
    dense_lr: Annotated[float | None, default_of(_DSD.dense, "lr")] = None
    frozen: Annotated[tuple[str, ...], Parameter(metavar="GLOB", negative="", show_default="none")] = ()
    control: bool = False

    def over(self, config: DsdConfig, steps: StepFlags, seed: int | None) -> DsdConfig:
        """Return `config` with the flags that were given, and those of every training, over it."""
        frozen = self.frozen or None
        sparse = override(config.sparse, epochs=self.sparse_epochs, lr=self.sparse_lr, frozen=frozen)
        dense = override(config.dense, epochs=self.dense_epochs, lr=self.dense_lr, frozen=frozen)
        return override(
            config,
            rounds=self.rounds,
            control=self.control or None,
            sparse=steps.over(sparse, seed),
            dense=steps.over(dense, seed),
        )


def dsd(
    model: str | None = None,
    /,
    *,
    out: Out,
    data: Data = None,
    recipe: RecipeFile = None,
    votes: Votes = None,
    resume: Resume = False,
    force: Force = False,
    phases: DsdFlags = DsdFlags(),
    masks: MaskFlags = MaskFlags(),
    steps: StepFlags = StepFlags(),
    common: Common = Common(),
) -> Answer:
    """Train on under a mask of zeros, then without it (dense-sparse-dense training).

    The network keeps its size and speed; the gain is accuracy, to be held against --control.

    Args:
        model: a trained run folder or checkpoint.
        out: see flags.
        data: see flags.
        recipe: see flags.
        votes: see flags.
        resume: see flags.
        force: see flags.
        phases: see `DsdFlags`.
        masks: see `MaskFlags`.
        steps: see `StepFlags`.
        common: see `Common`.
    """
    base = base_recipe(recipe, out, resume=resume, defaults=DEFAULTS)
    resolved = replace(
        base,
        data=over_data(base.data, data, votes),
        model=name_start(base.model, model),
        mask=_without(masks.over(base.mask), phases.frozen),
        dsd=phases.over(base.dsd, steps, common.seed),
    )
    tables, seed = ("mask", "dsd", "distill"), resolved.dsd.sparse.seed
    with open_step(resolved, tables, out, common, seed=seed, resume=resume, force=force) as step:
        stages = run_planned(step, dsd_steps(resolved.chain()), common)
        hint = f"slimfer dsd --recipe {out}/recipe.toml --control --out {out}-control"
        if resolved.dsd.control:
            hint = f"slimfer evaluate {out} --data {resolved.data.source}"
        return finish_step(step, stages, hint)


def _without(config: MaskConfig, frozen: tuple[str, ...]) -> MaskConfig:
    """Return `config` without the layers that do not learn: what is zero there would stay so for good."""
    out = (f"!{pattern}" for pattern in frozen)
    return replace(config, layers=(*config.layers, *(pattern for pattern in out if pattern not in config.layers)))
