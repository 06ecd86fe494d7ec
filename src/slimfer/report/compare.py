"""Runs beside each other on one page: what they reached, what they read differently, which settings made it so."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slimfer.answers import read_answers, same_pictures
from slimfer.errors import InputError
from slimfer.files import write_text
from slimfer.metrics import Labels
from slimfer.mistakes import paired_change
from slimfer.report.again import commands
from slimfer.report.ahead import ahead_table, ahead_told
from slimfer.report.errors import change_table, change_told, paired_cells, paired_told
from slimfer.report.numbers import MISSING, compared, count, milliseconds, percent, signed, size, times, whole
from slimfer.report.plots import differences, stage_accuracy, stage_bytes, trade_offs
from slimfer.report.results import Results, Stage, load_results, speed_ratio
from slimfer.report.tables import Table, describe_machine, stage_table, summary
from slimfer.report.template import fill

GENERATOR = '<meta name="generator" content="slimfer">'
NO_RUNS = ("bench", "study", "analysis")  # these compare networks themselves
MOST_SETTINGS = 300  # rows of the table of settings that differ


@dataclass(frozen=True)
class Run:
    """One side of a comparison; its last stage is what is compared.

    Attributes:
        name: unlike that of every other side.
        results: its results.json.
        answers: of each stage to every picture, true labels under the empty name; None if they were not kept.
    """

    name: str
    results: Results
    answers: Mapping[str, Labels] | None = None

    @property
    def stage(self) -> Stage:
        """Return the last stage under the run's name."""
        return replace(self.results.last, name=self.name, title=self.name)


def write_comparison(paths: Sequence[Path], page: Path | None = None) -> Path:
    """Write one page about several runs and return its path.

    Args:
        paths: run folders, or results.json files; the first is what the others are compared with.
        page: the file to write; `report-A-B.html` in the current folder unless given.

    Raises:
        InputError: if there are fewer than two, a results.json is missing or not one of ours or not of a run, or
            `page` is a file that slimfer did not write.
    """
    runs = open_runs(paths)
    if page is None:
        page = Path(re.sub(r"[^\w.-]+", "-", "-".join(["report", *(run.name for run in runs)]))[:200] + ".html")
    check_page(page)
    write_text(page, compare(runs))
    return page


def check_page(page: Path) -> None:
    """Refuse to write over what is not a page of slimfer.

    Raises:
        InputError: if it is there and is something else.
    """
    if not page.exists() and not page.is_symlink():
        return
    if page.is_file():
        with open(page, encoding="utf-8", errors="replace") as stream:
            if GENERATOR in stream.read(4096):
                return
    raise InputError(f"{page} exists and is not a report; give another file with --out")


