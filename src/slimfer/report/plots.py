"""Charts as SVG text: two runs give equal bytes, and the ink takes the colour of the text around it.

Colours are those of Okabe and Ito (2008), which stay apart for colour-blind readers and in gray print.
"""

import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from slimfer.report.numbers import milliseconds, percent, size
from slimfer.report.results import Results, Stage

BLUE, ORANGE, GREEN, VERMILLION, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9"

# A colour that no chart uses by itself: replaced by `currentColor`, so that a dark page gets light ink.
INK = "#010203"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
BLUES = LinearSegmentedColormap.from_list("slimfer", ("#f7fafd", SKY, BLUE, "#003a5c"))


def ink_on(share: float) -> str:
    """Return black or white, whichever is read better on the colour that `BLUES` gives a share from 0 to 1.

    One of them always has a contrast of at least 4.58 (relative luminance and contrast of WCAG 2.2).
    """
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in BLUES(float(share))[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#000000"


STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in the name of a class is a dollar
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}
WIDTH = 4.8  # inches; at 72 points each about the width of a phone, so that text keeps its size there


def charts(results: Results) -> dict[str, str]:
    """Return every chart that the results have data for, by file name without ending."""
    drawn: dict[str, str] = {}
    for curve in results.curves:
        if curve["rows"]:
            drawn[chart_name("accuracy", curve["stage"])] = accuracy_curve(curve["stage"], curve["rows"])
            drawn[chart_name("loss", curve["stage"])] = loss_curve(curve["stage"], curve["rows"])
    scored = [stage for stage in results.stages if stage.scores is not None]
    if len(scored) > 1:
        drawn["stage_accuracy"] = stage_accuracy(scored)
    if len({stage.bytes for stage in results.stages if stage.bytes}) > 1:
        drawn["stage_bytes"] = stage_bytes([stage for stage in results.stages if stage.bytes])
    if len([stage for stage in results.stages if stage.median_ms]) > 1:
        drawn["stage_latency"] = stage_latency([stage for stage in results.stages if stage.median_ms])
    if results.trade_offs:
        drawn["trade_offs"] = trade_offs(results.trade_offs, results.first)
    if len(results.sweep) > 1:
        drawn["sweep"] = sweep_map(results.sweep, results.first)
    if results.layers:
        drawn["layers"] = layers(results.layers)
    for stage in {id(stage): stage for stage in (*scored[:1], *scored[-1:])}.values():
        drawn[chart_name("confusion", stage.name)] = confusion_matrix(stage, results.labels)
    if results.change is not None:
        drawn["class_change"] = differences(
            "change of the recall of each class",
            [(name, row["difference"], row["ci95"]) for name, row in results.change["per_class"].items()],
        )
    judged = [stage for stage in results.stages if stage.reliability]
    if judged:
        drawn["reliability"] = reliability([judged[0], judged[-1]] if len(judged) > 1 else judged)
    return drawn


def chart_name(kind: str, stage: str) -> str:
    """Return the name of a stage's chart, fit for a file: stages may be called after paths."""
    return f"{kind}_{re.sub(r'[^A-Za-z0-9_-]+', '-', stage)}"


# --- training ------------------------------------------------------------------------------------------------------
def accuracy_curve(stage: str, rows: Sequence[Mapping[str, float]]) -> str:
    """Draw training and validation accuracy over the epochs."""
    return _curve(stage, rows, "accuracy", "accuracy, %", 100)


def loss_curve(stage: str, rows: Sequence[Mapping[str, float]]) -> str:
    """Draw training and validation loss over the epochs."""
    return _curve(stage, rows, "loss", "loss, nats", 1)


def _curve(stage: str, rows: Sequence[Mapping[str, float]], metric: str, label: str, factor: float) -> str:
    def draw(axes: Axes) -> None:
        epochs = [row["epoch"] for row in rows]
        for split, name, colour, dash in (("train", "training", ORANGE, "--"), ("val", "validation", BLUE, "-")):
            values = [factor * row[f"{split}/{metric}"] for row in rows]
            # One epoch makes no line, so it gets a mark.
            axes.plot(epochs, values, dash, color=colour, label=name, marker="o" if len(rows) == 1 else None)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if len(rows) == 1:
            axes.set_xticks(epochs)
        axes.grid()
        axes.legend(loc="best")

    return svg(f"{metric} over the epochs of stage {stage}", (WIDTH, 2.9), draw)


