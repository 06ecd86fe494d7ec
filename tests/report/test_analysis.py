import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimfer.errors import InputError
from slimfer.report.analysis import (
    analysis_charts,
    analysis_content,
    analysis_told,
    costs_table,
    order_table,
    overview_table,
    shortened,
    suggestion_told,
    times_told,
    trials_table,
)
from slimfer.report.page import render
from slimfer.report.results import parse_results
from slimfer.report.tables import summary


def trial(kind: str, name: str, value: float, drop: float, **more: Any) -> dict[str, Any]:
    both = {"drop_ci95": [drop - 0.01, drop + 0.01], "nll": 1 + drop, "nll_increase": drop, "nll_increase_se": 0.001}
    return {
        "kind": kind, "name": name, "value": value, "accuracy": 0.6 - drop, "drop": drop, **both, "same": 0.9,
        "logits_sqnr_db": 20.0, **more,
    }  # fmt: skip


def layer(name: str, group: str | None, share: float, ms: float | None) -> dict[str, Any]:
    return {
        "name": name, "kind": "Conv2d", "group": group, "outputs": 8, "params": int(1000 * share),
        "params_share": share, "macs": int(1e6 * share), "macs_share": share, "bytes": int(4000 * share),
        "bytes_share": share, "latency_ms": ms, "latency_share": None if ms is None else share,
    }  # fmt: skip


def values(*, ms: float | None = 0.02) -> dict[str, Any]:
    cuts = [
        trial("cut", name, ratio, drop * ratio, kept=8 - int(8 * ratio), channels=8, params=900, macs=9 * 10**5)
        for name, drop in (("stem", 0.4), ("body.<b>", 0.002))
        for ratio in (0.25, 0.5)
    ]
    bits = [
        trial("bits", name, number, drop / number, sqnr_db=None if number == 8 else 6.0 * number)
        for name, drop in (("stem", 0.2), ("body.<b>", -0.04), ("head", 0.0))
        for number in (8, 2)
    ]
    scores = {"accuracy": 0.6, "macro_f1": 0.5, "n": 100, "ci95": [0.5, 0.7], "confusion": [[30, 20], [20, 30]]}
    per_class = {name: {"precision": 0.6, "recall": 0.6, "f1": 0.6, "support": 50} for name in ("a", "b")}
    stage = {"name": "net", "title": "net, float", "params": 1000, "macs": 10**6, "bytes": 4000}
    order = [
        {
            "layer": "head",
            "before": 8,
            "bits": 2,
            "saved": 75,
            "loss": 0.0,
            "bytes": 925,
            "total": 0.0,
            "loss_per_kb": 0.0,
        }
    ]
    return {
        "format": 1, "kind": "analysis", "seed": 0, "model": "net", "labels": ["a", "b"],
        "data": {"source": "x", "split": "validation"}, "command": "slimfer analyze net",
        "stages": [{**stage, "scores": {**scores, "per_class": per_class}}],
        "analysis": {
            "settings": {"images": 100, "calibration": 32},
            "layers": [
                layer("stem", "stem", 0.2, ms), layer("body.<b>", "body.<b>", 0.7, ms), layer("head", None, 0.1, ms),
            ],
            "groups": [
                {"name": "stem", "layers": ["stem"], "channels": 8, "criterion": "gamma"},
                {"name": "body.<b>", "layers": ["body.<b>"], "channels": 8, "criterion": "l1"},
            ],
            "scales": {"edges": [0.0, 0.5, 1.0], "layers": [
                {"name": "bn", "channels": 8, "counts": [4, 4],
                 "quantiles": {"0": 0, "5": 0.1, "25": 0.2, "50": 0.5, "75": 0.6, "95": 0.9, "100": 1.0}},
            ]},
            "control": trial("control", "recalibrated", 0.0, 0.001), "cuts": cuts, "bits": bits,
            "suggestion": {
                "tolerance": 0.02, "per_layer": {"head": 2}, "bytes_before": 1000, "bytes": 925, "loss": 0.0,
                "recipe": "[quantize]\nbits = 8\n", "order": order,
            },
        },
    }  # fmt: skip


def test_the_page_shows_the_analysis() -> None:
    results = parse_results(values())
    page = render(results)
    for words in ("What each layer can give", "What each layer costs", "The bits that cost least", "[quantize]"):
        assert words in page
    assert "body.&lt;b&gt;" in page
    assert "body.<b>" not in page
    assert "https://" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert summary(results).startswith("net reads 60.00 % of 100 validation pictures")


def test_charts_are_there_and_the_same_each_time() -> None:
    results = parse_results(values())
    drawn = analysis_charts(results)
    assert list(drawn) == ["layer_costs", "cut_map", "bits_map", "noise_map", "bn_scales"]
    assert drawn == analysis_charts(results)
    for name, svg in drawn.items():
        assert svg.startswith("<svg role="), name
        assert "body.&lt;b&gt;" in svg or name == "bn_scales"
    assert ">20.0<" in drawn["cut_map"]  # stem, half of the channels
    assert ">−2.0<" in drawn["bits_map"]
    assert ">12<" in drawn["noise_map"]


def test_what_is_surer_than_chance_is_bold() -> None:
    drawn = analysis_charts(parse_results(values()))["cut_map"]
    bold = re.findall(r"font: bold[^>]*>([^<]*)<|font-weight: ?(?:bold|700)[^>]*>([^<]*)<", drawn)
    assert {a or b for a, b in bold} == {"10.0", "20.0"}


