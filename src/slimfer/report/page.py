"""One self-contained HTML page from results.json: no request leaves it, and its content policy enforces that."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimfer.files import write_text
from slimfer.report.again import commands, lineage, lineage_table
from slimfer.report.analysis import analysis_charts, analysis_content
from slimfer.report.errors import errors
from slimfer.report.front import front_charts
from slimfer.report.numbers import MISSING, compared, counted, milliseconds, percent, signed, size, times, whole
from slimfer.report.plots import chart_name, charts
from slimfer.report.results import Results, Stage, load_results, points_lost, size_ratio, speed_ratio
from slimfer.report.speed import runtime_control, runtime_ratio, speed_table, speed_told
from slimfer.report.tables import Table, pictures, stage_table, summary, trade_off_table
from slimfer.report.template import fill
from slimfer.report.thumbnails import Thumbnails, thumbnails
from slimfer.report.trials import controls_table, controls_told, trial_table
from slimfer.toml import to_toml

Text = dict[str, str]


def write_report(run: Path | str, *, pictures: bool = True) -> Path:
    """Write `report.html` and `plots/*.svg` beside the `results.json` of a run folder; return the page's path.

    Args:
        run: the folder.
        pictures: show the pictures that the run kept of mistakes and of labels in doubt.

    Raises:
        InputError: if there is no results.json, or it is not one of ours.
    """
    run = Path(run)
    results = load_results(run / "results.json")
    drawn = _drawn(results)
    for name, svg in drawn.items():
        write_text(run / "plots" / f"{name}.svg", svg)
    page = run / "report.html"
    faces = thumbnails(run, results, wanted=pictures)
    write_text(page, render(results, drawn, faces, lineage(run, results)))
    return page


def render(
    results: Results,
    drawn: Mapping[str, str] | None = None,
    faces: Thumbnails | None = None,
    steps: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the page.

    Args:
        results: of the run.
        drawn: the charts, when they have been drawn already.
        faces: the pictures that it may show; None for none.
        steps: the lineage of its network, for results that do not hold it themselves.
    """
    drawn = _drawn(results) if drawn is None else drawn
    content = {**_content(results), **errors(results, faces or Thumbnails()), "charts": drawn}
    steps = steps or results.data.get("lineage") or ()
    told = {"lineage": lineage_table(steps), "lineage_json": json.dumps(steps, indent=2, ensure_ascii=False)}
    return fill("page.html.j2", content | told)


def _drawn(results: Results) -> dict[str, str]:
    return charts(results) | front_charts(results) | analysis_charts(results)


def _content(results: Results) -> dict[str, Any]:
    """Return everything that the template shows besides the charts, as text."""
    data = results.data
    scored = [stage for stage in results.stages if stage.scores is not None]
    return {
        **analysis_content(results),
        "kind": results.kind,
        "title": "Comparison" if results.kind == "bench" else str(data.get("model", results.first.title)),
        "summary": summary(results),
        "figures": [] if results.kind == "bench" else _figures(results),
        "several": len(results.stages) > 1,
        "stages": stage_table(results),
        "stages_caption": _stages_caption(results),
        "checks": [_check(check) for check in results.checks],
        "checks_told": _checks_told(results.checks),
        "trials": trial_table(data["trials"]) if data.get("trials") else None,
        "controls": controls_table(data.get("trials", ())),
        "controls_told": controls_told(data.get("trials", ())),
        "trade_offs": trade_off_table(results),
        "layers": _layers(results.layers),
        "biggest": _biggest(results.layers),
        "layers_told": _layers_told(results.layers),
        "curves": [_curve(curve) for curve in results.curves if curve["rows"]],
        "matrices": [
            {
                "chart": chart_name("confusion", stage.name),
                "caption": f"{stage.title}: answers in % of the pictures of each class.",
                "caption_table": f"{stage.title}: pictures of each class, and what they were read as",
                "table": _confusion(stage, results.labels),
            }
            for stage in {stage.name: stage for stage in (*scored[:1], *scored[-1:])}.values()
        ],
        "classes": _classes(scored),
        "classes_title": "What changed in each class" if len(scored) > 1 else "Scores of each class",
        "classes_caption": _classes_caption(scored),
        "bins": _bins([stage for stage in results.stages if stage.reliability]),
        "speed": None if results.kind == "bench" else speed_table(results),
        "speed_told": speed_told(results),
        "commands": commands(results),
        "facts": _facts(data),
        "recipe": to_toml(data["recipe"]) if data.get("recipe") else "",
    }


