"""The layer-wise analysis of `slimfer analyze` as charts, tables and sentences: where a network can give."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from slimfer.report.numbers import MISSING, milliseconds, points, size, whole
from slimfer.report.plots import BLUE, BLUES, GREEN, ORANGE, SKY, WIDTH, ink_on, svg
from slimfer.report.results import Results
from slimfer.report.tables import Table

Row = Mapping[str, Any]
Values = npt.NDArray[np.float64]
# Keys of results.json's `layers` -> name of the chart, and its title.
CHANGES = {
    "params": ("bytes", "bytes of each layer before and after the cuts"),
    "macs": ("macs", "multiply-adds of each layer before and after the cuts"),
}
SHARES = (("bytes_share", "bytes", GREEN), ("macs_share", "multiply-adds", BLUE), ("latency_share", "time", ORANGE))


def analysis_charts(results: Results) -> dict[str, str]:
    """Return the charts of an analysis by file name without ending; none for results of another kind."""
    data = results.data.get("analysis")
    if not data:
        return {}
    drawn = {"layer_costs": layer_costs(data["layers"])}
    for key, (what, title) in CHANGES.items():
        if results.layers:
            drawn[f"{what}_change"] = change_chart(results.layers, key, title)
    if data["suggestion"]["per_layer"] and any(row.get("weight_bytes") for row in data["layers"]):
        drawn["suggested_bytes"] = suggested_bytes(data["layers"], data["suggestion"])
    if data["cuts"]:
        drawn["cut_map"] = loss_map(data["cuts"], "points of accuracy lost when one group alone is cut", "channels cut")
    if data["bits"]:
        drawn["bits_map"] = loss_map(
            data["bits"], "points of accuracy lost when one layer alone is rounded", "bits of its weights"
        )
        drawn["noise_map"] = noise_map(data["bits"])
    if data["scales"]["layers"]:
        drawn["bn_scales"] = scales(data["scales"])
    return drawn


def analysis_content(results: Results) -> dict[str, Any]:
    """Return what the template shows of an analysis besides its charts; `analysis` is None for other kinds."""
    data = results.data.get("analysis")
    if not data:
        return {"analysis": None}
    suggestion = data["suggestion"]
    return {
        "analysis": {
            "told": analysis_told(data),
            "sample": sample_told(data),
            "times": times_told(data),
            "costs": costs_table(data),
            "trials": trials_table((*data["cuts"], *data["bits"])),
            "suggested": suggestion_told(suggestion),
            "recipe": suggestion["recipe"],
            "order": order_table(suggestion["order"]),
        }
    }


# --- sentences -----------------------------------------------------------------------------------------------------
def analysis_told(data: Row) -> str:
    """Return one sentence: where cutting costs least and most."""
    ratios = sorted({row["value"] for row in data["cuts"]}, key=lambda ratio: abs(ratio - 0.5))
    if not ratios:
        return ""
    own = (row for row in data["cuts"] if row["value"] == ratios[0])
    rows = sorted(own, key=lambda row: (row["drop"], row["nll_increase"]))
    least, most = rows[0], rows[-1]
    told = f"Without {100 * ratios[0]:g} % of its channels, {least['name']} {_change_told(least['drop'])} points"
    return f"{told}, {most['name']} {_change_told(most['drop'])}." if len(rows) > 1 else f"{told}."


def sample_told(data: Row) -> str:
    """Return how the trials were judged."""
    settings, control = data["settings"], data["control"]
    told = (
        f"Each trial changes one layer or group alone, without fine-tuning, and reads the same {settings['images']:,}"
        " validation pictures as the unchanged network. Bold: the 95 % interval of the paired difference leaves out 0."
    )
    if control:
        told += (
            f" BN statistics behind a cut are measured anew on {settings['calibration']:,} training pictures, which"
            f" without any cut {_change_told(control['drop'])} points."
        )
    return told


def times_told(data: Row) -> str:
    """Return what the times of the layers leave out; empty if nothing was timed."""
    if not data.get("latency_ms"):
        return ""
    timed = sum(row["latency_ms"] or 0.0 for row in data["layers"])
    return (
        f"The profile gives whole microseconds: {milliseconds(timed)} ms for these layers, and"
        f" {milliseconds(data['other_ms'])} ms for all other operators, which the shares count as well. Without the"
        f" profile the whole network takes {milliseconds(data['latency_ms']['median'])} ms."
    )


def suggestion_told(suggestion: Row) -> str:
    """Return what the suggested bits save and may cost."""
    if not suggestion["per_layer"]:
        return "No layer can have fewer bits within the tolerance."
    return (
        f"Within {suggestion['tolerance']:g} nats: weights of {size(suggestion['bytes'])} instead of"
        f" {size(suggestion['bytes_before'])} with the most bits everywhere, estimated to add"
        f" {suggestion['loss']:.4f} nats to the cross-entropy."
        " Losses of single layers add up only roughly: check with slimfer quantize."
    )


# --- tables --------------------------------------------------------------------------------------------------------
def costs_table(data: Row) -> Table:
    """Return what each layer costs."""
    header = ("layer", "kind", "channels", "group", "params", "% params", "MACs", "% MACs", "bytes", "ms", "% ms")
    cells = [
        (
            row["name"],
            row["kind"],
            whole(row["outputs"]),
            row["group"] or MISSING,
            whole(row["params"]),
            f"{100 * row['params_share']:.1f}",
            whole(row["macs"]),
            f"{100 * row['macs_share']:.1f}",
            size(row["bytes"]),
            milliseconds(row["latency_ms"]),
            MISSING if row["latency_share"] is None else f"{100 * row['latency_share']:.1f}",
        )
        for row in data["layers"]
    ]
    return Table(header, tuple(cells), (False, False, True, False, *(True,) * 7))


def trials_table(rows: Sequence[Row]) -> Table:
    """Return every trial with its interval."""
    header = (
        "name",
        "change",
        "left",
        "points lost",
        "from",
        "to",
        "nats added",
        "±",
        "same label %",
        "dB",
        "logits dB",
    )
    cells = [
        (
            row["name"],
            _change(row),
            f"{row['kept']}/{row['channels']}" if row["kind"] == "cut" else MISSING,
            _points(row["drop"]),
            *(_points(bound) for bound in row["drop_ci95"]),
            f"{row['nll_increase']:.4f}".replace("-", "−"),
            f"{row['nll_increase_se']:.4f}",
            f"{100 * row['same']:.1f}",
            *(_decibels(row.get(key)) for key in ("sqnr_db", "logits_sqnr_db")),
        )
        for row in rows
    ]
    return Table(header, tuple(cells), (False, False, *(True,) * 9))


def order_table(order: Sequence[Row]) -> Table:
    """Return the changes of bits, the cheapest byte first."""
    header = ("layer", "from bits", "to bits", "bytes saved", "nats", "nats per kB", "weights then", "nats in sum")
    cells = [
        (
            row["layer"],
            str(row["before"]),
            str(row["bits"]),
            whole(row["saved"]),
            f"{row['loss']:.4f}",
            f"{row['loss_per_kb']:.5f}",
            size(row["bytes"]),
            f"{row['total']:.4f}",
        )
        for row in order
    ]
    return Table(header, tuple(cells), (False, *(True,) * 7))


def overview_table(data: Row) -> Table:
    """Return the analysis at a glance for the terminal: shares, and points lost; groups stand at their first layer."""
    ratios = list(dict.fromkeys(row["value"] for row in data["cuts"]))
    bits = [bits for bits in dict.fromkeys(row["value"] for row in data["bits"]) if bits < 6]
    lost = {(row["kind"], row["name"], row["value"]): row["drop"] for row in (*data["cuts"], *data["bits"])}
    firsts = {group["layers"][0]: group["name"] for group in reversed(data["groups"])}
    header = ("layer", "% bytes", "% MACs", "ms", *(f"cut {100 * r:g} %" for r in ratios), *(f"{b} bits" for b in bits))
    cells = [
        (
            row["name"],
            f"{100 * row['bytes_share']:.1f}",
            f"{100 * row['macs_share']:.1f}",
            milliseconds(row["latency_ms"]),
            *(_points(lost.get(("cut", firsts.get(row["name"], ""), ratio))) for ratio in ratios),
            *(_points(lost.get(("bits", row["name"], number))) for number in bits),
        )
        for row in data["layers"]
    ]
    return Table(header, tuple(cells), (False, *(True,) * (len(header) - 1)))


# --- charts --------------------------------------------------------------------------------------------------------
def loss_map(rows: Sequence[Row], title: str, label: str) -> str:
    """Draw points of accuracy lost, one row per layer or group and one column per ratio or number of bits."""
    values, names = _grid(rows, "drop")
    low = _grid(rows, "drop_ci95", lambda bounds: bounds[0])[0]
    high = _grid(rows, "drop_ci95", lambda bounds: bounds[1])[0]
    return _map(
        title,
        names,
        [_change(row) for row in rows if row["name"] == rows[0]["name"]],
        100 * values,
        lambda value: _points(value / 100, 1),
        (low > 0) | (high < 0),
        label,
        # Half a point has to be seen beside fifty.
        PowerNorm(0.5, 0, max(5.0, 100 * float(np.nanmax(values))), clip=True),
    )


def noise_map(rows: Sequence[Row]) -> str:
    """Draw the signal-to-noise ratio of each rounded layer's own outputs; dark is noisy."""
    values, names = _grid(rows, "sqnr_db", lambda decibels: np.nan if decibels is None else decibels)
    noise = np.maximum(50 - values, 0)
    return _map(
        "signal to quantization noise of each layer, dB",
        names,
        [_change(row) for row in rows if row["name"] == rows[0]["name"]],
        noise,
        lambda value: f"{50 - value:.0f}".replace("-", "−"),
        np.zeros_like(noise, dtype=bool),
        "bits of its weights (dB, at most 50)",
        PowerNorm(1, 0, 50, clip=True),
    )


