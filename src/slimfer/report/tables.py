"""The result of a run as a sentence and as text cells, for the terminal, the README and the page alike."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slimfer.report.numbers import MISSING, compared, count, milliseconds, percent, points, size, times, whole
from slimfer.report.results import Results, Stage, points_lost, size_ratio, speed_ratio


@dataclass(frozen=True)
class Table:
    """Text cells; `numeric[i]` says whether column i is to be aligned right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]

    def markdown(self) -> str:
        """Return a GitHub table."""
        marks = ["---:" if number else "---" for number in self.numeric]
        lines = [self.header, marks, *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def summary(results: Results) -> str:
    """Return one sentence: from what to what, at what price."""
    if len(results.stages) == 1:
        return _reading(results)
    if results.kind == "distill":
        return _taught(results)
    return _comparison(results) if results.kind == "bench" else _change(results)


def _reading(results: Results) -> str:
    """Tell what one network does and costs."""
    only = results.first
    reached = "" if only.accuracy is None else f" reads {percent(only.accuracy)} % of {pictures(results)} correctly"
    facts = [
        f"{count(only.params)} parameters" if only.params else "",
        size(only.bytes) if only.bytes else "",
        f"{milliseconds(only.median_ms)} ms per picture" if only.median_ms else "",
    ]
    told = ", ".join(fact for fact in facts if fact)
    return f"{results.data.get('model', only.title)}{reached}{f' ({told})' if told else ''}."


def _comparison(results: Results) -> str:
    """Tell which of several networks is the fastest."""
    fastest = min(results.stages, key=lambda stage: stage.median_ms or math.inf)
    told = f"The fastest is {fastest.title}: {milliseconds(fastest.median_ms)} ms per picture"
    if fastest is results.first:
        return f"{told}."
    return f"{told}, {times(speed_ratio(results, fastest))} faster than {results.first.title}."


def _taught(results: Results) -> str:
    """Tell what teachers were worth."""
    first, last = results.first, results.last
    gained = -(points_lost(results, last) or 0.0)
    told = f"{gained:.2f} points more than" if gained > 0 else f"{-gained:.2f} points less than" if gained else "as"
    chosen = f"; {last.name} is the best of {len(results.sweep)}, chosen on them" if len(results.sweep) > 1 else ""
    reads = f"{results.data['model']} with teachers reads {percent(last.accuracy)} % of {pictures(results)} correctly"
    return f"{reads}, {told} without ({percent(first.accuracy)} %){chosen}."


def _change(results: Results) -> str:
    """Tell what a chain of steps made of its first network."""
    first, last = results.first, results.last
    parts = []
    if first.bytes and last.bytes:
        ratio = compared(first.bytes / last.bytes, "smaller", "larger")
        parts.append(f"from {size(first.bytes)} to {size(last.bytes)} ({ratio})")
    if first.median_ms and last.median_ms:
        ratio = compared(first.median_ms / last.median_ms, "faster", "slower")
        parts.append(f"from {milliseconds(first.median_ms)} to {milliseconds(last.median_ms)} ms per picture ({ratio})")
    model = results.data.get("model", first.title)
    text = f"{model} went {' and '.join(parts)}" if parts else f"{model} has {len(results.stages)} stages"
    lost = points_lost(results, last)
    if lost is not None:
        price = "without losing accuracy" if lost <= 0 else f"for {lost:.2f} points of accuracy"
        text += f", {price}: {percent(first.accuracy)} → {percent(last.accuracy)} % on {pictures(results)}"
    return text + "."


def pictures(results: Results) -> str:
    """Return which pictures the scores are of: `3,589 validation pictures`."""
    split = results.data.get("data", {}).get("split", "validation")
    scores = results.first.scores or {}
    return f"{scores.get('n', 0):,} {split} pictures"


def stage_table(results: Results) -> Table:
    """Return the table of stages, with ratios to the first one; columns that nobody filled are left out."""
    columns: list[tuple[str, bool, list[str]]] = [
        ("stage", False, [stage.title for stage in results.stages]),
        ("accuracy %", True, [_accuracy_cell(stage) for stage in results.stages]),
        ("macro-F1 %", True, [percent((s.scores or {}).get("macro_f1")) for s in results.stages]),
        ("parameters", True, [count(stage.params) for stage in results.stages]),
        ("MACs", True, [count(stage.macs) for stage in results.stages]),
        ("size", True, [size(stage.bytes) for stage in results.stages]),
        ("smaller", True, [times(size_ratio(results, stage)) for stage in results.stages]),
        ("ms, batch 1 (p95)", True, [_latency_cell(stage) for stage in results.stages]),
        ("faster", True, [times(speed_ratio(results, stage)) for stage in results.stages]),
        ("images/s", True, [whole(stage.throughput) for stage in results.stages]),
    ]
    kept = [column for column in columns if any(cell != MISSING for cell in column[2])]
    if len(results.stages) == 1 or results.kind == "distill":  # all students cost the same
        kept = [column for column in kept if column[0] not in ("smaller", "faster")]
    return Table(
        tuple(name for name, _, _ in kept),
        tuple(zip(*(cells for _, _, cells in kept), strict=True)),
        tuple(numeric for _, numeric, _ in kept),
    )


def _accuracy_cell(stage: Stage) -> str:
    if stage.scores is None:
        return MISSING
    low, high = stage.scores["ci95"]
    return f"{percent(stage.scores['accuracy'])} ({100 * low:.1f}–{100 * high:.1f})"


def _latency_cell(stage: Stage) -> str:
    if stage.latency_ms is None:
        return MISSING
    return f"{milliseconds(stage.latency_ms['median'])} ({milliseconds(stage.latency_ms['p95'])})"


def trade_off_table(results: Results) -> Table | None:
    """Return accuracy against bytes, one row per point, with the change against the control; None without points."""
    if not results.trade_offs:
        return None
    control = results.first
    timed = any(point.get("ms") for point in results.trade_offs)
    rows = []
    for point in results.trade_offs:
        seeds = [100 * accuracy for accuracy in point["accuracies"]]
        mean, spread = sum(seeds) / len(seeds), (max(seeds) - min(seeds)) / 2
        lost = None if control.accuracy is None else 100 * control.accuracy - mean
        rows.append(
            (
                point["series"],
                point["label"],
                size(point["bytes"]),
                times(None if not control.bytes else control.bytes / point["bytes"]),
                f"{mean:.2f}" + (f" ± {spread:.2f}" if len(seeds) > 1 else ""),
                MISSING if lost is None else points(lost),
                str(len(seeds)),
                *([milliseconds(point.get("ms"))] if timed else []),
            )
        )
    header = ("way", "point", "size", "smaller", "accuracy %", "points lost", "seeds", *(["ms"] if timed else []))
    return Table(header, tuple(rows), (False, False, *(True,) * (len(header) - 2)))


def describe_machine(machine: Mapping[str, Any]) -> str:
    """Return the machine in one line: texts as they are, numbers with their names, abilities that it has."""
    told = []
    for name, value in machine.items():
        if value is True or isinstance(value, str):
            told.append(name if value is True else value)
        elif value not in (None, False):
            told.append(f"{name} {value}")
    return ", ".join(told)
