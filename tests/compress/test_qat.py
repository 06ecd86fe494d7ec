"""Training with integers, on the patterns of `helpers`."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

import networks
from helpers import CLASSES, TINY, patterns
from slimfer.compress.config import QatConfig, QuantizeConfig, WeightRule
from slimfer.compress.qat import finish_qat, prepare_qat
from slimfer.compress.quantize import quantize
from slimfer.errors import InputError
from slimfer.export.onnx import to_onnx
from slimfer.export.parity import require, verify
from slimfer.metrics import sqnr_db
from slimfer.model.placing import quant_layers
from slimfer.model.quant import ActivationQuantizer
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.config import AugmentConfig, TrainConfig
from slimfer.train.evaluate import predict_logits
from slimfer.train.loop import fit

TRAIN, VALIDATION = patterns(320, seed=7), patterns(256, seed=5)
SHORT = TrainConfig(
    epochs=1, batch_size=32, lr=0.02, average=0.9, precision="fp32", save_seconds=0, label_smoothing=0,
    augment=AugmentConfig(flip=False, rotate=0, shift=0, scale=0, light=0, erase=0),
)  # fmt: skip
RULES = [(weights, "lsq") for weights in get_args(WeightRule)] + [("lsq", rule) for rule in ("ste", "pact")]


def integers(bits: int, activations: int = 8, **values: object) -> Checkpoint:
    config = QuantizeConfig(bits=bits, activations=activations, ends=min(bits + 2, 8), **values)
    return quantize(networks.learnt(), patterns(128, seed=2), config)


def trained(start: Checkpoint, config: TrainConfig = SHORT, **values: object) -> Checkpoint:
    return fit(start, TRAIN, VALIDATION, config, **values)


def logits(checkpoint: Checkpoint) -> np.ndarray:
    return predict_logits(checkpoint.build(), VALIDATION)


def loss(checkpoint: Checkpoint) -> float:
    return float(torch.nn.functional.cross_entropy(torch.tensor(logits(checkpoint)), torch.tensor(VALIDATION.labels)))


@pytest.mark.parametrize(("weights", "activations"), RULES)
def test_preparing_changes_no_answer_and_finishing_only_rounds_biases(weights, activations):
    start = integers(3)
    learning = prepare_qat(start, QatConfig(weights=weights, activations=activations))
    np.testing.assert_allclose(logits(learning), logits(start), atol=0.02 if weights == "dorefa" else 1e-5)
    done = trained(learning)
    finished = finish_qat(done)
    # What the training judged, with biases on their grid, is what comes out, up to float32.
    assert sqnr_db(logits(done), logits(finished)) > 80
    assert (logits(done).argmax(1) == logits(finished).argmax(1)).all()
    # Where the two differ, it is the biases.
    before, after = done.build(), finished.build()
    for one, other in zip(quant_layers(before), quant_layers(after), strict=True):
        assert torch.equal(one.module.integer_weight(), other.module.integer_weight())
        assert torch.equal(one.module.rounded_weight(), other.module.rounded_weight())
        step = other.module.weight_scale * other.source.scale
        assert ((one.module.bias - other.module.bias).abs() <= step * 0.51).all()
        assert other.module.integer_weight().abs().max() <= other.module.weight_max


def test_the_finished_checkpoint_has_the_plain_numbers_of_static_quantization(tmp_path):
    start = integers(4, 4)
    finished = finish_qat(trained(prepare_qat(start, QatConfig())))
    shape = {name: (tensor.shape, tensor.dtype) for name, tensor in start.quant.items()}
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in finished.quant.items()} == shape
    assert finished.weights.keys() == start.weights.keys()
    assert [entry["step"] for entry in finished.lineage[-3:]] == ["quantize", "prepare-qat", "train"]
    assert finished.lineage[-2]["weights"] == "lsq"
    finished.save(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(logits(Checkpoint.load(tmp_path / "net.safetensors")), logits(finished))


@pytest.mark.parametrize("bits", [2, 3])
def test_training_beats_calibration(bits):
    """The control: the same bits, the same pictures, no training."""
    start = integers(bits, 4)
    assert loss(finish_qat(trained(prepare_qat(start, QatConfig())))) < 0.7 * loss(start)


@pytest.mark.parametrize(("weights", "activations"), RULES)
def test_everything_learns_that_should(weights, activations):
    # What pact learns from lies outside the range, so there must be something.
    start = integers(4, 4, ranges="percentile" if activations == "pact" else "minmax")
    start = prepare_qat(start, QatConfig(weights=weights, activations=activations))
    done = trained(start)
    before, after = start.build(), done.build()
    for name, value in before.named_parameters():
        assert not torch.equal(value, after.get_parameter(name)), name
        assert value.ndim <= 1 or name.endswith("weight"), "weight decay is for weights"
    scales = {name for name, _ in after.named_parameters() if "scale" in name}
    assert any("quantizers" in name for name in scales) == (activations != "ste")
    assert any("weight_scale" in name for name in scales) == (weights == "lsq")
    assert "quantizers.input_1.scale" not in scales
    assert done.quant.keys() == start.quant.keys()
    assert scales <= done.quant.keys()


@pytest.mark.parametrize(("weights", "activations"), [("lsq", "lsq"), ("ste", "pact"), ("dorefa", "ste")])
def test_a_killed_training_goes_on_bit_equal(weights, activations, tmp_path):
    class Killed(Exception):
        pass

    def kill(progress):
        if (progress.epoch, progress.step) == (1, 4):
            raise Killed

    start = prepare_qat(integers(3, 4), QatConfig(weights=weights, activations=activations))
    config = replace(SHORT, epochs=2)
    whole = trained(start, config, run=tmp_path / "whole")
    with pytest.raises(Killed):
        trained(start, config, run=tmp_path / "killed", watch=kill)
    resumed = trained(start, config, run=tmp_path / "killed", resume=True)
    assert resumed.digest() == whole.digest()


def test_scales_stay_positive_when_a_step_carries_them_across_zero():
    net = prepare_qat(integers(4, 4), QatConfig()).build()
    layer = list(quant_layers(net))[1]
    with torch.no_grad():
        layer.source.scale.neg_()
        layer.module.weight_scale.neg_()
        layer.module.weight_scale[0] = 0
    assert (layer.module.scales() > 0).all()
    x = torch.rand(4, 1, 16, 16)
    net(x).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    layer.source.settle()
    layer.module.settle(float(layer.source.scale))
    assert float(layer.source.scale) > 0
    assert (layer.module.weight_scale > 0).all()


@pytest.mark.parametrize(("weights", "activations"), RULES)
def test_dead_channels_do_no_harm(weights, activations):
    """A filter of zeros, and one of nearly zeros, as slimming leaves them."""
    checkpoint = networks.learnt()
    net = checkpoint.build()
    with torch.no_grad():
        net[3].first[0].weight[0] = 0
        net[3].first[0].weight[1] *= 1e-20
    start = quantize(replace(checkpoint, weights=net.state_dict()), patterns(64), QuantizeConfig(bits=3, activations=4))
    finished = finish_qat(trained(prepare_qat(start, QatConfig(weights=weights, activations=activations))))
    assert all(tensor.isfinite().all() for tensor in (*finished.weights.values(), *finished.quant.values()))
    assert loss(finished) < loss(start) + 0.05


def test_integers_are_evaluated_in_float32_whatever_they_are_trained_in():
    start = prepare_qat(integers(8), QatConfig())
    plain, under_autocast = (predict_logits(start.build(), VALIDATION, bf16=bf16) for bf16 in (False, True))
    np.testing.assert_array_equal(plain, under_autocast)
    net = start.build().train()
    with torch.autocast("cpu", torch.bfloat16):
        assert net(torch.zeros(2, 1, 16, 16)).dtype == torch.bfloat16


def test_bf16_learns_like_float32():
    """The rounding of bf16 is finer than that of four bits."""
    start = integers(2, 4)
    exact, fast = (
        loss(trained(prepare_qat(start, QatConfig()), replace(SHORT, precision=precision)))
        for precision in ("fp32", "bf16")
    )
    assert fast == pytest.approx(exact, rel=0.25)
    assert max(exact, fast) < 0.7 * loss(start)


def test_gradients_of_a_network_against_double_precision():
    """All gradients of one step, against plain autograd on whole tensors (in float32 some values round otherwise)."""
    learning, slow = (prepare_qat(integers(3, 4), QatConfig()).build().train().double() for _ in range(2))
    x = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 - 1.5
    learning(x).square().mean().backward()
    for module in slow.modules():
        if isinstance(module, ActivationQuantizer):
            module.forward = slow_quantizer(module)  # type: ignore[method-assign]
    slow(x).square().mean().backward()
    for name, parameter in learning.named_parameters():
        expected = slow.get_parameter(name).grad
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-8, msg=name)


def slow_quantizer(module: ActivationQuantizer):
    """Round by autograd alone: `s * (v + (round(v) - v).detach())`, with v constant outside the range."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        low, high = -int(module.zero_point), module.levels - int(module.zero_point)
        factor = 1 / (x[0].numel() * max(high, -low)) ** 0.5
        s = module.scale.abs()
        s = s * factor + (s - s * factor).detach() if module.scale.requires_grad else s
        v = x / s
        v = torch.where((v > low) & (v < high), v, v.detach().clamp(low, high))
        return s * (v + (v.round() - v).detach())

    return forward


