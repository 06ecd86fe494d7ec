import functools

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import networks
from helpers import patterns
from slimfer.artifact import HASH_KEY, open_artifact, seal
from slimfer.compress.config import QuantizeConfig
from slimfer.compress.quantize import quantize
from slimfer.errors import InputError, VerificationError
from slimfer.export import pack, parity
from slimfer.export.onnx import to_onnx
from slimfer.export.pack import stored_bits
from slimfer.export.parity import Check, centred, operators, require, verify
from slimfer.model import placing
from slimfer.model.quant import QuantConv2d
from slimfer.model.spec import NetSpec
from slimfer.train.checkpoint import Checkpoint

FRAMES = patterns(200, seed=7)
INTEGER = ("convolutions in integers", "linear layers in integers")
ROUTES = ("", ", unoptimized", ", fresh process", ", OpenVINO", ", OpenVINO fused")


def by_name(checks: tuple[Check, ...]) -> dict[str, Check]:
    return {check.name: check for check in checks}


@pytest.fixture(scope="module")
def whole() -> tuple[Check, ...]:
    """All checks of a good artifact; a network this small need not be faster in integers."""
    return verify(to_onnx(networks.integers()), networks.integers(), FRAMES, reference=networks.learnt(), min_faster=0)


def test_a_good_artifact_passes_every_check(whole):
    require(whole)
    routes = [f"{what}{route}" for route in ROUTES for what in ("signal to noise", "same label")]
    expected = [*INTEGER, "stored in its bits", *routes, "smaller than float", "faster than float"]
    assert [check.name for check in whole] == expected


def test_every_layer_runs_in_integers(whole):
    checks = by_name(whole)
    assert [checks[name].value for name in INTEGER] == [5, 1]


def test_the_imitation_in_torch_is_what_onnxruntime_computes(whole):
    checks = by_name(whole)
    assert checks["signal to noise"].value > 45
    assert checks["same label"].value == 1


def test_a_fresh_process_answers_the_same_to_the_bit(whole):
    checks = by_name(whole)
    assert checks["signal to noise, fresh process"].value == checks["signal to noise"].value


@pytest.mark.parametrize(
    "spec",
    [
        NetSpec("resnet18", args={"width": 0.25}),
        NetSpec("resnet50", args={"width": 0.125}),
        NetSpec("mobile", args={"width": 0.5}),
        NetSpec("vgg11", args={"width": 0.125}),
    ],
    ids=lambda spec: spec.builder,
)
def test_every_network_of_the_zoo_runs_in_integers(spec):
    checkpoint = quantize(networks.untrained(spec), networks.noise(32, 48))
    found = operators(open_artifact(to_onnx(checkpoint)))
    assert found["QLinearConv"] == sum("weight_bits" in name for name in checkpoint.quant) - 1
    assert found["QGemm"] == 1
    assert not any("Conv" in op and op != "QLinearConv" for op in found)
    assert found["QLinearGlobalAveragePool"] == 1
    if spec.builder.startswith("resnet"):
        assert found["QLinearAdd"] == {"resnet18": 8, "resnet50": 16}[spec.builder]


@pytest.mark.alone
def test_a_network_of_some_size_is_smaller_and_faster():
    spec = NetSpec("resnet18", args={"width": 0.375})
    checkpoint = networks.untrained(spec)
    frames = networks.noise(32, 48)
    quantized = quantize(checkpoint, frames)
    few = frames.take(np.arange(4))
    checks = by_name(verify(to_onnx(quantized), quantized, few, reference=checkpoint, min_sqnr=0, min_agreement=0))
    assert checks["smaller than float"].value > 3.5
    assert checks["faster than float"].passed


@functools.cache
def packed(bits: int, activations: int = 8) -> Checkpoint:
    """A net of 100,000 weights with packed ones."""
    spec = NetSpec("resnet18", args={"width": 0.125})
    config = QuantizeConfig(bits=bits, activations=activations, images=16)
    return quantize(networks.untrained(spec), networks.noise(16, 48), config)


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_file_shows_the_bits(bits):
    checkpoint = packed(bits)
    data = to_onnx(checkpoint)
    check = parity._stored(open_artifact(data), checkpoint.build())
    assert check.passed
    assert check.value == len(data)
    saved = len(to_onnx(packed(8))) - len(data)
    assert saved >= 0.95 * (8 - stored_bits(bits)) / 8 * 174_000 - pack.GROUP_BYTES


def test_a_file_that_is_larger_than_its_bits_fails(monkeypatch):
    checkpoint = packed(4)
    monkeypatch.setattr(pack, "GROUP_BYTES", 10**9)
    check = parity._stored(open_artifact(to_onnx(checkpoint)), checkpoint.build())
    assert not check.passed
    assert "4.0" in check.note


