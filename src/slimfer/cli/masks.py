"""Flags of masks, which `slimfer dsd` and `slimfer prune` share."""

import re
from dataclasses import asdict, dataclass
from typing import Annotated

from cyclopts import Group, Parameter

from slimfer.cli.flags import default_of, override
from slimfer.compress.config import MaskConfig, Schedule
from slimfer.errors import InputError

_MASK = MaskConfig()


@Parameter(name="*", group=Group("Masks", sort_key=61))
@dataclass(frozen=True)
class MaskFlags:
    """Flags over the recipe's [mask] table.

    Attributes:
        sparsity: share of each layer's weights to set to zero, the smallest.
        pattern: N:M keeps N of every M weights along the input, instead of a sparsity.
        layers: glob pattern of the layers to mask; may be given several times; one with ! in front takes layers out.
        biases: mask biases, too.
        schedule: cubic lets the sparsity grow during the training under the mask; oneshot sets it before.
        ramp: share of that training over which a cubic sparsity grows.
    """

    sparsity: Annotated[float | None, default_of(_MASK, "sparsity")] = None
    pattern: Annotated[str | None, Parameter(metavar="N:M", show_default="none")] = None
    layers: Annotated[tuple[str, ...], Parameter(metavar="GLOB", negative="", show_default="all")] = ()
    biases: bool = False
    schedule: Annotated[Schedule | None, default_of(_MASK, "schedule")] = None
    ramp: Annotated[float | None, default_of(_MASK, "ramp")] = None

    def given(self) -> bool:
        """Return whether one of the flags was given."""
        return any(asdict(self).values()) or self.sparsity is not None

    def over(self, config: MaskConfig) -> MaskConfig:
        """Return `config` with the flags that were given over it.

        Raises:
            InputError: if both a sparsity and a pattern are given, or one is out of range.
        """
        if self.sparsity is not None and self.pattern is not None:
            raise InputError(f"either --sparsity {self.sparsity} or --pattern {self.pattern}, not both")
        keep, group = parse_pattern(self.pattern) if self.pattern else (None, None)
        if self.sparsity is not None:
            keep = group = 0
        return override(
            config,
            sparsity=self.sparsity,
            keep=keep,
            group=group,
            layers=self.layers or None,
            biases=self.biases or None,
            schedule=self.schedule,
            ramp=self.ramp,
        )


def parse_pattern(text: str) -> tuple[int, int]:
    """Return N and M of `N:M`.

    Raises:
        InputError: if the text is none.
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        raise InputError(f"--pattern is N:M with 1 <= N < M <= 64, such as 2:4, not {text!r}")
    return int(match[1]), int(match[2])
