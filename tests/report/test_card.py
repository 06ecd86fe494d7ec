import re
import shlex

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