@pytest.mark.parametrize(("bits", "activations"), [(8, 8), (2, 4)])
def test_the_file_answers_as_the_network_did_in_training(bits, activations):
    done = trained(prepare_qat(integers(bits, activations), QatConfig()))
    finished = finish_qat(done)
    checks = verify(to_onnx(finished), finished, VALIDATION)
    require([check for check in checks if check.name != "stored in its bits"])  # a net of 2,000 weights
    assert next(check.value for check in checks if check.name == "signal to noise") > 70


def test_the_wrong_order_is_named():
    with pytest.raises(InputError, match="starts from a quantized network; first: slimfer quantize"):
        prepare_qat(networks.learnt(), QatConfig())
    learning = prepare_qat(integers(4), QatConfig())
    with pytest.raises(InputError, match="prepared for quantization-aware training already"):
        prepare_qat(learning, QatConfig())
    with pytest.raises(InputError, match="not prepared for quantization-aware training"):
        finish_qat(integers(4))
    with pytest.raises(InputError, match="weights must be one of ste, lsq, dorefa, not adaround"):
        QatConfig(weights="adaround")
    with pytest.raises(InputError, match="activations must be one of ste, lsq, pact, not dorefa"):
        QatConfig(activations="dorefa")


def test_a_training_of_other_numbers_is_not_gone_on_with():
    """Fixed quantizers have no rule; a prepared checkpoint names one for each layer."""
    learning = prepare_qat(integers(4), QatConfig(activations="ste"))
    rules = [name for name in learning.quant if name.endswith(".rule")]
    assert len(rules) == sum(name.endswith(".weight_bits") for name in learning.quant)
    assert learning.spec == TINY
    assert learning.labels == CLASSES