# --- stages --------------------------------------------------------------------------------------------------------
def stage_accuracy(stages: Sequence[Stage]) -> str:
    """Draw the accuracy of each stage with its 95 % interval."""

    def draw(axes: Axes) -> None:
        rows = np.arange(len(stages))
        scores = [stage.scores or {} for stage in stages]
        values = np.array([100 * score["accuracy"] for score in scores])
        bounds = np.array([[100 * bound for bound in score["ci95"]] for score in scores])
        reach = np.abs(bounds - values[:, None]).T
        axes.errorbar(values, rows, xerr=reach, fmt="o", color=BLUE, ecolor=BLUE, elinewidth=1.4, capsize=4)
        axes.axvline(values[0], color=INK, alpha=0.4, linewidth=0.8, linestyle=":")
        for row, value in zip(rows, values, strict=True):
            axes.annotate(f"{value:.2f}", (value, row), (0, -11), textcoords="offset points", ha="center", fontsize=9)
        axes.set(xlabel="accuracy, % (95 % interval; dotted: the first stage)")
        axes.grid(axis="x")
        _name_rows(axes, [stage.title for stage in stages])

    return svg("accuracy of each stage", _rows_size(stages), draw)


def stage_bytes(stages: Sequence[Stage]) -> str:
    """Draw the bytes of each stage on a logarithmic scale."""
    values = [float(stage.bytes or 0) for stage in stages]
    return _stage_bars("bytes of each stage", "bytes (logarithmic)", stages, values, size, GREEN)


def stage_latency(stages: Sequence[Stage]) -> str:
    """Draw the median batch-1 latency of each stage on a logarithmic scale."""
    values = [stage.median_ms or 0.0 for stage in stages]

    def told(value: float) -> str:
        return f"{milliseconds(value)} ms"

    return _stage_bars("batch-1 latency of each stage", "ms per picture (logarithmic)", stages, values, told, ORANGE)


