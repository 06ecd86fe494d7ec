"""Budgets on the command line: what the artifact may at most need, checked on the written file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from cyclopts.validators import Number

from slimfer.cli.units import Count, Milliseconds, Size
from slimfer.compress.goal import NO_DROP, SearchConfig
from slimfer.errors import InputError
from slimfer.report.numbers import count, size

if TYPE_CHECKING:
    from slimfer.export.parity import Check


_TOLD = (
    "The first three make it search what loses least within them, --max-drop alone what is smallest; "
    "with --ratio or --steps they are only checked."
)


@Parameter(name="*", group=Group("Budget", help=_TOLD, sort_key=40))
@dataclass(frozen=True)
class Budget:
    """What the artifact may at most need; more is exit code 3.

    Attributes:
        max_size: size of the file, e.g. 250KB (KB = 1000 bytes, KiB = 1024).
        max_latency: median time for one picture on one thread, e.g. 0.1ms.
        max_mac: multiply-adds for one picture, e.g. 10M.
        max_drop: percentage points of accuracy lost against the first stage.
    """

    max_size: Size | None = None
    max_latency: Milliseconds | None = None
    max_mac: Count | None = None
    max_drop: Annotated[float | None, Parameter(validator=Number(gte=-100, lte=100))] = None

    def __post_init__(self) -> None:
        """Refuse limits that nothing can meet."""
        for name in ("max_size", "max_latency", "max_mac"):
            if (limit := getattr(self, name)) is not None and limit <= 0:
                raise InputError(f"--{name.replace('_', '-')} must be above 0, not {limit:g}")

    @classmethod
    def of(cls, goal: SearchConfig) -> "Budget":
        """Return the limits of a search."""
        drop = None if goal.max_drop == NO_DROP else goal.max_drop
        return cls(goal.max_size or None, goal.max_latency or None, goal.max_mac or None, drop)

    def over(self, goal: SearchConfig) -> SearchConfig:
        """Return the search with the limits that were given over its own."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return replace(goal, **given)

    def checks(self, stages: Sequence[dict[str, Any]]) -> "tuple[Check, ...]":
        """Compare the last of results.json's stages, which is the artifact, with the limits that were given.

        Args:
            stages: of results.json.
        """
        from slimfer.export.parity import Check

        first, last = stages[0], stages[-1]
        drop = 100 * (first["scores"]["accuracy"] - last["scores"]["accuracy"])
        measured = (
            ("size", last["bytes"], self.max_size, f"bytes at most ({size(last['bytes'])})"),
            ("latency", last["latency_ms"]["median"], self.max_latency, "ms at most, median, one picture, one thread"),
            ("multiply-adds", last["macs"], self.max_mac, f"at most, one picture ({count(last['macs'])})"),
            ("accuracy lost", drop, self.max_drop, f"points at most, against {first['title']}"),
        )
        return tuple(
            Check(name, value, limit, value <= limit, note)
            for name, value, limit, note in measured
            if limit is not None
        )
