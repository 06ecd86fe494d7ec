import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.pages import blank_charts
from slimfer.artifact import open_artifact
from slimfer.report.again import commands, lineage, lineage_table
from slimfer.report.page import render
from slimfer.report.results import parse_results
from slimfer.shipped import SHIPPED

WORDS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), max_size=5)


def told(results, command):
    return [entry["command"] for entry in commands(parse_results({**results, "command": command}))]


@pytest.mark.parametrize(
    ("command", "again"),
    [
        ("slimfer train --out runs/a", "slimfer train --out runs/a-again"),
        ("slimfer train -o runs/a/ --seed 3", "slimfer train -o runs/a-again --seed 3"),
        ("slimfer train --out=runs/a", "slimfer train --out=runs/a-again"),
        ("slimfer train --out 'my runs/a' --force --resume", "slimfer train --out 'my runs/a-again'"),
        ("slimfer bench a.onnx b.onnx", "slimfer bench a.onnx b.onnx"),
        ("slimfer train --out", "slimfer train --out"),
        ("not ' a line", "not ' a line"),
    ],
)
def test_a_command_to_paste_writes_elsewhere(compressed, command, again):
    assert told(compressed, command) == [again]


@given(WORDS)
def test_all_other_words_of_a_command_stay(words):
    words = [word for word in words if not word.startswith("-")]
    results = {"format": 1, "kind": "bench", "stages": [{"name": "a", "title": "a", "latency_ms": None}]}
    (line,) = told(results, shlex.join(["slimfer", "train", *words, "--out", "x"]))
    assert shlex.split(line) == ["slimfer", "train", *words, "--out", "x-again"]


def test_a_search_can_be_had_again_without_searching(compressed):
    compressed["trials"] = [{"name": "final", "kind": "final", "step": "keep all", "why": "within"}]
    assert told(compressed, "slimfer compress r --max-size 9KB --out runs/a") == [
        "slimfer compress r --max-size 9KB --out runs/a-again",
        "slimfer compress --recipe runs/a/found.toml --out runs/a-found",
    ]


STEPS = (
    {"step": "train", "config": {"epochs": 1, "optimizer": "sgd", "lr": 0.1}, "epoch": 1, "val_accuracy": 0.5},
    {"step": "slim", "config": {"ratio": 0.7}, "cut": 0.651, "params": [6_286_423, 528_135]},
    {"step": "mask", "zeros": [30, 100]},
    {"step": "quantize", "bits": 8, "activations": 8, "per_layer": {"a": 4, "b": 2, "c": 4}},
    {"step": "prepare-qat"},
)


def test_a_lineage_says_what_each_step_did():
    assert lineage_table(STEPS).rows == (
        ("1. train", "1 epoch, sgd, learning rate 0.1; weights of epoch 1", "50.00"),
        ("2. slim", "65.10 % of the channels cut; 6.29 M → 528 k parameters", "–"),
        ("3. mask", "30 of 100 weights set to zero", "–"),
        ("4. quantize", "weights 8 bits (2, 4 in some layers), activations 8 bits", "–"),
        ("5. prepare-qat", "–", "–"),
    )
    assert lineage_table(()) is None


def test_the_lineage_of_results_comes_first_and_stands_on_the_page(compressed, tmp_path):
    compressed["lineage"] = list(STEPS)
    assert lineage(tmp_path, parse_results(compressed)) == STEPS
    page = render(parse_results(compressed), blank_charts(compressed))
    assert "65.10 % of the channels cut" in page
    assert "Every setting of every step" in page


def test_an_artifact_tells_its_own_lineage(compressed, tmp_path):
    (tmp_path / "model.onnx").write_bytes(SHIPPED["small"].read_bytes())
    artifact = open_artifact(SHIPPED["small"])
    compressed["artifact"]["sha256"] = artifact.sha256
    assert lineage(tmp_path, parse_results(compressed)) == artifact.lineage != ()
    compressed["artifact"]["sha256"] = "0" * 64
    assert lineage(tmp_path, parse_results(compressed)) == (), "another file's"


@pytest.mark.parametrize("content", [None, b"no model"])
def test_without_its_artifact_there_is_no_lineage(compressed, tmp_path, content):
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    assert lineage(tmp_path, parse_results(compressed)) == ()
    assert "Lineage" not in render(parse_results(compressed), blank_charts(compressed))
