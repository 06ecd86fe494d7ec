import json

import pytest

from slimfer.errors import InputError
from slimfer.report.results import REQUIRED, load_results, parse_results, points_lost, size_ratio, speed_ratio


def test_ratios_are_to_the_first_stage(compressed):
    results = parse_results(compressed)
    assert size_ratio(results, results.last) == pytest.approx(50)
    assert speed_ratio(results, results.last) == pytest.approx(30)
    before, after = (stage["scores"]["accuracy"] for stage in compressed["stages"])
    assert points_lost(results, results.last) == pytest.approx(100 * (before - after))
    assert (size_ratio(results, results.first), speed_ratio(results, results.first)) == (1, 1)
    assert points_lost(results, results.first) == 0


def test_parts_that_are_absent_are_empty(trained):
    results = parse_results(trained)
    assert (results.layers, results.checks) == ((), ())
    assert results.first.accuracy is None
    assert size_ratio(results, results.first) is None
    assert points_lost(results, results.first) is None


@pytest.mark.parametrize("key", ["format", "kind", "stages", *REQUIRED["compress"]])
def test_a_missing_key_is_named(compressed, key):
    del compressed[key]
    with pytest.raises(InputError, match=f"results: the key '{key}' is missing"):
        parse_results(compressed)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("stages", 1, "bytes"), r"stages\[1\]: the key 'bytes' is missing"),
        (("stages", 0, "scores", "ci95"), r"stages\[0\].scores: the key 'ci95' is missing"),
        (("stages", 0, "latency_ms", "p95"), r"stages\[0\].latency_ms: the key 'p95' is missing"),
        (("layers", 2, "out_after"), r"layers\[2\]: the key 'out_after' is missing"),
        (("checks", 0, "passed"), r"checks\[0\]: the key 'passed' is missing"),
        (("curves", 0, "rows"), r"curves\[0\]: the key 'rows' is missing"),
    ],
)
def test_a_missing_key_deep_inside_is_named_with_its_place(compressed, path, message):
    value = compressed
    for key in path[:-1]:
        value = value[key]
    del value[path[-1]]
    with pytest.raises(InputError, match=message):
        parse_results(compressed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2 is newer"),
        ({"format": "1"}, "format '1' is not a number"),
        ({"kind": "magic"}, "unknown kind 'magic'; known are compress, train"),
        ({"stages": []}, "stages is empty"),
        ({"stages": ["dense"]}, r"stages\[0\]: not an object but a str"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(compressed, change, message):
    with pytest.raises(InputError, match=message):
        parse_results({**compressed, **change})


def test_not_an_object():
    with pytest.raises(InputError, match="results: not an object but a list"):
        parse_results([])


def test_load_names_the_file(compressed, tmp_path):
    path = tmp_path / "results.json"
    del compressed["layers"]
    path.write_text(json.dumps(compressed))
    with pytest.raises(InputError, match=r"results\.json: the key 'layers' is missing"):
        load_results(path)
    with pytest.raises(InputError, match=r"other\.json: no such file"):
        load_results(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (("change", "lost"), "change: the key 'lost'"),
        (("change", "per_class", "sad", "ci95"), r"change\.per_class\['sad'\]: the key 'ci95'"),
        (("calibration", "temperature"), "calibration: the key 'temperature'"),
        (("mistakes", 0, "predicted"), r"mistakes\[0\]: the key 'predicted'"),
        (("label_issues", "rows", 0, "suggested"), r"label_issues\.rows\[0\]: the key 'suggested'"),
        (("answers", "sha256"), "answers: the key 'sha256'"),
        (("pictures", "index"), "pictures: the key 'index'"),
    ],
)
def test_what_is_missing_of_the_errors_is_named(run, path, told):
    _, results = run
    *parents, key = path
    part = results
    for step in parents:
        part = part[step]
    del part[key]
    with pytest.raises(InputError, match=told):
        parse_results(results)


@pytest.mark.parametrize("part", ["change", "calibration", "answers", "label_issues"])
def test_errors_of_a_wrong_kind_are_refused(run, part):
    _, results = run
    results[part] = "nothing"
    with pytest.raises(InputError, match=f"{part}: not an object but a str"):
        parse_results(results)
