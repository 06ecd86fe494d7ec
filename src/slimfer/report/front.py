"""The front of a search: its points as rows of a table for other programs, and accuracy against time as a chart."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from slimfer.report.numbers import milliseconds
from slimfer.report.plots import INK, SERIES, WIDTH, svg
from slimfer.report.results import Results

COLUMNS = ("series", "label", "file", "bytes", "ms", "accuracy")


def front_csv(points: Sequence[Mapping[str, Any]]) -> str:
    """Return the points as CSV, largest file first; accuracies are fractions."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in sorted(points, key=lambda one: -one["bytes"]):
        row = {**one, "accuracy": f"{one['accuracies'][0]:.6f}", "ms": f"{one['ms']:.6g}"}
        writer.writerow([row.get(name, "") for name in COLUMNS])
    return text.getvalue()


def front_charts(results: Results) -> dict[str, str]:
    """Return accuracy against time by its file name without ending; none if no point was timed."""
    timed = [point for point in results.trade_offs if point.get("ms")]
    if not timed or results.first.accuracy is None:
        return {}
    return {"front_latency": front_latency(timed, results.first.accuracy)}


def front_latency(points: Sequence[Mapping[str, Any]], control: float) -> str:
    """Draw accuracy over the time for one picture (logarithmic); the dotted line is the dense network's accuracy."""
    series = list(dict.fromkeys(point["series"] for point in points))

    def draw(axes: Axes) -> None:
        for index, name in enumerate(series):
            colour, mark, _ = SERIES[index % len(SERIES)]  # times are no order in which lines could lead
            own = sorted((one for one in points if one["series"] == name), key=lambda one: one["ms"])
            times, values = [one["ms"] for one in own], [100 * one["accuracies"][0] for one in own]
            axes.plot(times, values, mark, color=colour, markersize=5, label=name)
        axes.axhline(100 * control, color=INK, alpha=0.4, linewidth=0.8, linestyle=":")
        axes.set(xscale="log", xlabel="ms for one picture, one thread (dotted: dense)", ylabel="accuracy, %")
        times = [one["ms"] for one in points]
        axes.set_xticks(sorted({min(times), max(times)}))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: milliseconds(value)))
        axes.minorticks_off()
        axes.grid()
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=9)

    return svg("accuracy against time", (WIDTH, 3.4 + 0.2 * len(series)), draw)
