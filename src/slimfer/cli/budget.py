"""Budgets on the command line: what the artifact may at most need, checked on the written file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from cyclopts.validators import Number

from slimfer.cli.units import Milliseconds, Size
from slimfer.report.numbers import size

if TYPE_CHECKING:
    from slimfer.export.parity import Check


@Parameter(name="*", group=Group("Budget", sort_key=40))
@dataclass(frozen=True)
class Budget:
    """What the artifact may at most need; more is exit code 3.

    Attributes:
        max_size: size of the file, e.g. 250KB (KB = 1000 bytes, KiB = 1024).
        max_latency: median time for one picture on one thread, e.g. 0.1ms.
        max_drop: percentage points of accuracy lost against the first stage.
    """

    max_size: Size | None = None
    max_latency: Milliseconds | None = None
    max_drop: Annotated[float | None, Parameter(validator=Number(gte=-100, lte=100))] = None

    def checks(self, stages: Sequence[dict[str, Any]]) -> "tuple[Check, ...]":
        """Compare the last of results.json's stages, which is the artifact, with the limits that were given."""
        from slimfer.export.parity import Check

        first, last = stages[0], stages[-1]
        drop = 100 * (first["scores"]["accuracy"] - last["scores"]["accuracy"])
        measured = (
            ("size", last["bytes"], self.max_size, f"bytes at most ({size(last['bytes'])})"),
            ("latency", last["latency_ms"]["median"], self.max_latency, "ms at most, median, one picture, one thread"),
            ("accuracy lost", drop, self.max_drop, f"points at most, against {first['title']}"),
        )
        return tuple(
            Check(name, value, limit, value <= limit, note)
            for name, value, limit, note in measured
            if limit is not None
        )