def open_runs(paths: Sequence[Path]) -> tuple[Run, ...]:
    """Read the runs to compare.

    Raises:
        InputError: see `write_comparison`.
    """
    if len(paths) < 2:
        raise InputError("a comparison needs at least two runs")
    names = [path.stem if path.is_file() else path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{repeated[0]} is named twice")
    runs = []
    for path, name in zip(paths, names, strict=True):
        file = path if path.is_file() else path / "results.json"
        results = load_results(file)
        if results.kind in NO_RUNS:
            raise InputError(f"{file} is of the kind {results.kind}, which compares networks itself; give runs")
        runs.append(Run(name, results, read_answers(file.parent, results.data.get("answers"))))
    return tuple(runs)


def compare(runs: Sequence[Run]) -> str:
    """Return the page; the first run is what the others are compared with."""
    first, *others = runs
    paired = {run.name: paired_between(first, run) for run in others}
    two = paired[others[0].name] if len(runs) == 2 else None
    charts = _charts(runs, two)
    ahead = ahead_table([run.name for run in runs], [run.results for run in runs], two)
    content = {
        "kind": "report",
        "title": " and ".join(run.name for run in runs),
        "summary": " ".join([*(_told(first, run, paired[run.name]) for run in others), ahead_told(ahead)]),
        "figures": [],
        "caveats": caveats(runs),
        "sides": _sides(runs),
        "ahead": ahead,
        "paired": _paired(first, others, paired),
        "change": None if two is None else change_table(two),
        "change_told": "" if two is None else change_told(two),
        "classes": _classes(runs),
        "settings": settings_that_differ(runs),
        "lacking": settings_that_some_lack(runs),
        "stages": [
            {"name": run.name, "summary": summary(run.results), "table": stage_table(run.results)} for run in runs
        ],
        "commands": [{"name": run.name, "commands": commands(run.results)} for run in runs],
        "facts": _facts(runs),
        "charts": charts,
    }
    return fill("compare.html.j2", content)


def paired_between(first: Run, other: Run) -> dict[str, Any] | None:
    """Return what `other` reads differently from `first` on the same pictures; None if that cannot be known."""
    parts = [run.results.data.get("answers") for run in (first, other)]
    tables = [run.answers for run in (first, other)]
    if None in parts or None in tables or first.results.labels != other.results.labels:
        return None
    labels = [table[""] for table in tables if table is not None]
    last = [run.answers.get(run.results.last.name) for run in (first, other) if run.answers is not None]
    if last[0] is None or last[1] is None or len(labels[0]) != len(labels[1]):
        return None
    if (labels[0] != labels[1]).any() or not same_pictures(*(part for part in parts if part is not None)):
        return None
    return paired_change(labels[0], last[0], last[1], first.results.labels)


# --- sentences -------------------------------------------------------------------------------------------------------
def _told(first: Run, other: Run, paired: Mapping[str, Any] | None) -> str:
    """Return how one run differs from the first, in a sentence."""
    old, new = first.results.last, other.results.last
    parts = []
    if old.bytes and new.bytes:
        ratio = old.bytes / new.bytes
        said = compared(ratio, "smaller", "larger")
        parts.append(f"{said} ({size(old.bytes)} → {size(new.bytes)})" if old.bytes != new.bytes else "of equal size")
    if old.accuracy is not None and new.accuracy is not None:
        scores = f"({percent(old.accuracy)} → {percent(new.accuracy)} %"
        if paired is None:
            points = 100 * (new.accuracy - old.accuracy)
            parts.append(f"differs by {signed(points)} points {scores}, not on the same pictures, as far as is known)")
        else:
            parts.append(f"differs by {paired_told(paired)} on the same {whole(paired['n'])} pictures {scores})")
    return f"Against {first.name}, {other.name} is {' and '.join(parts)}." if parts else ""


def caveats(runs: Sequence[Run]) -> list[str]:
    """Return what keeps the runs from being compared without a second thought."""

    def differ(values: Iterable[Any]) -> bool:
        return len({json.dumps(value, sort_keys=True) for value in values}) > 1

    sources = [run.results.data.get("data", {}) for run in runs]
    told = []
    if any(run.results.last.latency_ms for run in runs):
        machines = [run.results.data.get("machine", {}) for run in runs]
        elsewhere = "on different machines" if differ(machines) else "at different times"
        told.append(
            f"Times were measured {elsewhere}: compare how much faster each run is than its own control, or measure"
            " again side by side with slimfer bench."
        )
    if differ(run.results.labels for run in runs):
        told.append("The classes are not the same, so accuracies do not compare.")
    if differ(source.get("split") for source in sources) or differ(
        (run.results.last.scores or {}).get("n") for run in runs
    ):
        told.append("The scores are of different pictures, so their differences are partly chance.")
    elif differ(source.get("source") for source in sources):
        told.append("The data came from different places; whether the pictures are the same is told below.")
    if differ(run.results.data.get("versions", {}) for run in runs):
        told.append("Versions of the software differ; see the end of the page.")
    if differ(run.results.data.get("seed") for run in runs):
        told.append("The seeds differ: some tenths of a point are chance.")
    return told


# --- tables ----------------------------------------------------------------------------------------------------------
def _sides(runs: Sequence[Run]) -> Table:
    """Return the last stage of each run; speed only against the run's own control, which was timed beside it."""
    control = runs[0].results.last.bytes
    header = (
        "run", "network", "accuracy %", "macro-F1 %", "ECE %", "parameters", "MACs", "size", "smaller", "ms, batch 1",
        "faster",
    )  # fmt: skip
    rows = []
    for run in runs:
        last, scores = run.results.last, run.results.last.scores or {}
        low, high = scores.get("ci95", (0.0, 0.0))
        accuracy = f"{percent(last.accuracy)} ({100 * low:.1f}–{100 * high:.1f})" if scores else MISSING
        rows.append(
            (
                run.name,
                str(run.results.data.get("model", last.title)),
                accuracy,
                percent(scores.get("macro_f1")),
                percent(scores.get("ece")),
                count(last.params),
                count(last.macs),
                size(last.bytes),
                times(control / last.bytes if control and last.bytes else None),
                milliseconds(last.median_ms),
                times(speed_ratio(run.results, last)) if len(run.results.stages) > 1 else MISSING,
            )
        )
    return Table(header, tuple(rows), (False, False, *(True,) * 9))


def _paired(first: Run, others: Sequence[Run], paired: Mapping[str, Mapping[str, Any] | None]) -> Table | None:
    """Return lost and gained pictures of each run against the first; None if no run kept its answers."""
    rows: list[tuple[str, ...]] = []
    for run in others:
        change = paired[run.name]
        if change is None:
            rows.append((f"{first.name} → {run.name}", *(MISSING,) * 5))
        else:
            rows.append((f"{first.name} → {run.name}", whole(change["n"]), *paired_cells(change)))
    if all(paired[run.name] is None for run in others):
        return None
    header = ("runs", "pictures", "lost", "gained", "points", "95 % interval")
    return Table(header, tuple(rows), (False, *(True,) * 5))


def _classes(runs: Sequence[Run]) -> Table | None:
    """Return the recall of each class in every run, with the differences to the first; None if they do not compare."""
    scored = [run.results.last.scores for run in runs]
    if None in scored or any(run.results.labels != runs[0].results.labels for run in runs):
        return None
    per_class = [scores["per_class"] for scores in scored if scores is not None]
    rows = []
    for name in per_class[0]:
        recalls = [own[name]["recall"] for own in per_class]
        changes = [f"{percent(recall)} ({signed(100 * (recall - recalls[0]))})" for recall in recalls[1:]]
        rows.append((name, whole(per_class[0][name]["support"]), percent(recalls[0]), *changes))
    header = ("class", "pictures", *(run.name for run in runs))
    return Table(header, tuple(rows), (False, *(True,) * (len(header) - 1)))


def settings_that_differ(runs: Sequence[Run]) -> Table | None:
    """Return the settings that the recipes of all runs have, but not all the same; None if there are none."""
    return _settings(runs, [row for row in _different(runs) if MISSING not in row[1:]])


def settings_that_some_lack(runs: Sequence[Run]) -> Table | None:
    """Return the settings of steps that not every run has; None if there are none."""
    return _settings(runs, [row for row in _different(runs) if MISSING in row[1:]])


def _different(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Return name and values of every setting that is not the same in all runs."""
    flat = [dict(_flat(run.results.data.get("recipe") or {})) for run in runs]
    names = list(dict.fromkeys(name for settings in flat for name in settings))
    rows = [(name, *(settings.get(name, MISSING) for settings in flat)) for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _settings(runs: Sequence[Run], rows: Sequence[tuple[str, ...]]) -> Table | None:
    header = ("setting", *(run.name for run in runs))
    return Table(header, tuple(rows[:MOST_SETTINGS]), (False,) * len(header)) if rows else None


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Give the leaves of nested tables by their dotted names, as text."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _facts(runs: Sequence[Run]) -> Table:
    """Return where each run came from."""
    rows = []
    for title, told in (
        ("kind", lambda data: data["kind"]),
        ("seed", lambda data: data.get("seed")),
        ("data", lambda data: data.get("data", {}).get("source")),
        ("machine", lambda data: describe_machine(data.get("machine", {}))),
        ("versions", lambda data: ", ".join(f"{name} {value}" for name, value in data.get("versions", {}).items())),
        ("artifact", lambda data: (data.get("artifact") or {}).get("sha256", "")[:16]),
    ):
        values = [told(run.results.data) for run in runs]
        if any(value not in (None, "") for value in values):
            rows.append((title, *(MISSING if value in (None, "") else str(value) for value in values)))
    return Table(("", *(run.name for run in runs)), tuple(rows), (False,) * (1 + len(runs)))


# --- charts ----------------------------------------------------------------------------------------------------------
def _charts(runs: Sequence[Run], two: Mapping[str, Any] | None) -> dict[str, str]:
    drawn = {}
    last = [run.stage for run in runs]
    if all(stage.scores for stage in last):
        drawn["accuracy"] = stage_accuracy(last)
    if all(stage.bytes for stage in last):
        drawn["bytes"] = stage_bytes(last)
    points = [point for run in runs for point in _points(run)]
    if len({point["bytes"] for point in points}) > 1:
        drawn["trade_offs"] = trade_offs(points, runs[0].results.first)
    if two is not None:
        rows = [(name, row["difference"], row["ci95"]) for name, row in two["per_class"].items()]
        drawn["class_change"] = differences("change of the recall of each class", rows)
    return drawn


def _points(run: Run) -> list[dict[str, Any]]:
    """Return the stages of a run as points of accuracy against bytes; of stages of one size the best."""
    best: dict[int, dict[str, Any]] = {}
    for stage in run.results.stages:
        if stage.bytes and stage.accuracy is not None:
            point = {"series": run.name, "label": "", "bytes": stage.bytes, "accuracies": [stage.accuracy]}
            step = round(50 * math.log(stage.bytes))  # sizes within some 2 % count as one
            if step not in best or best[step]["accuracies"] < point["accuracies"]:
                best[step] = point
    return list(best.values())
