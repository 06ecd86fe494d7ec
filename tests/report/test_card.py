import copy
import re
import shlex
import tomllib

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from slimfer.cli.app import app
from slimfer.report.card import is_card, model_card
from slimfer.report.results import parse_results


@pytest.fixture
def card(compressed):
    return model_card(parse_results(compressed))


def test_sections_are_there_in_order(card):
    headings = re.findall("^## (.+)$", card, re.MULTILINE)
    assert headings == [
        "Model details",
        "Uses",
        "Bias, risks and limits",
        "How to get started",
        "Training",
        "Evaluation",
        "Technical specifications",
    ]


def test_calibration_labels_and_change_are_told(run):
    _, results = run
    card = model_card(parse_results(results))
    change, calibration = results["change"], results["calibration"]
    for name, row in change["per_class"].items():
        assert f"| {name} | {row['support']} | {row['lost']} | {row['gained']} |" in card
    assert "logits divided by 1.5 (temperature scaling); below 40.00 % an answer is marked uncertain" in card
    assert f"{100 * calibration['ece_after']:.2f} % instead of {100 * calibration['ece_before']:.2f} %" in card
    assert f"{results['label_issues']['count']} of the pictures that it was judged on look mislabelled" in card
    assert "On Calibration of Modern Neural Networks" in card


def test_uses_to_avoid_name_work_and_school(card):
    uses = card[card.index("## Uses") : card.index("## Bias")]
    for text in (
        "Direct use",
        "Downstream use",
        "Uses to avoid",
        "inner feelings",
        "at work or in school",
        "2024/1689",
    ):
        assert text in uses


def test_methods_of_the_recipe_are_cited(compressed):
    compressed["recipe"] = {"slim": {"ratio": 0.5}, "quantize": {"bits": 8}}
    card = model_card(parse_results(compressed))
    cited = card[card.index("## Citation") :]
    assert "Network Slimming" in cited
    assert "Integer-Arithmetic-Only" in cited
    assert "DSD" not in cited


def test_the_command_line_in_the_card_is_one_that_exists(compressed):
    compressed["artifact"]["path"] = "my model.onnx"
    card = model_card(parse_results(compressed))
    lines = [shlex.split(line) for line in card.splitlines() if line.startswith("slimfer predict")]
    read = [app.parse_args(line[1:], print_error=False, exit_on_error=False)[1].arguments for line in lines]
    assert [arguments["model"] for arguments in read] == ["my model.onnx"] * 2
    assert [arguments.get("no_detect", False) for arguments in read] == [False, True]


def test_a_card_is_told_from_other_files(card, tmp_path):
    ours, theirs = tmp_path / "a.md", tmp_path / "b.md"
    ours.write_text(card)
    theirs.write_text("# My notes\n")
    assert is_card(ours)
    assert not is_card(theirs)
    assert not is_card(tmp_path / "missing.md")


def test_front_matter_holds_the_scores_of_what_ships(card, compressed):
    _, front, _ = card.split("---\n", 2)
    scores = compressed["stages"][-1]["scores"]
    assert f"{{type: accuracy, value: {scores['accuracy']:.6f}, name: Accuracy}}" in front
    assert f"{{type: f1, value: {scores['macro_f1']:.6f}, name: Macro F1}}" in front
    assert 'license: "other"' in front


def test_scores_of_every_class_and_the_worst_one_are_told(card, compressed):
    per_class = compressed["stages"][-1]["scores"]["per_class"]
    for name, row in per_class.items():
        assert f"| {name} | {row['support']} | {100 * row['precision']:.2f} | {100 * row['recall']:.2f} |" in card
    lowest = min(row["recall"] for row in per_class.values())
    assert re.search(rf"of the \w+ faces {100 * lowest:.2f} % are recognized", card)


UNITS = {"": 1, "k": 1e3, "M": 1e6, "B": 1, "kB": 1e3, "MB": 1e6, "×": 1, "ms": 1}


def says(text, value, scale=1.0):
    """Return whether a number in words, `6.29 M` or `1.23×`, is `value` as exactly as its digits tell."""
    found = re.match(r"([−+]?)([\d,]+)(\.\d+)? ?([a-zA-Z×]*)", text)
    told = float(found[2].replace(",", "") + (found[3] or "")) * (-1 if found[1] == "−" else 1)
    step = 10.0 ** -len((found[3] or ".")[1:])
    unit = UNITS[found[4]]
    return abs(told * unit - scale * value) <= 0.501 * step * unit