def layer_costs(rows: Sequence[Row]) -> str:
    """Draw each layer's share of bytes, multiply-adds and time."""
    shares = [(key, name, colour) for key, name, colour in SHARES if any(row[key] is not None for row in rows)]

    def draw(axes: Axes) -> None:
        places = np.arange(len(rows))
        height = 0.8 / len(shares)
        for index, (key, name, colour) in enumerate(shares):
            at = places + (index - (len(shares) - 1) / 2) * height
            axes.barh(at, [100 * (row[key] or 0) for row in rows], height=height, color=colour, label=name)
        axes.set(xlabel="share of the whole network, %")
        axes.grid(axis="x")
        _name_places(axes, [row["name"] for row in rows])
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=9)

    return svg("share of bytes, multiply-adds and time of each layer", (WIDTH, 1.0 + 0.3 * len(rows)), draw)


def change_chart(rows: Sequence[Row], key: str, title: str) -> str:
    """Draw what each layer cost before and after it was cut, as shares of the whole network before."""
    whole_before = max(1, sum(row[f"{key}_before"] for row in rows))
    before, after = ([row[f"{key}_{when}"] / whole_before for row in rows] for when in ("before", "after"))
    return _before_and_after(title, [row["name"] for row in rows], before, after)


def suggested_bytes(rows: Sequence[Row], suggestion: Row) -> str:
    """Draw the bytes of each layer's weights before and after the suggested bits."""
    own = [row for row in rows if row.get("weight_bytes")]
    most = [max(row["weight_bytes"], key=int) for row in own]
    bits = [str(suggestion["per_layer"].get(row["name"], number)) for row, number in zip(own, most, strict=True)]
    whole_before = max(1, suggestion["bytes_before"])
    before, after = (
        [row["weight_bytes"][number] / whole_before for row, number in zip(own, chosen, strict=True)]
        for chosen in (most, bits)
    )
    names = [row["name"] for row in own]
    return _before_and_after(
        "bytes of the weights before and after the suggested bits", names, before, after, [f"{b} bits" for b in bits]
    )


