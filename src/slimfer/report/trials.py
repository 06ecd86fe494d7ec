"""The table of a search: each file that was tried, what it needs, how well it reads, why it was kept or dropped."""

from collections.abc import Mapping, Sequence
from typing import Any

from slimfer.report.numbers import MISSING, count, milliseconds, percent, size
from slimfer.report.tables import Table

HEADER = ("trial", "step", "parameter", "size", "MACs", "ms", "accuracy %", "drop", "verdict")
NUMERIC = (False, False, False, True, True, True, True, True, False)
# Of the columns while the search runs; the last one has no end.
WIDTHS = (18, 44, 15, 9, 9, 8, 10, 7, 0)


def trial_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the whole table."""
    return Table(HEADER, tuple(cells(row) for row in rows), NUMERIC)


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one row as text."""
    drop = row.get("drop")
    return (
        row["name"],
        row.get("step") or MISSING,
        ", ".join(f"{name} {value:g}" for name, value in row.get("parameter", {}).items()) or MISSING,
        size(row.get("bytes")),
        count(row.get("macs")),
        milliseconds(row.get("ms")),
        percent(row.get("accuracy")),
        MISSING if drop is None else f"{drop:.2f}",
        row["why"],
    )


def line(texts: Sequence[str] = HEADER) -> str:
    """Return cells as one line of text, in columns."""
    padded = [
        text.rjust(width) if numeric else text.ljust(width)
        for text, width, numeric in zip(texts, WIDTHS, NUMERIC, strict=True)
    ]
    return "  ".join(padded).rstrip()