def test_without_times_and_trials() -> None:
    data = values(ms=None)
    data["analysis"] |= {"cuts": [], "bits": [], "control": None, "scales": {"edges": [0, 1], "layers": []}}
    data["analysis"]["suggestion"] |= {"per_layer": {}, "order": [], "recipe": ""}
    results = parse_results(data)
    assert list(analysis_charts(results)) == ["layer_costs"]
    assert ">time<" not in analysis_charts(results)["layer_costs"]
    assert "No layer can have fewer bits" in render(results)
    assert analysis_told(data["analysis"]) == ""


def test_sentences() -> None:
    data = values()["analysis"]
    assert analysis_told(data) == "Without 50 % of its channels, body.<b> loses 0.10 points, stem loses 20.00."
    data["cuts"][-1]["drop"] = -0.001
    assert analysis_told(data) == "Without 50 % of its channels, body.<b> gains 0.10 points, stem loses 20.00."
    told = "Within 0.02 nats: weights of 925 B instead of 1.00 kB with the most bits everywhere"
    assert suggestion_told(data["suggestion"]).startswith(told)
    assert times_told(data) == ""
    data |= {"latency_ms": {"median": 0.055}, "other_ms": 0.004}
    assert "0.0600 ms for these layers, and 0.00400 ms for all other operators" in times_told(data)
    assert times_told(data).endswith("the whole network takes 0.0550 ms.")


def test_the_sentence_agrees_with_the_map() -> None:
    """Cross-entropy may say otherwise than accuracy; what is told in points is chosen by points."""
    data = values()["analysis"]
    for row, drop, nats in zip(data["cuts"][1::2], (0.01, 0.02), (0.9, 0.1), strict=True):
        row.update(drop=drop, nll_increase=nats)
    assert analysis_told(data) == "Without 50 % of its channels, stem loses 1.00 points, body.<b> loses 2.00."


def bars(chart: str) -> list[float]:
    """Return the widths of the bars, which a chart draws as one path each, in points."""
    paths = re.findall(r'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*z\n" clip-path', chart)
    return [float(end) - float(begin) for begin, end in paths]


def test_before_and_after_are_drawn_to_scale() -> None:
    data = values()
    data["layers"] = [
        {
            "name": name, "kind": "Conv2d", "out_before": 8, "out_after": 4,
            "params_before": 100, "params_after": after, "macs_before": 1000, "macs_after": 10 * after,
        }
        for name, after in (("stem", 50), ("body.<b>", 25), ("head", 100))
    ]  # fmt: skip
    for row, sizes in zip(data["analysis"]["layers"], ((400, 100), (300, 75), (300, 75)), strict=True):
        row["weight_bytes"] = dict(zip(("8", "2"), sizes, strict=True))
    drawn = analysis_charts(parse_results(data))
    for name in ("bytes_change", "macs_change"):
        assert [width / bars(drawn[name])[0] for width in bars(drawn[name])] == pytest.approx(
            [1, 1, 1, 0.5, 0.25, 1], abs=1e-3
        )
        assert re.findall(r">(\d+ %)<", drawn[name]) == ["50 %", "25 %", "100 %"]
    widths = bars(drawn["suggested_bytes"])  # only the head gets fewer bits
    assert [width / widths[0] for width in widths] == pytest.approx([1, 0.75, 0.75, 1, 0.75, 75 / 400], abs=1e-3)
    assert re.findall(r">(\d bits)<", drawn["suggested_bytes"]) == ["8 bits", "8 bits", "2 bits"]
    page = render(parse_results(data))
    for title in ("bytes of each layer", "multiply-adds of each layer", "bytes of the weights"):
        assert f"<title>{title} before and after" in page


@given(st.lists(st.text("ab.1", min_size=1, max_size=40), min_size=1, max_size=6, unique=True))
def test_short_names_stay_apart(names: list[str]) -> None:
    short = shortened(names)
    assert len(set(short)) == len(names)
    assert all(len(one) <= 22 or short == names for one in short)
    assert [one for one, name in zip(short, names, strict=True) if len(name) <= 22] == [
        name for name in names if len(name) <= 22
    ]


def test_tables() -> None:
    data = values()["analysis"]
    overview = overview_table(data)
    assert overview.header == ("layer", "% bytes", "% MACs", "ms", "cut 25 %", "cut 50 %", "2 bits")
    assert overview.rows[0] == ("stem", "20.0", "20.0", "0.0200", "10.00", "20.00", "10.00")
    assert overview.rows[2] == ("head", "10.0", "10.0", "0.0200", "–", "–", "0.00")
    costs = costs_table(data)
    assert costs.rows[1][:5] == ("body.<b>", "Conv2d", "8", "body.<b>", "700")
    assert costs.rows[2][3] == "–"
    trials = trials_table((*data["cuts"], *data["bits"]))
    assert trials.rows[1][:6] == ("stem", "50 %", "4/8", "20.00", "19.00", "21.00")
    assert trials.rows[4][1:3] == ("8 bits", "–")
    assert trials.rows[4][-2] == "–"
    assert order_table(data["suggestion"]["order"]).rows[0][:4] == ("head", "8", "2", "75")


def test_other_kinds_have_none() -> None:
    stage = {"name": "a", "title": "a", "latency_ms": {"median": 1.0, "p95": 1.0, "best": 1.0}}
    results = parse_results({"format": 1, "kind": "bench", "stages": [stage]})
    assert analysis_charts(results) == {}
    assert analysis_content(results) == {"analysis": None}


def test_a_missing_part_is_named() -> None:
    data = values()
    del data["analysis"]["cuts"]
    with pytest.raises(InputError, match="results: analysis: the key 'cuts' is missing"):
        parse_results(data)