# --- head ----------------------------------------------------------------------------------------------------------
def _figures(results: Results) -> list[Text]:
    """Return the few numbers that answer "was it worth it?"."""
    first, last = results.first, results.last
    if first is last:
        known = (
            ("accuracy", first.accuracy, percent(first.accuracy) + " %", f"on {pictures(results)}"),
            ("size", first.bytes, size(first.bytes), "as stored"),
            ("time for one picture", first.median_ms, milliseconds(first.median_ms) + " ms", "median, one thread"),
        )
        return [{"name": name, "value": value, "note": note} for name, there, value, note in known if there is not None]
    figures = []
    if (ratio := size_ratio(results, last)) is not None and results.kind != "distill":
        note = f"{size(first.bytes)} → {size(last.bytes)}"
        ships = (results.data.get("artifact") or {}).get("bytes")
        if ships and size(ships) != size(last.bytes):
            note += f"; {size(ships)} with scores and recipe, as it ships"
        figures.append(_figure(ratio, "smaller", "larger", note))
    if (ratio := speed_ratio(results, last)) is not None:
        note = f"{milliseconds(first.median_ms)} → {milliseconds(last.median_ms)} ms per picture"
        if (inside := runtime_ratio(results, last)) is not None and runtime_control(results, last) is not first:
            note += f"; {times(inside)} in the same runtime"
        figures.append(_figure(ratio, "faster", "slower", note))
    if (lost := points_lost(results, last)) is not None:
        note = f"accuracy {percent(first.accuracy)} → {percent(last.accuracy)} %"
        figures.append({"name": "points of accuracy", "value": signed(-lost), "note": note})
    if results.checks:
        passed = sum(bool(check["passed"]) for check in results.checks)
        note = "all passed" if passed == len(results.checks) else f"{len(results.checks) - passed} failed"
        figures.append({"name": "checks", "value": f"{passed} of {len(results.checks)}", "note": note})
    return figures


def _figure(ratio: float, more: str, less: str, note: str) -> Text:
    value, _, name = compared(ratio, more, less).partition(" ")
    return {"name": name, "value": value, "note": note}


def _stages_caption(results: Results) -> str:
    told = [f"Accuracy with its 95 % interval on {pictures(results)}" if results.first.scores else ""]
    told.append("latency and throughput on one thread, interleaved" if results.first.latency_ms else "")
    told.append("ratios to the first row" if len(results.stages) > 1 else "")
    caption = "; ".join(part for part in told if part)
    return caption[:1].upper() + caption[1:] or "Stages"


def _checks_told(checks: Sequence[Mapping[str, Any]]) -> str:
    failed = [str(check["name"]) for check in checks if not check["passed"]]
    if failed:
        return f"Not fit to ship: {', '.join(failed)} failed."
    return "Every check of the file that ships passed; a check that fails makes the command exit with code 3."


def _check(check: Mapping[str, Any]) -> dict[str, Any]:
    return {**check, "value": _value(check["value"]), "limit": _value(check["limit"])}