@pytest.mark.parametrize(("bits", "activations"), [(2, 8), (6, 8), (4, 4)])
def test_packed_weights_and_coarse_activations_run_in_integers_and_answer_alike(bits, activations):
    checkpoint, frames = packed(bits, activations), networks.noise(32, 48, seed=3)
    data = to_onnx(checkpoint)
    checks = by_name(verify(data, checkpoint, frames))
    require([check for name, check in checks.items() if "label" not in name])  # an untrained net has no firm labels
    assert [checks[name].value for name in INTEGER] == [20, 1]
    found = operators(open_artifact(data))
    assert not set(found) & {"Cast", "MatMul", "Round", "Reshape", "Split", "Mul", "DequantizeLinear"}
    assert found["Clip"] == (28 if activations == 4 else 0)


def test_without_openvino_its_routes_are_left_out(monkeypatch):
    monkeypatch.setattr(parity.importlib.util, "find_spec", lambda name: None)
    names = by_name(verify(to_onnx(networks.learnt()), networks.learnt(), FRAMES))
    assert not any("OpenVINO" in name for name in names)


def corrupted(data: bytes, change) -> bytes:
    """Change the largest int8 weights and seal the file again, so that only its answers tell."""
    model = onnx.load_from_string(data)
    metadata = {e.key: e.value for e in model.metadata_props if e.key != HASH_KEY}
    tensors = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1]
    largest = max(tensors, key=lambda t: np.prod(t.dims))
    array = numpy_helper.to_array(largest).copy()
    change(array)
    largest.CopyFrom(numpy_helper.from_array(array, largest.name))
    return seal(model.SerializeToString(), metadata)


def test_a_corrupted_weight_fails_the_agreement_on_every_route():
    bad = corrupted(to_onnx(networks.integers()), lambda a: np.negative(a, out=a))
    checks = by_name(verify(bad, networks.integers(), FRAMES))
    for route in ROUTES:
        assert not checks[f"signal to noise{route}"].passed
        assert not checks[f"same label{route}"].passed
    with pytest.raises(VerificationError, match=r"failed 10 of 13 checks: signal to noise is .* \(limit 35"):
        require(tuple(checks.values()))


def test_one_wrong_weight_is_heard_in_the_noise():
    def flip(array: np.ndarray) -> None:
        array.flat[np.abs(array.astype(int)).argmax()] *= -1

    before, after = (
        by_name(verify(model, networks.integers(), FRAMES))["signal to noise"].value
        for model in (to_onnx(networks.integers()), corrupted(to_onnx(networks.integers()), flip))
    )
    assert after < before - 10


def test_another_checkpoint_fails():
    other = quantize(networks.untrained(networks.TINY), patterns(64))
    checks = verify(to_onnx(other), networks.integers(), FRAMES)
    assert not by_name(checks)["same label"].passed


def test_a_float_artifact_of_a_quantized_network_fails_the_integer_check():
    checks = by_name(verify(to_onnx(networks.learnt()), networks.integers(), FRAMES, min_sqnr=0))
    assert not checks[INTEGER[0]].passed
    assert "in float" in checks[INTEGER[0]].note


def test_a_placement_that_does_not_fuse_fails_the_integer_check(monkeypatch):
    """Without a quantizer between operations, convolutions stay in float; the answers are as good."""
    fuses = placing._fuses
    monkeypatch.setattr(
        placing, "_fuses", lambda graph, node: fuses(graph, node) or placing._is_module(graph, node, QuantConv2d)
    )
    checkpoint = quantize(networks.learnt(), patterns(64))
    checks = by_name(verify(to_onnx(checkpoint), checkpoint, FRAMES))
    assert not checks[INTEGER[0]].passed
    assert checks["same label"].passed


def test_a_float_network_is_verified_without_the_integer_checks():
    checks = verify(to_onnx(networks.learnt()), networks.learnt(), FRAMES)
    require(checks)
    assert not set(INTEGER) & set(by_name(checks))
    assert by_name(checks)["signal to noise"].value > 100


def test_impossible_savings_fail():
    checks = verify(to_onnx(networks.integers()), networks.integers(), FRAMES, reference=networks.learnt(),
                    min_smaller=1e3, min_faster=1e3, rounds=2)  # fmt: skip
    with pytest.raises(VerificationError, match=r"failed 2 of 15 checks: smaller than float is .*; faster than float"):
        require(checks)


def test_no_pictures_prove_nothing():
    with pytest.raises(InputError, match="no pictures"):
        verify(to_onnx(networks.integers()), networks.integers(), FRAMES.take(np.arange(0)))


def test_a_fresh_process_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(parity, "FRESH", "raise SystemExit('no such thing')")
    with pytest.raises(VerificationError, match="fresh process: no such thing"):
        verify(to_onnx(networks.learnt()), networks.learnt(), FRAMES)


def test_the_fresh_process_would_notice_torch(monkeypatch):
    monkeypatch.setattr(parity, "FRESH", "import torch\n" + parity.FRESH)
    with pytest.raises(VerificationError, match="the runtime imported torch"):
        verify(to_onnx(networks.learnt()), networks.learnt(), FRAMES)


def test_logits_come_back_from_probabilities():
    logits = np.random.default_rng(0).normal(0, 3, (50, 7)).astype(np.float32)
    exponents = np.exp(logits)
    recovered = centred(exponents / exponents.sum(1, keepdims=True))
    np.testing.assert_allclose(recovered, logits - logits.mean(1, keepdims=True), atol=1e-5)
