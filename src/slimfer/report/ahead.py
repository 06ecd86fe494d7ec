"""Which of several runs is ahead in what, and whether that could be chance."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slimfer.report.numbers import count, percent, size, times
from slimfer.report.results import Results
from slimfer.report.speed import runtime_ratio
from slimfer.report.tables import Table

CHANCE = "could be chance"

# What is compared: its name, its value in a run, how it is written, and whether less is better.
Measure = tuple[str, Callable[[Results], float | None], Callable[[float | None], str], bool]


def _score(name: str) -> Callable[[Results], float | None]:
    return lambda results: (results.last.scores or {}).get(name)


MEASURES: tuple[Measure, ...] = (
    ("accuracy %", _score("accuracy"), percent, False),
    ("macro-F1 %", _score("macro_f1"), percent, False),
    ("calibration error %", _score("ece"), percent, True),
    ("size", lambda results: results.last.bytes, size, True),
    ("MACs", lambda results: results.last.macs, count, True),
    ("speed-up over float", lambda results: runtime_ratio(results, results.last), times, False),
)


def ahead_table(names: Sequence[str], runs: Sequence[Results], paired: Mapping[str, Any] | None) -> Table | None:
    """Return who is ahead in each measure that all runs have; None if there is none.

    Args:
        names: of the runs.
        runs: their results.
        paired: of exactly two runs, how their answers to the same pictures differ.
    """
    rows = []
    for what, value_of, told, less in MEASURES:
        values = [value for run in runs if (value := value_of(run)) is not None]
        if len(values) < len(runs):
            continue
        best = (min if less else max)(values)
        winners = [name for name, value in zip(names, values, strict=True) if told(value) == told(best)]
        leader = "equal" if len(winners) == len(runs) else ", ".join(winners)
        doubt = what == "accuracy %" and leader != "equal" and _could_be_chance(runs, paired)
        rows.append((what, f"{leader} ({CHANCE})" if doubt else leader, *map(told, values)))
    header = ("measure", "ahead", *names)
    return Table(header, tuple(rows), (False, False, *(True,) * len(names))) if rows else None


def ahead_told(table: Table | None) -> str:
    """Return a sentence: who is ahead in what, the first named being the most often so."""
    if table is None:
        return ""
    wins: dict[str, list[str]] = {}
    for what, leader, *_ in table.rows:
        if leader in table.header[2:]:
            wins.setdefault(leader, []).append(what.removesuffix(" %"))
    told = [f"{name} is ahead in {', '.join(whats)}" for name, whats in sorted(wins.items(), key=lambda w: -len(w[1]))]
    return f"{'; '.join(told)}." if told else ""


def _could_be_chance(runs: Sequence[Results], paired: Mapping[str, Any] | None) -> bool:
    """Return whether intervals leave it open who reads best: the paired one, without it those of the accuracies."""
    if paired is not None:
        low, high = paired["ci95"]
        return bool(low <= 0 <= high)
    ranked = sorted(((run.last.scores or {})["ci95"] for run in runs), key=lambda bounds: -bounds[1])
    return any(bounds[1] >= ranked[0][0] for bounds in ranked[1:])
