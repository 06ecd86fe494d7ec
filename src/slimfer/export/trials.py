"""The table of a search: what every file needs, how well it reads, and what that means for the budget."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from slimfer.errors import VerificationError
from slimfer.export.probe import Measured

Row = dict[str, Any]

LIMITS = ("max-size", "max-latency", "max-mac")
# Keys of a row, in the order of the limits, and how they are told.
COSTS: Mapping[str, Callable[[float], str]] = {
    "bytes": lambda number: f"{number:,.0f} bytes",
    "ms": lambda number: f"{number:.3g} ms",
    "macs": lambda number: f"{number / 1e6:.3g} M multiply-adds",
}
OTHERS = {"front": "point of the front", "control": "control"}  # verdicts on what the budget is not for
TRAINED = ("size", "final")  # in full, so that what they lose counts


class Trials:
    """Rows in the order in which files were tried: the `trials` of results.json.

    A row has `name`, `kind` (dense, smallest, trial, size, final, front, control), `step` (what was done), `parameter`,
    `bytes`, `ms`, `macs`, `params`, `accuracy` (0-1), `drop` (points against the dense network), `kept` and `why`.
    """

    def __init__(
        self, bounds: Iterable[float], accuracy: float, tell: Callable[[Row], None], *, max_drop: float
    ) -> None:
        """Begin.

        Args:
            bounds: bytes, milliseconds, multiply-adds; infinity where there is no limit.
            accuracy: of the dense network, 0-1.
            tell: is given each row as soon as it is known.
            max_drop: points that networks trained in full may lose; trials are too short to be held to it.
        """
        self.rows: list[Row] = []
        self._bounds, self._accuracy, self._tell = tuple(bounds), accuracy, tell
        self._max_drop = max_drop

    def add(self, kind: str, name: str, step: str, measured: Measured, *, kept: bool = False, **parameter: Any) -> Row:
        """Add a file."""
        row = {"name": name, "kind": kind, "step": step, "parameter": parameter, **asdict(measured), "kept": kept}
        row["drop"] = None if measured.accuracy is None else 100 * (self._accuracy - measured.accuracy)
        over = self.exceeded(measured)
        if kind in TRAINED and row["drop"] is not None and row["drop"] > self._max_drop:
            over.append(f"{row['drop']:.2f} points of {self._max_drop:g}")
        verdict = f"over the budget: {', '.join(over)}" if over else "within the budget"
        return self._note(row, OTHERS.get(kind, verdict))

    def skip(self, name: str, why: str, **parameter: Any) -> None:
        """Add a trial that was not made."""
        empty = dict.fromkeys(("step", *COSTS, "params", "accuracy", "drop"))
        self._note({"name": name, "kind": "trial", "parameter": parameter, "kept": False, **empty}, why)

    def choose(self, fitting: Sequence[Row]) -> Row:
        """Return the trial that reads best, of equal ones the smallest, and write the verdict on each."""
        best = max(fitting, key=lambda row: (row["accuracy"], -row["bytes"]))
        for row in fitting:
            behind = 100 * (best["accuracy"] - row["accuracy"])
            row["kept"] = row is best
            row["why"] = "kept: reads best" if row is best else f"dropped: {behind:.2f} points behind {best['name']}"
        return best

    def exceeded(self, measured: Measured) -> list[str]:
        """Return the limits that a file breaks, in words."""
        values = asdict(measured)
        return [
            f"{told(values[key])} of {told(limit)}"
            for (key, told), limit in zip(COSTS.items(), self._bounds, strict=True)
            if values[key] > limit
        ]

    def failure(self) -> VerificationError:
        """Return the error that says that nothing fits, and what binds."""
        shares = self._shares(min(self._files(), key=lambda row: max(self._shares(row))))
        binding = [name for name, share in zip(LIMITS, shares, strict=True) if share > 1]
        told = f"{' and '.join(binding)} bind{'s' if len(binding) == 1 else ''}" if binding else "the margin binds"
        return VerificationError(f"no network fits the budget: {told}; {self.nearest()}")

    def nearest(self) -> str:
        """Return the two files that come nearest to the limits, or read best within them, in words."""
        ranked = sorted(self._files(), key=lambda row: (max(1.0, *self._shares(row)), -(row["accuracy"] or 0)))
        return "nearest: " + "; ".join(f"{row['name']} ({_needs(row)})" for row in ranked[:2])

    def room(self) -> str:
        """Return what the final file leaves of the limits, in words; empty if it is less than a tenth of each."""
        row = next(row for row in reversed(self.rows) if row["kind"] == "final")
        left = [
            f"{told(limit - value)} of {name}"
            for name, (key, told), limit in zip(LIMITS, COSTS.items(), self._bounds, strict=True)
            if np.isfinite(limit) and (value := row[key]) < 0.9 * limit
        ]
        return f"room left: {', '.join(left)}" if left else ""

    def _files(self) -> list[Row]:
        return [row for row in self.rows if row["bytes"] is not None and row["kind"] != "control"]

    def _shares(self, row: Row) -> list[float]:
        return [row[key] / limit for key, limit in zip(COSTS, self._bounds, strict=True)]

    def _note(self, row: Row, why: str) -> Row:
        row["why"] = why
        self.rows.append(row)
        self._tell(row)
        return row


def _needs(row: Row) -> str:
    told = [what(row[key]) for key, what in COSTS.items()]
    if row["accuracy"] is not None:
        told.append(f"{100 * row['accuracy']:.2f} %")
    return ", ".join(told)
