import re

import pytest

from report.pages import assert_links_lead_somewhere, assert_self_contained, blank_charts
from slimfer.errors import InputError
from slimfer.report.front import front_charts
from slimfer.report.page import render
from slimfer.report.results import parse_results
from slimfer.report.trials import controls_table, controls_told, trial_table


def row(name, kind, accuracy, drop=None):
    return {"name": name, "kind": kind, "step": f"step of {name}", "why": "so", "bytes": 99_000, "ms": 0.2} | (
        {"accuracy": accuracy, "drop": drop} if accuracy is not None else {}
    )


ROWS = [
    row("dense", "dense", 0.6, -0.004),
    row("trial-1", "trial", 0.59, 1.0),
    row("final", "final", 0.58, 2.0),
    row("control-uniform", "control", 0.5, 10.0),
    row("control-uniform-bits", "control", 0.59, 1.0),
]


def test_every_trial_is_a_row_with_a_true_minus():
    table = trial_table([*ROWS, row("better", "trial", 0.61, -0.4), row("failed", "trial", None)])
    assert [cells[0] for cells in table.rows] == [r["name"] for r in ROWS] + ["better", "failed"]
    assert [cells[table.header.index("drop")] for cells in table.rows] == [
        "0.00", "1.00", "2.00", "10.00", "1.00", "−0.40", "–",
    ]  # fmt: skip


def test_controls_are_counted_and_told_apart():
    assert controls_told(ROWS).startswith("What the search found reads better than 1 of 2 controls")
    assert [(cells[0], cells[3], cells[4]) for cells in controls_table(ROWS).rows] == [
        ("the search", "58.00", "–"),
        ("uniform", "50.00", "−8.00"),
        ("uniform bits", "59.00", "+1.00"),
    ]


@pytest.mark.parametrize("rows", [(), ROWS[:3], ROWS[3:]])
def test_without_controls_or_result_there_is_no_comparison(rows):
    assert controls_table(rows) is None


def test_a_search_has_its_trials_controls_and_front_on_the_page(compressed):
    compressed["trials"] = ROWS
    compressed["trade_offs"] = [
        {"series": "searched", "label": "all", "bytes": 90_000, "accuracies": [0.7], "ms": 0.123},
        {"series": "uniform", "label": "all", "bytes": 91_000, "accuracies": [0.6], "ms": 0.456},
    ]
    results = parse_results(compressed)
    page = render(results, blank_charts(compressed) | front_charts(results))
    assert_self_contained(page)
    assert_links_lead_somewhere(page)
    assert {"trials", "controls", "trade-offs"} <= set(re.findall(r'<section id="([\w-]+)"', page))
    assert 'aria-label="accuracy against time"' in page
    assert re.findall(r'<td class="number">(0\.123|0\.456)</td>', page) == ["0.123", "0.456"]
    del compressed["trials"][-1]["why"]
    with pytest.raises(InputError, match=r"trials\[4\]: the key 'why' is missing"):
        parse_results(compressed)
