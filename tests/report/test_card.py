import re

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from slimfer.report.card import model_card
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
        "How to read a face with six lines of onnxruntime",
        "Training",
        "Evaluation",
        "Technical specifications",
    ]


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
