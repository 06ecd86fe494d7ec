import copy

import pytest

from slimfer.report.ahead import CHANCE, ahead_table, ahead_told
from slimfer.report.results import parse_results


@pytest.fixture
def pair(compressed):
    """Two runs: the second is a quarter as large and reads better, but is calibrated worse."""
    other = copy.deepcopy(compressed)
    last = other["stages"][-1]
    last["bytes"] //= 4
    last["scores"] |= {"accuracy": 0.9, "macro_f1": 0.9, "ece": 0.5, "ci95": [0.85, 0.94]}
    return [parse_results(compressed), parse_results(other)]


def leaders(table):
    return {row[0]: row[1] for row in table.rows}


def test_less_is_better_for_bytes_and_errors_and_more_for_scores(pair):
    table = ahead_table(["a", "b"], pair, None)
    assert leaders(table) == {
        "accuracy %": "b",
        "macro-F1 %": "b",
        "calibration error %": "a",
        "size": "b",
        "MACs": "equal",
    }
    assert ahead_told(table) == "b is ahead in accuracy, macro-F1, size; a is ahead in calibration error."


def test_whoever_is_named_first_leads_in_the_same_things(pair):
    turned = ahead_table(["b", "a"], pair[::-1], None)
    assert leaders(turned) == leaders(ahead_table(["a", "b"], pair, None))


@pytest.mark.parametrize(
    ("interval", "told"), [((-0.1, 0.2), f"b ({CHANCE})"), ((0.0, 0.2), f"b ({CHANCE})"), ((0.1, 0.2), "b")]
)
def test_a_paired_interval_with_zero_could_be_chance(pair, interval, told):
    assert leaders(ahead_table(["a", "b"], pair, {"ci95": interval}))["accuracy %"] == told


def test_without_pairs_intervals_that_meet_could_be_chance(pair):
    low = pair[0].last.scores["ci95"][1]
    pair[1].last.scores["ci95"][0] = low
    assert leaders(ahead_table(["a", "b"], pair, None))["accuracy %"] == f"b ({CHANCE})"
    assert "accuracy" not in ahead_told(ahead_table(["a", "b"], pair, None))


def test_a_run_against_itself_leads_in_nothing(pair):
    table = ahead_table(["a", "b"], [pair[0], pair[0]], {"ci95": (0.0, 0.0)})
    assert set(leaders(table).values()) == {"equal"}
    assert ahead_told(table) == ""


def test_what_one_run_lacks_is_not_compared(pair, trained):
    assert ahead_table(["a", "t"], [pair[0], parse_results(trained)], None) is None
    assert ahead_told(None) == ""
