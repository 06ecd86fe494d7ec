import pytest

from slimfer.report.results import parse_results
from slimfer.report.tables import Table, describe_machine, stage_table, summary


def column(table, name):
    index = table.header.index(name)
    return [row[index] for row in table.rows]


def test_stage_table_has_measured_values_and_ratios(compressed):
    table = stage_table(parse_results(compressed))
    assert column(table, "stage") == ["Dense, fp32, torch", "Slimmed, int8, onnxruntime"]
    assert column(table, "size") == ["25.2 MB", "504 kB"]
    assert column(table, "smaller") == ["1.00×", "50.0×"]
    assert column(table, "faster") == ["1.00×", "30.0×"]
    assert column(table, "ms, batch 1 (p95)") == ["6.90 (8.28)", "0.230 (0.276)"]
    scores = compressed["stages"][0]["scores"]
    low, high = scores["ci95"]
    assert column(table, "accuracy %")[0] == f"{100 * scores['accuracy']:.2f} ({100 * low:.1f}–{100 * high:.1f})"


def test_columns_that_nobody_filled_are_left_out(trained):
    assert stage_table(parse_results(trained)).header == ("stage",)


def test_a_cell_that_was_not_measured_is_a_dash(compressed):
    compressed["stages"][1]["throughput"] = None
    assert column(stage_table(parse_results(compressed)), "images/s") == ["412", "–"]


def test_markdown_escapes_what_would_break_the_table():
    table = Table(("a", "b"), (("x|y", "1"),), (False, True))
    assert table.markdown() == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"


def test_summary_says_from_what_to_what_at_what_price(compressed):
    text = summary(parse_results(compressed))
    assert text.startswith("resnet18 went from 25.2 MB to 504 kB (50.0× smaller) and from 6.90 to 0.230 ms per picture")
    lost = 100 * (compressed["stages"][0]["scores"]["accuracy"] - compressed["stages"][1]["scores"]["accuracy"])
    assert lost > 0
    assert f"for {lost:.2f} points of accuracy" in text
    assert text.endswith("on 140 validation pictures.")


def test_summary_of_a_gain_speaks_of_no_loss(compressed):
    compressed["stages"][1]["scores"] = {**compressed["stages"][0]["scores"]}
    assert "without losing accuracy" in summary(parse_results(compressed))


def test_summary_of_a_bare_training(trained):
    assert summary(parse_results(trained)) == "mobile."


def test_summary_of_a_benchmark_names_the_fastest(compressed):
    stages = compressed["stages"]
    told = summary(parse_results({"format": 1, "kind": "bench", "stages": stages}))
    assert (
        told == "The fastest is Slimmed, int8, onnxruntime: 0.230 ms per picture, 30.0× faster than Dense, fp32, torch."
    )
    told = summary(parse_results({"format": 1, "kind": "bench", "stages": stages[::-1]}))
    assert told == "The fastest is Slimmed, int8, onnxruntime: 0.230 ms per picture."


@pytest.mark.parametrize(
    ("machine", "text"),
    [({}, ""), ({"cpu": "X", "cores": 2, "bf16": True, "vnni": False, "note": None}, "X, cores 2, bf16")],
)
def test_describe_machine(machine, text):
    assert describe_machine(machine) == text


def test_students_are_compared_with_the_one_without_teachers(distilled):
    results = parse_results(distilled)
    assert not {"smaller", "faster"} & set(stage_table(results).header)
    first, last = (stage["scores"]["accuracy"] for stage in (distilled["stages"][0], distilled["stages"][-1]))
    gained = f"{100 * (last - first):.2f} points more than without ({100 * first:.2f} %)"
    assert gained in summary(results)
    assert "T2-w0.9 is the best of 3, chosen on them" in summary(results)
    distilled["stages"].reverse()
    assert f"{100 * (last - first):.2f} points less than without" in summary(parse_results(distilled))
    distilled["stages"][-1]["scores"] = distilled["stages"][0]["scores"]
    assert "correctly, as without" in summary(parse_results(distilled))
