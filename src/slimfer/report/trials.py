"""The table of a search: each file that was tried, what it needs, how well it reads, why it was kept or dropped."""

from collections.abc import Mapping, Sequence
from typing import Any

from slimfer.report.numbers import MISSING, count, counted, milliseconds, percent, points, signed, size
from slimfer.report.tables import Table

HEADER = ("trial", "step", "parameter", "size", "MACs", "ms", "accuracy %", "drop", "verdict")
NUMERIC = (False, False, False, True, True, True, True, True, False)
# Of the columns while the search runs; the last one has no end.
WIDTHS = (18, 44, 15, 9, 9, 8, 10, 7, 0)


def trial_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the whole table."""
    return Table(HEADER, tuple(cells(row) for row in rows), NUMERIC)


def controls_table(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """Return what was found beside its controls at the same bytes; None if none were trained."""
    found, controls = _beside(rows)
    if found is None or not controls:
        return None
    told = [
        (
            "the search" if row is found else row["name"].removeprefix("control-").replace("-", " "),
            row["step"],
            size(row.get("bytes")),
            percent(row["accuracy"]),
            MISSING if row is found else signed(100 * (row["accuracy"] - found["accuracy"])),
        )
        for row in (found, *controls)
    ]
    header = ("way", "network", "size", "accuracy %", "points against the search")
    return Table(header, tuple(told), (False, False, True, True, True))


def controls_told(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return whether the search was worth it."""
    found, controls = _beside(rows)
    if found is None:
        return ""
    beaten = sum(row["accuracy"] < found["accuracy"] for row in controls)
    return (
        f"What the search found reads better than {beaten} of {counted(len(controls), 'control')} of about the same"
        " bytes, trained as long. Each was trained once: some tenths of a point are chance."
    )


def _beside(rows: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any] | None, list[Mapping[str, Any]]]:
    """Return the row of what ships, and those of its controls."""
    scored = [row for row in rows if row.get("accuracy") is not None]
    found = next((row for row in scored if row["kind"] == "final"), None)
    return found, [row for row in scored if row["kind"] == "control"]


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
        MISSING if drop is None else points(drop),
        row["why"],
    )


def line(texts: Sequence[str] = HEADER) -> str:
    """Return cells as one line of text, in columns."""
    padded = [
        text.rjust(width) if numeric else text.ljust(width)
        for text, width, numeric in zip(texts, WIDTHS, NUMERIC, strict=True)
    ]
    return "  ".join(padded).rstrip()