def _stage_bars(
    title: str, label: str, stages: Sequence[Stage], values: Sequence[float], told: Callable[[float], str], colour: str
) -> str:
    def draw(axes: Axes) -> None:
        rows = np.arange(len(stages))
        axes.barh(rows, values, height=0.34, color=colour)
        for row, value in zip(rows, values, strict=True):
            axes.annotate(told(value), (value, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
        # Bars on a logarithmic scale need a foot; room on the right is for the numbers.
        axes.set(xscale="log", xlabel=label, xlim=(min(values) / 4, max(values) * 5))
        axes.xaxis.set_major_locator(LogLocator(10, numticks=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(told(value))))
        axes.minorticks_off()
        axes.grid(axis="x")
        _name_rows(axes, [stage.title for stage in stages])

    return svg(title, _rows_size(stages), draw)


def _short(number: str) -> str:
    """Return `1.00 MB` as `1 MB`, and `0.100 ms` as `0.1 ms`."""
    return re.sub(r"\.?0+(?= )", "", number) if "." in number else number


def _tick(name: str, longest: int = 18) -> str:
    """Return a class's name for an axis: a long one would leave no room for the chart."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _rows_size(stages: Sequence[Stage]) -> tuple[float, float]:
    lines = max(_wrapped(stage.title).count("\n") + 1 for stage in stages)
    return WIDTH, 0.8 + (0.4 + 0.16 * lines) * len(stages)


def _wrapped(name: str) -> str:
    """Return a stage's title in lines that fit the chart."""
    return "\n".join(textwrap.wrap(name, 62))


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Write each row's name above it, inside the chart: beside it, long titles would take half of a phone's width."""
    for row, name in enumerate(names):
        place = axes.get_yaxis_transform()
        text = axes.text(0.01, row - 0.2, _wrapped(name), transform=place, va="bottom", fontsize=9)
        text.set_in_layout(False)  # a long name must not take width from the bars
    axes.set_yticks([])
    axes.set_ylim(len(names) - 0.6, -0.65)


# --- accuracy against bytes ------------------------------------------------------------------------------------------
SERIES = ((BLUE, "o", "-"), (VERMILLION, "s", "--"), (GREEN, "^", "-."), (ORANGE, "D", ":"), (SKY, "v", "-"))


def trade_offs(points: Sequence[Mapping[str, Any]], control: Stage) -> str:
    """Draw accuracy over bytes (logarithmic), one line per series; bars reach from the worst seed to the best."""

    def draw(axes: Axes) -> None:
        names = list(dict.fromkeys(point["series"] for point in points))
        for index, name in enumerate(names):
            colour, mark, dash = SERIES[index % len(SERIES)]
            own = sorted((p for p in points if p["series"] == name), key=lambda point: point["bytes"])
            seeds = [100 * np.array(point["accuracies"]) for point in own]
            means = np.array([values.mean() for values in seeds])
            reach = np.array([[m - v.min(), v.max() - m] for m, v in zip(means, seeds, strict=True)]).T
            axes.errorbar(
                [point["bytes"] for point in own], means, yerr=reach, fmt=mark + dash, color=colour, label=name,
                markersize=5, elinewidth=1.2, capsize=3,
            )  # fmt: skip
        if control.accuracy is not None:
            axes.axhline(100 * control.accuracy, color=INK, alpha=0.4, linewidth=0.8, linestyle=":")
        axes.set(xscale="log", xlabel="bytes of the file (logarithmic; dotted: the control)", ylabel="accuracy, %")
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 3), numticks=12))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(size(value))))
        axes.minorticks_off()
        axes.grid()
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=9)

    rows = len({point["series"] for point in points})
    return svg("accuracy against bytes", (WIDTH, 3.4 + 0.2 * rows), draw)


# --- distillation --------------------------------------------------------------------------------------------------
def sweep_map(rows: Sequence[Mapping[str, float]], control: Stage) -> str:
    """Draw the accuracy for each temperature and weight, with the points gained over the control below it."""
    temperatures, weights = sorted({row["temperature"] for row in rows}), sorted({row["weight"] for row in rows})
    values = np.full((len(weights), len(temperatures)), np.nan)
    for row in rows:
        values[weights.index(row["weight"]), temperatures.index(row["temperature"])] = 100 * row["accuracy"]
    without = 100 * (control.accuracy or 0.0)
    low, high = min(without, np.nanmin(values)), max(without, np.nanmax(values))
    low, high = low - 0.5, high + 0.5  # so that chance differences of some tenths do not look like everything

    def draw(axes: Axes) -> None:
        x, y = np.arange(len(temperatures)), np.arange(len(weights))
        axes.pcolormesh(x, y, values, cmap=BLUES, vmin=low, vmax=high, edgecolors="white", linewidth=1)
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = ink_on((value - low) / (high - low))
                told = f"{value:.2f}\n{value - without:+.2f}".replace("-", "−")
                axes.text(column, row, told, ha="center", va="center", color=colour, fontsize=9)
        axes.set_xticks(x, [f"{value:g}" for value in temperatures])
        axes.set_yticks(y, [f"{value:g}" for value in weights])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel=f"temperature (without teachers: {without:.2f} %)", ylabel="weight of the teachers")

    return svg("accuracy in % and gain in points, by temperature and weight", (WIDTH, 1.0 + 0.5 * len(weights)), draw)


# --- layers --------------------------------------------------------------------------------------------------------
def layers(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw the channels of each layer before and after."""

    def draw(axes: Axes) -> None:
        places = np.arange(len(rows))
        before = [row["out_before"] for row in rows]
        after = [row["out_after"] for row in rows]
        axes.barh(places, before, height=0.72, color=SKY, alpha=0.45, label="before")
        axes.barh(places, after, height=0.72, color=BLUE, label="kept")
        for place, old, new in zip(places, before, after, strict=True):
            told = f"{new}/{old} ({100 * new / old:.0f} %)"
            axes.annotate(told, (old, place), (3, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set(xlabel="channels", xlim=(0, max(before) * 1.4))
        axes.set_yticks(places, [row["name"] for row in rows], fontsize=9)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)

    return svg("channels of each layer before and after", (WIDTH, 1.0 + 0.21 * len(rows)), draw)


# --- answers -------------------------------------------------------------------------------------------------------
def confusion_matrix(stage: Stage, labels: Sequence[str]) -> str:
    """Draw the confusion matrix of a stage as percentages of the true class, with the numbers in the cells."""
    counts = np.array((stage.scores or {})["confusion"], dtype=float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)

    def draw(axes: Axes) -> None:
        places = np.arange(len(labels))
        axes.pcolormesh(places, places, shares, cmap=BLUES, vmin=0, vmax=1, edgecolors="white", linewidth=1)
        for row, column in np.ndindex(*shares.shape):
            value = shares[row, column]
            told = f"{100 * value:.0f}"
            axes.text(column, row, told, ha="center", va="center", color=ink_on(value), fontsize=9)
        names = [_tick(label) for label in labels]
        axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(places, names)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="read as", ylabel="true expression", aspect="equal")
        axes.invert_yaxis()

    side = 1.6 + 0.46 * len(labels)
    return svg(f"confusion matrix of {stage.title}, % of the true class", (side, side - 0.2), draw)


def differences(title: str, rows: Sequence[tuple[str, float, Sequence[float]]]) -> str:
    """Draw differences of shares with their 95 % intervals, in points.

    Those whose interval leaves out zero have a mark and a colour of their own, which stay apart without colours.

    Args:
        title: of the chart.
        rows: name, difference and interval, as fractions.
    """

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=INK, alpha=0.5, linewidth=0.8, linestyle=":")
        kinds = ((VERMILLION, "<", "worse"), (BLUE, ">", "better"), (INK, "o", "could be chance"))
        found = [0 if high < 0 else 1 if low > 0 else 2 for _, _, (low, high) in rows]
        for kind, (colour, mark, label) in enumerate(kinds):
            places = [place for place, own in enumerate(found) if own == kind]
            if places:
                values = np.array([100 * rows[place][1] for place in places])
                bounds = np.array([[100 * bound for bound in rows[place][2]] for place in places])
                reach = np.abs(bounds - values[:, None]).T
                axes.errorbar(values, places, xerr=reach, fmt=mark, color=colour, label=label, markersize=7, capsize=4)
        axes.set(xlabel="points (95 % interval)")
        axes.set_yticks(range(len(rows)), [_tick(name) for name, _, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=9)

    return svg(title, (WIDTH, 1.1 + 0.36 * len(rows)), draw)


def reliability(stages: Sequence[Stage]) -> str:
    """Draw accuracy against confidence; on the diagonal a stage is as sure as it is right."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=INK, alpha=0.5, linewidth=0.8, linestyle=":")
        for stage, colour, mark in zip(stages, (ORANGE, BLUE), "so", strict=False):
            confidence, accuracy, count = (
                np.array(column, dtype=float) for column in zip(*stage.reliability, strict=True)
            )
            axes.plot(100 * confidence, 100 * accuracy, color=colour, linewidth=1.2)
            area = 12 + 160 * count / count.sum()
            error = percent((stage.scores or {}).get("ece"))
            label = textwrap.fill(f"{stage.title} (ECE {error} %)", 56)  # a long line would leave no room to the axes
            axes.scatter(100 * confidence, 100 * accuracy, area, color=colour, marker=mark, alpha=0.9)
            axes.scatter([], [], 36, color=colour, marker=mark, label=label)  # of a size that is seen in the legend
        axes.set(xlabel="confidence, %", ylabel="accuracy, %", xlim=(0, 102), ylim=(0, 102), aspect="equal")
        axes.grid()
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=9)

    return svg("reliability: accuracy against confidence", (WIDTH, 4.9), draw)


# --- from figure to text -------------------------------------------------------------------------------------------
def svg(title: str, inches: tuple[float, float], draw: Callable[[Axes], None]) -> str:
    """Return the figure that `draw` makes as an `<svg>` element with `title` for screen readers."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure.add_subplot())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    # Its style element would speak for the whole page; the root's own style does the same for the chart alone.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", text, flags=re.DOTALL)
    # Names that nothing refers to would clash when several charts stand in one page.
    used = set(re.findall(r"[\"(]#([\w-]+)", text))
    text = re.sub(r' id="([\w.-]+)"', lambda match: match[0] if match[1] in used else "", text)
    text = re.sub(r"font-family: [^;\"]*", f"font-family: {FONT}", text)
    text = text.replace(INK, "currentColor")
    # A file of its own is drawn on white; a page overrides both colours.
    style = "color:#16202a;background:#fff;stroke-linejoin:round;stroke-linecap:butt"
    head = f'<svg role="img" style="{style}" aria-label="{escape(title)}"'
    return text.replace("<svg", head, 1).replace(">", f"><title>{escape(title)}</title>", 1)
