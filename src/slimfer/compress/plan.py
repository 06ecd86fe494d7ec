"""Chains as plain values: kinds of steps, each planned with all settings as they are for it (no torch here)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from slimfer.compress.config import CompressConfig
from slimfer.errors import InputError

# The tables of `CompressConfig` that say how a kind of step is done, its own first (what it does:
# `slimfer.compress.pipeline.STEPS`).
KINDS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "slim", "distill"),
    "slim": ("slim",),
    "prune": ("prune",),
    "cut": ("cut",),
    "mask": ("mask",),
    "finetune": ("finetune", "distill"),
    "finetune-sparse": ("finetune", "slim", "distill"),
    "sparse": ("dsd", "mask", "distill"),
    "dense": ("dsd", "distill"),
    "quantize": ("quantize",),
    "qat": ("qat", "quantize", "distill"),
}


@dataclass(frozen=True)
class PlannedStep:
    """One step of a chain: its kind, a key of `KINDS`, and all settings as they are for this step."""

    kind: str
    config: CompressConfig

    def __post_init__(self) -> None:
        """Refuse an unknown kind."""
        if self.kind not in KINDS:
            raise InputError(f"unknown step {self.kind!r}; the steps are {', '.join(KINDS)}")

    def settings(self) -> dict[str, Any]:
        """Return the tables that decide what the step does, as plain values, and the seed."""
        tables = {name: asdict(getattr(self.config, name)) for name in KINDS[self.kind]}
        return {"train": {"seed": self.config.train.seed}} | tables


def usual_steps(config: CompressConfig, *, trained: bool) -> tuple[PlannedStep, ...]:
    """Return the main job: train, slim and fine-tune in passes, quantize; a `trained` network is not trained first."""
    kinds = [] if trained else ["train"]
    for number in range(config.slim.passes):
        kinds += ["slim", "finetune" if number == config.slim.passes - 1 else "finetune-sparse"]
    if config.quantize.bits < 32:
        kinds.append("quantize")
    each = replace(config, slim=config.slim.one_pass())
    return tuple(PlannedStep(kind, each) for kind in kinds)


def sparse_steps(config: CompressConfig) -> tuple[PlannedStep, ...]:
    """Return the chain of training under a mask; one that grows needs no step of its own."""
    kinds = ("sparse",) if config.mask.schedule == "cubic" else ("mask", "sparse")
    return tuple(PlannedStep(kind, config) for kind in kinds)


def dsd_steps(config: CompressConfig) -> tuple[PlannedStep, ...]:
    """Return the chain of dense-sparse-dense training after the first, dense phase, or that of its control."""
    dense = PlannedStep("dense", config)
    if config.dsd.control:
        unmasked = PlannedStep("dense", replace(config, dsd=replace(config.dsd, dense=config.dsd.sparse)))
        return (unmasked, dense) * config.dsd.rounds
    return (*sparse_steps(config), dense) * config.dsd.rounds


def prune_steps(config: CompressConfig, *, params: int = 0) -> tuple[PlannedStep, ...]:
    """Return the chain of filter pruning in passes, each one fine-tuned if [prune] says so.

    Args:
        config: the settings.
        params: parameters of the network that is cut; only needed if several passes are to reach a number of them.
    """
    kinds = ("prune", "finetune") if config.prune.finetune else ("prune",)
    passes = (replace(config, prune=one) for one in config.prune.each_pass(params))
    return tuple(PlannedStep(kind, one) for one in passes for kind in kinds)