def _before_and_after(
    title: str, names: Sequence[str], before: Sequence[float], after: Sequence[float], marks: Sequence[str] = ()
) -> str:
    """Draw two shares of a whole for each layer; beside them `marks`, or how much of the first the second is."""
    told = marks or [f"{100 * new / old:.0f} %" if old else "" for old, new in zip(before, after, strict=True)]

    def draw(axes: Axes) -> None:
        places = np.arange(len(names))
        axes.barh(places, [100 * value for value in before], height=0.72, color=SKY, alpha=0.45, label="before")
        axes.barh(places, [100 * value for value in after], height=0.72, color=BLUE, label="after")
        for place, value, text in zip(places, before, told, strict=True):
            axes.annotate(text, (100 * value, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set(xlabel="share of the whole before, %", xlim=(0, 118 * max(before)))
        axes.grid(axis="x")
        _name_places(axes, names)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=9)

    return svg(title, (WIDTH, 1.0 + 0.21 * len(names)), draw)


def scales(data: Row) -> str:
    """Draw how the BN scales of each layer are spread: median, middle half, and all but the outer twentieths."""
    rows = data["layers"]

    def draw(axes: Axes) -> None:
        places = np.arange(len(rows))
        quantiles = {p: [row["quantiles"][p] for row in rows] for p in ("5", "25", "50", "75", "95")}
        axes.hlines(places, quantiles["5"], quantiles["95"], color=BLUE, linewidth=1.2, label="5 to 95 %")
        axes.hlines(places, quantiles["25"], quantiles["75"], color=BLUE, linewidth=5, alpha=0.5, label="middle half")
        axes.plot(quantiles["50"], places, "o", color=BLUE, markersize=4, label="median")
        axes.set(xlabel="|gamma|", xlim=(0, 1.04 * max(data["edges"][-1], 1e-9)))
        axes.grid(axis="x")
        _name_places(axes, [row["name"] for row in rows])
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=9)

    return svg("spread of the BN scales of each layer", (WIDTH, 1.0 + 0.21 * len(rows)), draw)


