import copy
import re

import pytest

from report.pages import blank_charts
from slimfer.report.page import render
from slimfer.report.results import parse_results
from slimfer.report.speed import runtime_control, runtime_ratio, speed_table, speed_told


@pytest.fixture
def three(compressed):
    """Dense in torch (6.9 ms), the same in onnxruntime (2.3 ms), compressed in onnxruntime (0.23 ms)."""
    again = copy.deepcopy(compressed["stages"][0])
    again |= {"name": "dense-onnx", "title": "Dense, fp32, onnxruntime", "runtime": "onnxruntime"}
    again["latency_ms"] = {"median": 2.3, "p95": 2.5, "best": 2.2}
    compressed["stages"].insert(1, again)
    return compressed


def test_the_control_is_the_float_network_in_the_same_runtime(three):
    results = parse_results(three)
    assert [runtime_control(results, stage).name for stage in results.stages] == ["dense", "dense-onnx", "dense-onnx"]
    assert runtime_ratio(results, results.last) == pytest.approx(10)
    assert speed_table(results).rows[-1][-2:] == ("30.0×", "10.0×")


def test_a_smaller_network_is_no_control_of_its_runtime(compressed):
    results = parse_results(compressed)
    assert runtime_control(results, results.last) is None
    assert speed_table(results).rows[-1][-2:] == ("30.0×", "–")
    assert "same runtime" not in speed_told(results)


def test_the_sentence_names_both_ratios_and_the_machine(three):
    told = speed_told(parse_results(three))
    assert "0.230 ms: 10.0× faster than the float network in the same runtime (onnxruntime), 30.0× faster than" in told
    assert "on A processor" in told
    assert "10.0× in the same runtime" in render(parse_results(three), blank_charts(three))


def test_what_is_slower_is_called_slower(three):
    three["stages"][-1]["latency_ms"]["median"] = 27.6
    results = parse_results(three)
    told = speed_told(results)
    assert "12.0× slower than the float network in the same runtime (onnxruntime), 4.00× slower than" in told
    page = render(results, blank_charts(three))
    assert "<dt>slower</dt><dd>4.00×</dd>" in page
    assert "ms per picture (4.00× slower)" in page


def test_the_page_shows_every_measured_time(three):
    page = render(parse_results(three), blank_charts(three))
    section = page[page.index('<section id="speed"') :]
    section = section[: section.index("</section>")]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", section)
    assert cells[7:14] == ["onnxruntime", "2.30", "2.50", "2.20", "412", "3.00×", "1.00×"]


def test_one_time_alone_is_no_comparison(compressed, trained):
    assert speed_table(parse_results(trained)) is None
    compressed["stages"][1]["latency_ms"] = None
    assert speed_table(parse_results(compressed)) is None
    assert 'id="speed"' not in render(parse_results(compressed), blank_charts(compressed))