# --- layers --------------------------------------------------------------------------------------------------------
def _layers(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    if not rows:
        return None
    header = ("layer", "kind", "channels", "kept", "kept %", "parameters", "left", "MACs", "MACs left")
    cells = [
        (
            row["name"],
            row["kind"],
            whole(row["out_before"]),
            whole(row["out_after"]),
            f"{_share(row['out_after'], row['out_before']):.1f}",
            whole(row["params_before"]),
            whole(row["params_after"]),
            whole(row["macs_before"]),
            whole(row["macs_after"]),
        )
        for row in rows
    ]
    return Table(header, tuple(cells), (False, False, *(True,) * 7))


def _biggest(rows: Sequence[Mapping[str, Any]], most: int = 8) -> Table:
    """Return the layers that lost most parameters, with their share of all that was lost."""
    lost = {row["name"]: row["params_before"] - row["params_after"] for row in rows}
    total = sum(lost.values())
    ranked = sorted(lost, key=lambda name: -lost[name])[:most]
    cells = tuple((name, whole(lost[name]), f"{_share(lost[name], total):.1f}") for name in ranked)
    return Table(("layer", "parameters lost", "% of all lost"), cells, (False, True, True))


def _layers_told(rows: Sequence[Mapping[str, Any]]) -> str:
    def told(what: str, name: str) -> str:
        before, after = (sum(row[f"{what}_{when}"] for row in rows) for when in ("before", "after"))
        return f"{_share(after, before):.1f} % of the {name}"

    if not rows:
        return ""
    return f"Left: {told('out', 'channels')}, {told('params', 'parameters')}, {told('macs', 'multiply-adds')}."


# --- training, classes, reliability --------------------------------------------------------------------------------
def _curve(curve: Mapping[str, Any]) -> dict[str, Any]:
    rows = curve["rows"]
    best = max(rows, key=lambda row: row["val/accuracy"])
    header = tuple(rows[0])
    cells = tuple(tuple(_value(row.get(name)) for name in header) for row in rows)
    return {
        "stage": curve["stage"],
        "accuracy": chart_name("accuracy", curve["stage"]),
        "loss": chart_name("loss", curve["stage"]),
        "title": f"{curve['stage']}, {counted(len(rows), 'epoch')}",
        "best": f"best {percent(best['val/accuracy'])} % in epoch {best['epoch']:g}.",
        "table": Table(header, cells, (True,) * len(header)),
    }


def _confusion(stage: Stage, labels: Sequence[str]) -> Table:
    """Return how many pictures of each class were read as which."""
    rows = zip(labels, (stage.scores or {})["confusion"], strict=True)
    cells = tuple((label, *map(whole, counts)) for label, counts in rows)
    return Table(("label", *(f"read as {label}" for label in labels)), cells, (False, *(True,) * len(labels)))


def _classes(scored: Sequence[Stage]) -> Table | None:
    """Return recall and F1 per class, of the first and the last stage and their difference."""
    if not scored:
        return None
    first, last = ((stage.scores or {})["per_class"] for stage in (scored[0], scored[-1]))
    if len(scored) == 1:
        header: tuple[str, ...] = ("class", "pictures", "precision %", "recall %", "F1 %")
        cells = [
            (name, whole(row["support"]), *(percent(row[key]) for key in ("precision", "recall", "f1")))
            for name, row in first.items()
        ]
        return Table(header, tuple(cells), (False, *(True,) * 4))
    header = ("class", "pictures", "recall %", "recall after %", "change", "F1 %", "F1 after %", "F1 change")
    cells = [(name, whole(row["support"]), *_change(row, last[name])) for name, row in first.items()]
    return Table(header, tuple(cells), (False, *(True,) * 7))


def _change(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(
        cell
        for key in ("recall", "f1")
        for cell in (percent(before[key]), percent(after[key]), signed(100 * (after[key] - before[key])))
    )


def _classes_caption(scored: Sequence[Stage]) -> str:
    if len(scored) < 2:
        return "Recall is the share of a class's pictures that were read as that class"
    return f"From {scored[0].title} to {scored[-1].title}, in percentage points"


def _bins(stages: Sequence[Stage]) -> Table:
    ends = list({stage.name: stage for stage in (*stages[:1], *stages[-1:])}.values())
    cells = tuple(
        (stage.title, percent(confidence), percent(accuracy), whole(count))
        for stage in ends
        for confidence, accuracy, count in stage.reliability
    )
    return Table(("stage", "confidence %", "accuracy %", "pictures"), cells, (False, True, True, True))


# --- facts ---------------------------------------------------------------------------------------------------------
def _facts(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return titled groups of names and values: data, artifact, machine, versions."""
    run = {"seed": data.get("seed"), "wall time": _duration(data.get("wall_seconds"))}
    groups = (
        ("Data", data.get("data", {})),
        ("Run", run),
        ("Artifact", data.get("artifact", {})),
        ("Machine", data.get("machine", {})),
        ("Versions", data.get("versions", {})),
    )
    filled = [(title, [(name, _value(v)) for name, v in rows.items() if v is not None]) for title, rows in groups]
    return [{"title": title, "rows": rows} for title, rows in filled if rows]


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


# --- small things --------------------------------------------------------------------------------------------------
def _value(value: Any) -> str:
    """Return any JSON value as a cell."""
    if value is None:
        return MISSING
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _share(part: float, whole_: float) -> float:
    return 100 * part / whole_ if whole_ else 0.0
