import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import networks
from helpers import BLOCKS, CLASSES, patterns, spec_of
from slimfer.artifact import open_artifact
from slimfer.compress.config import QuantizeConfig
from slimfer.compress.quantize import quantize
from slimfer.data.frames import Frames
from slimfer.errors import InputError
from slimfer.export.onnx import to_onnx
from slimfer.model.spec import NetSpec
from slimfer.preprocess import normalize
from slimfer.runtime.session import Session
from slimfer.train.checkpoint import Checkpoint

SPECS = {
    **{name: networks.case_spec(name) for name in (*networks.LAYERS, *networks.FUNCTIONS)},
    **{f"block {name}": spec_of(name, "plain", image=8) for name in BLOCKS},
    **{f"head {head}": spec_of("plain", head=head) for head in ("pool", "flatten")},
    "head hidden": spec_of("plain", head="hidden", image=9),
    "resnet18": NetSpec("resnet18", args={"width": 0.0625}),
    "resnet50 rgb": NetSpec("resnet50", channels=3, image=32, args={"width": 0.0625, "dropout": 0.1}),
    "mobile": NetSpec("mobile", args={"width": 0.25}),
    "vgg11": NetSpec("vgg11", image=32, args={"width": 0.0625, "conv_bias": True}),
}


def probabilities(checkpoint: Checkpoint, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return torch.softmax(checkpoint.build()(torch.from_numpy(normalize(images))), 1).numpy()


def pictures(spec: NetSpec, n: int = 24) -> Frames:
    return networks.noise(n, spec.image, channels=spec.channels, classes=spec.classes)


@pytest.mark.parametrize("name", SPECS)
def test_the_float_artifact_answers_as_torch(name):
    checkpoint = networks.untrained(SPECS[name])
    images = pictures(SPECS[name]).images
    answers = Session(to_onnx(checkpoint)).run(images)
    assert np.abs(answers - probabilities(checkpoint, images)).max() < 2e-6


@pytest.mark.parametrize("name", SPECS)
def test_the_integer_artifact_answers_as_the_imitation_in_torch(name):
    checkpoint = quantize(networks.untrained(SPECS[name]), pictures(SPECS[name]))
    images = pictures(SPECS[name]).images
    answers = Session(to_onnx(checkpoint)).run(images)
    # A value that lies between two integers may round the other way: a few units of the last integer at the end.
    assert np.abs(answers - probabilities(checkpoint, images)).max() < 0.02


@pytest.mark.parametrize("bits", [2, 4, 7])
@pytest.mark.parametrize(
    "name",
    ["cat", "gate", "max_pool", "zero_pad", "zero_pad_relu", "block shared", "head hidden", "resnet18", "mobile"],
)
def test_few_bits_answer_as_the_imitation_in_torch(name, bits):
    frames = pictures(SPECS[name])
    checkpoint = quantize(networks.untrained(SPECS[name]), frames, QuantizeConfig(bits=bits, activations=4))
    answers = Session(to_onnx(checkpoint)).run(frames.images)
    expected = probabilities(checkpoint, frames.images)
    # One value in a thousand rounds the other way, and of 16 levels one step is wide.
    assert np.abs(answers - expected).mean() < 0.005


def test_two_exports_are_equal_to_the_byte_also_after_a_round_trip_through_a_file(tmp_path):
    for checkpoint in (networks.learnt(), networks.integers()):
        checkpoint.save(tmp_path / "net.safetensors")
        again = Checkpoint.load(tmp_path / "net.safetensors")
        assert to_onnx(checkpoint) == to_onnx(checkpoint) == to_onnx(again)


def test_integers_are_stored_as_integers_and_scales_once():
    model = onnx.load_from_string(to_onnx(networks.integers()))
    kinds = {onnx.TensorProto.DataType.Name(t.data_type): 0 for t in model.graph.initializer}
    for tensor in model.graph.initializer:
        kinds[onnx.TensorProto.DataType.Name(tensor.data_type)] += int(np.prod(tensor.dims))
    weights = sum(w.numel() for name, w in networks.integers().weights.items() if name.endswith("weight"))
    assert kinds["INT8"] >= weights
    channels = sum(len(bias) for name, bias in networks.integers().weights.items() if name.endswith("bias"))
    assert kinds["FLOAT"] <= channels + 40


def test_the_graph_takes_any_number_of_pictures():
    session = Session(to_onnx(networks.learnt()))
    images = patterns(5).images
    whole = session.run(images)
    assert whole.shape == (5, 3)
    np.testing.assert_allclose(np.concatenate([session.run(images[i : i + 1]) for i in range(5)]), whole, atol=1e-6)
    np.testing.assert_allclose(whole.sum(1), 1, atol=1e-6)


def test_the_file_explains_itself():
    scores, recipe = {"accuracy": 0.5, "n": 7}, {"seed": 3}
    data = to_onnx(networks.integers(), scores=scores, recipe=recipe, author="me", license="MIT", date="2026-01-02")
    artifact = open_artifact(data)
    assert artifact.labels == CLASSES
    assert (artifact.channels, artifact.image) == (1, 16)
    assert (artifact.scores, artifact.recipe) == (scores, recipe)
    assert [entry["step"] for entry in artifact.lineage][-1] == "quantize"
    told = artifact.metadata
    assert (told["author"], told["license"], told["date"], told["task"]) == ("me", "MIT", "2026-01-02", "classify")
    assert told["Image.BitmapPixelFormat"] == "Gray8"
    assert told["Image.NominalPixelRange"] == "NominalRange_0_255"
    assert told["Image.ColorSpaceGamma"] == "SRGB"
    assert told["names"] == "{0: 'angry', 1: 'happy', 2: 'neutral'}"
    assert json.loads(told["imgsz"]) == [16, 16]
    assert "out_of_scope" in json.loads(told["slimfer.intended_use"])
    model = onnx.load_from_string(data)
    assert model.graph.input[0].type.denotation == "IMAGE"
    onnx.checker.check_model(model, full_check=True)


def test_no_date_is_written_unless_given():
    assert "date" not in open_artifact(to_onnx(networks.learnt())).metadata


def test_colour_is_named():
    metadata = open_artifact(to_onnx(networks.untrained(SPECS["resnet50 rgb"]))).metadata
    assert (metadata["Image.BitmapPixelFormat"], metadata["channels"]) == ("Rgb8", "3")


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_six_lines_of_bare_onnxruntime_give_the_same_numbers(tmp_path, bits):
    checkpoint = quantize(networks.learnt(), patterns(256, seed=2), QuantizeConfig(bits=bits))
    (tmp_path / "model.onnx").write_bytes(to_onnx(checkpoint))
    images = patterns(200, seed=9).images
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    bare = np.concatenate([session.run(["probabilities"], {"pixels": image[None]})[0] for image in images])
    ours = Session(tmp_path / "model.onnx")
    assert np.array_equal(bare, np.concatenate([ours.run(image[None]) for image in images]))


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: torch.cumsum(x, 1), "cumsum"),
        (lambda x: torch.cat((x, x), 2), "cat"),
        (lambda x: x.clamp(min=0), "clamp"),
        (lambda x: torch.add(x, x, alpha=2), "add"),
        (lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 5), "adaptive_avg_pool2d"),
        (lambda x: torch.nn.functional.gelu(x, approximate="tanh"), "gelu"),
        (lambda x: x.transpose(2, 3), "transpose"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(monkeypatch, function, named):
    monkeypatch.setitem(networks.FUNCTIONS, "odd", function)
    with pytest.raises(InputError, match=named):
        to_onnx(networks.untrained(networks.case_spec("odd")))


def test_a_quantized_network_without_calibration_is_refused():
    checkpoint = networks.integers()
    quant = {name: t * torch.nan if name.endswith(".scale") else t for name, t in checkpoint.quant.items()}
    with pytest.raises(InputError, match="not calibrated"):
        to_onnx(Checkpoint(checkpoint.spec, checkpoint.weights, checkpoint.labels, quant=quant))