def _map(
    title: str,
    names: Sequence[str],
    columns: Sequence[str],
    values: Values,
    told: Any,
    bold: Any,
    label: str,
    norm: Any,
) -> str:
    def draw(axes: Axes) -> None:
        axes.pcolormesh(
            np.arange(len(columns)),
            np.arange(len(names)),
            values,
            cmap=BLUES,
            norm=norm,
            edgecolors="white",
            linewidth=1,
        )
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour, weight = ink_on(norm(value)), "bold" if bold[row, column] else "normal"
                axes.text(
                    column, row, told(value), ha="center", va="center", color=colour, fontsize=8, fontweight=weight
                )
        axes.set_xticks(np.arange(len(columns)), columns)
        axes.tick_params(axis="x", length=0, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)
        axes.set(xlabel=label)
        _name_places(axes, names)

    return svg(title, (WIDTH, 0.8 + 0.21 * len(names)), draw)


def _name_places(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(np.arange(len(names)), shortened(names), fontsize=8)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)


def shortened(names: Sequence[str], longest: int = 22) -> list[str]:
    """Return names for an axis: long ones would leave no room on a phone. Their ends tell layers apart."""
    short = [name if len(name) <= longest else f"{name[:6]}…{name[7 - longest :]}" for name in names]
    return short if len(set(short)) == len(set(names)) else list(names)


def _grid(rows: Sequence[Row], key: str, pick: Any = lambda value: value) -> tuple[Values, list[str]]:
    """Return a value of each trial by name and ratio or bits, NaN where there is none."""
    names, columns = (list(dict.fromkeys(row[what] for row in rows)) for what in ("name", "value"))
    values = np.full((len(names), len(columns)), np.nan)
    for row in rows:
        values[names.index(row["name"]), columns.index(row["value"])] = pick(row[key])
    return values, names


def _change(row: Row) -> str:
    return f"{100 * row['value']:g} %" if row["kind"] == "cut" else f"{row['value']:g} bits"


def _points(fraction: float | None, digits: int = 2) -> str:
    """Return a fraction as percentage points."""
    return MISSING if fraction is None else points(100 * fraction, digits)


def _change_told(drop: float) -> str:
    """Return what became of the accuracy, without the unit: `loses 1.20`, `gains 0.59`."""
    return f"{'gains' if drop < 0 else 'loses'} {_points(abs(drop))}"


def _decibels(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1f}"
