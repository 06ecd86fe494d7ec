import re
import xml.etree.ElementTree as ET

from slimfer.report.plots import INK, charts
from slimfer.report.results import parse_results


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter() if element.tag.endswith("text") and element.text]


def test_there_is_a_chart_for_every_part(drawn):
    assert set(drawn) == {
        "accuracy_train",
        "loss_train",
        "accuracy_finetune",
        "loss_finetune",
        "stage_accuracy",
        "stage_bytes",
        "stage_latency",
        "layers",
        "confusion_dense",
        "confusion_int8",
        "reliability",
    }


def test_two_runs_give_equal_bytes(drawn, compressed):
    assert charts(parse_results(compressed)) == drawn


def test_a_bare_training_has_curves_only(trained):
    assert set(charts(parse_results(trained))) == {"accuracy_train", "loss_train"}


def test_charts_are_well_formed_titled_and_self_contained(drawn):
    for name, svg in drawn.items():
        root = ET.fromstring(svg)
        assert root[0].tag.endswith("title"), name
        assert root.get("aria-label") == root[0].text
        addresses = set(re.findall(r"https?://[^\"' ]+", svg))
        assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}, name
        assert INK not in svg
        assert "<style" not in svg, "it would speak for the whole page"


def test_ids_do_not_clash_within_one_page(drawn):
    found = [name for svg in drawn.values() for name in re.findall(r' id="([^"]+)"', svg)]
    assert len(found) == len(set(found))


def test_every_reference_is_to_something_in_the_same_chart(drawn):
    for svg in drawn.values():
        ids = set(re.findall(r' id="([^"]+)"', svg))
        assert set(re.findall(r"[\"(]#([\w-]+)", svg)) <= ids


def test_confusion_cells_are_shares_of_the_true_class(drawn, compressed):
    matrix = compressed["stages"][0]["scores"]["confusion"]
    expected = [f"{100 * value / sum(row):.0f}" for row in matrix for value in row]
    numbers = [text for text in texts(drawn["confusion_dense"]) if text.isdigit()]
    assert sorted(numbers) == sorted(expected)


def test_layers_show_what_is_kept(drawn):
    assert {"12/48 (25 %)", "48/48 (100 %)", "31/384 (8 %)"} <= set(texts(drawn["layers"]))


def test_stage_charts_name_stages_and_values(drawn):
    assert {"Dense, fp32, torch", "25.2 MB", "504 kB"} <= set(texts(drawn["stage_bytes"]))
    assert {"6.90 ms", "0.230 ms"} <= set(texts(drawn["stage_latency"]))


def test_names_from_outside_are_escaped(compressed):
    for stage in compressed["stages"]:
        stage["title"] = '<script>alert("&")</script>'
    for svg in charts(parse_results(compressed)).values():
        ET.fromstring(svg)
        assert "<script" not in svg


def test_accuracy_against_bytes_has_a_line_per_series(studied):
    drawn = charts(parse_results(studied))["trade_offs"]
    assert {"slimming", "both", "accuracy, %"} <= set(texts(drawn))


def test_a_sweep_shows_accuracy_and_gain_of_every_pair(distilled):
    distilled["stages"][0]["scores"]["accuracy"] = 0.45
    drawn = charts(parse_results(distilled))
    told = texts(drawn["sweep"])
    for cells in (["20.00", "−25.00"], ["50.00", "+5.00"], ["60.00", "+15.00"]):
        assert told[told.index(cells[0]) + 1] == cells[1]
    assert "temperature (without teachers: 45.00 %)" in told
    assert not any("nan" in text for text in told), "the pair that was not trained stays empty"
    assert "stage_bytes" not in drawn, "all students have the same size"
    del distilled["sweep"][1:]
    assert "sweep" not in charts(parse_results(distilled))