def table_of(card, corner):
    """Return the rows of the table whose first heading is `corner`, each as heading -> cell."""
    lines = card[card.index(f"| {corner} |") :].split("\n\n")[0].splitlines()
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_every_table_is_that_of_results_json(run):
    _, results = run
    card = model_card(parse_results(results))
    first = results["stages"][0]
    rows = table_of(card, "stage")
    assert [row["stage"] for row in rows] == [stage["title"] for stage in results["stages"]]
    for row, stage in zip(rows, results["stages"], strict=True):
        low, high = re.search(r"\((.+)–(.+)\)", row["accuracy %"]).groups()
        assert says(row["accuracy %"], stage["scores"]["accuracy"], 100)
        assert [says(low, stage["scores"]["ci95"][0], 100), says(high, stage["scores"]["ci95"][1], 100)] == [True] * 2
        assert says(row["macro-F1 %"], stage["scores"]["macro_f1"], 100)
        assert says(row["parameters"], stage["params"])
        assert says(row["MACs"], stage["macs"])
        assert says(row["size"], stage["bytes"])
        assert says(row["smaller"], first["bytes"] / stage["bytes"])
    last = results["stages"][-1]
    per_class = last["scores"]["per_class"]
    rows = table_of(card[: card.index("### What changed")], "class")
    assert [row["class"] for row in rows] == list(per_class)
    for row in rows:
        values = per_class[row["class"]]
        assert row["pictures"] == str(values["support"])
        assert [says(row[f"{name} %"], values[key], 100) for name, key in
                (("precision", "precision"), ("recall", "recall"), ("F1", "f1"))] == [True] * 3  # fmt: skip
    for row in table_of(card[card.index("### What changed") :], "class"):
        values = results["change"] if row["class"] == "all" else results["change"]["per_class"][row["class"]]
        assert [int(row["lost"]), int(row["gained"])] == [values["lost"], values["gained"]]
        low, high = row["95 % interval"].split(" to ")
        for text, value in ((row["change"], values["difference"]), (low, values["ci95"][0]), (high, values["ci95"][1])):
            assert says(text, value, 100), row


def numbers_in(value, path=()):
    """Yield the path of every number."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers_in(item, (*path, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def changed(results, path):
    """Return results with another number at the path."""
    results = copy.deepcopy(results)
    *way, last = path
    place = results
    for key in way:
        place = place[key]
    value = place[last]
    place[last] = value + max(7, value // 10) if isinstance(value, int) else value + 0.0777
    return results


# What only the page shows.
NOT_TOLD = {"confusion", "balanced_accuracy", "nll", "best"}


def test_no_score_can_change_without_the_card(run):
    """Of everything that the card is written from, every single number is in it."""
    _, results = run
    card = model_card(parse_results(results))
    stages, parts = results["stages"], ("scores", "params", "macs", "bytes", "latency_ms")
    paths = [("stages", len(stages) - 1, *path) for path in numbers_in({key: stages[-1][key] for key in parts})]
    paths += [
        (part, *path) for part in ("change", "calibration", "artifact", "recipe") for path in numbers_in(results[part])
    ]
    paths += [("label_issues", "count"), ("data", "train"), ("data", "validation"), ("seed",), ("checks", 1, "value")]
    # The number of pictures is told as `data` and `change` have it.
    told = [path for path in paths if NOT_TOLD.isdisjoint(path) and path[-2:] != ("scores", "n")]
    assert len(told) > 90
    silent = [path for path in told if model_card(parse_results(changed(results, path))) == card]
    assert silent == []


def test_what_failed_is_told(compressed):
    """Only that."""
    card = model_card(parse_results(compressed))
    assert "- A check failed: agreement is 0.9 (limit 0.98, top-1)." in card
    assert "integer operators" not in card


def test_the_recipe_is_in_the_card(compressed):
    card = model_card(parse_results(compressed))
    recipe = tomllib.loads(re.search(r"```toml\n(.+?)```", card, re.DOTALL)[1])
    assert recipe == {key: value for key, value in compressed["recipe"].items() if value is not None}


def test_a_bare_training_has_no_scores_to_tell(trained):
    card = model_card(parse_results(trained))
    assert "## Evaluation" not in card
    assert "model-index" not in card


def means_model(path, channels):
    """Write a model with the contract of an artifact: seven probabilities that depend on the pixels."""
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", channels, 48, 48])
    answer = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 7])
    weights = np.random.default_rng(0).normal(size=(channels * 48 * 48, 7)).astype(np.float32) / 4000
    nodes = [
        helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    tensor = helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)
    graph = helper.make_graph(nodes, "means", [pixels], [answer], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("channels", [1, 3])
def test_the_six_lines_run(compressed, tmp_path, monkeypatch, capsys, channels):
    monkeypatch.chdir(tmp_path)
    means_model(tmp_path / "model.onnx", channels)
    noise = np.random.default_rng(1).integers(0, 256, (60, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save("face.png")
    card = model_card(parse_results(compressed), channels=channels)
    code = re.search(r"```python\n(.+?)```", card, re.DOTALL)[1]
    assert len(code.strip().splitlines()) == 6
    exec(code, {})
    printed = eval(capsys.readouterr().out)
    assert list(printed) == compressed["labels"]
    picture = Image.open("face.png").convert("L" if channels == 1 else "RGB").resize((48, 48), Image.BILINEAR)
    pixels = np.asarray(picture).reshape(48, 48, channels).transpose(2, 0, 1)[None]
    expected = onnxruntime.InferenceSession("model.onnx").run(None, {"pixels": np.ascontiguousarray(pixels)})[0][0]
    assert list(printed.values()) == pytest.approx(expected.tolist())
