import numpy as np
import pytest
import torch

import networks
from helpers import TINY, patterns
from slimfer.compress.config import QuantizeConfig
from slimfer.compress.quantize import (
    RANGES,
    Observed,
    assign_bits,
    calibrate,
    correct,
    freeze,
    least_squares_scale,
    min_max,
    mse,
    percentile,
    quantize,
    to_tensor,
)
from slimfer.errors import InputError
from slimfer.metrics import sqnr_db
from slimfer.model.placing import place, quant_layers
from slimfer.model.quant import ActivationQuantizer
from slimfer.model.rounding import round_weight
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import build
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.evaluate import predict_logits

VALIDATION = patterns(256, seed=5)


def noise_of(checkpoint: Checkpoint) -> float:
    return sqnr_db(
        predict_logits(networks.learnt().build(), VALIDATION), predict_logits(checkpoint.build(), VALIDATION)
    )


@pytest.mark.parametrize("method", RANGES)
def test_eight_bits_keep_the_answers(method):
    quantized = quantize(networks.learnt(), patterns(128, seed=2), QuantizeConfig(ranges=method))
    logits = predict_logits(quantized.build(), VALIDATION)
    assert noise_of(quantized) > 20
    assert (logits.argmax(1) == VALIDATION.labels).mean() > 0.97


def test_fewer_bits_are_noisier():
    noise = [
        noise_of(quantize(networks.learnt(), patterns(128, seed=2), QuantizeConfig(bits=bits))) for bits in (8, 6, 4, 2)
    ]
    assert noise == sorted(noise, reverse=True)
    assert noise[-1] < 15 < noise[0]


@pytest.mark.parametrize("spec", [TINY, NetSpec("mobile", image=32, args={"width": 0.25})], ids=["tiny", "mobile"])
def test_bias_correction_beats_its_control(spec):
    """Few bits shift means; taking the shift off must help, on pictures that were not calibrated on."""
    checkpoint = networks.learnt() if spec is TINY else networks.untrained(spec)
    frames = [patterns(128, side=spec.image, seed=seed) for seed in (2, 5)]
    expected = predict_logits(checkpoint.build(), frames[1])
    noise = {
        correct: sqnr_db(
            expected,
            predict_logits(
                quantize(checkpoint, frames[0], QuantizeConfig(bits=4, correct_bias=correct)).build(), frames[1]
            ),
        )
        for correct in (True, False)
    }
    assert noise[True] > noise[False] + 1


def outputs(graph, x: torch.Tensor, *, rounded: bool) -> dict[str, torch.Tensor]:
    """What every layer computes, noted by hooks, in the network of integers or in the float one."""
    seen = {}
    for layer in quant_layers(graph):
        layer.module.register_forward_hook(lambda m, i, out, name=layer.target: seen.update({name: out.clone()}))
        if not rounded:
            layer.module.forward = layer.module.float_forward
    if not rounded:
        for module in graph.modules():
            if isinstance(module, ActivationQuantizer):
                module.forward = lambda x: x
    with torch.no_grad():
        graph(x)
    return seen


@pytest.mark.parametrize("bits", [2, 4])
def test_corrected_channels_have_the_means_and_the_gains_of_the_float_network(bits):
    frames = patterns(64, seed=2)
    x = to_tensor(frames)
    graph = place(networks.learnt().build())
    assign_bits(graph, QuantizeConfig(bits=bits, activations=4, ends=bits))
    with torch.no_grad():
        calibrate(graph, frames, min_max)
        freeze(graph)
        integers = {layer.target: layer.module.integer_weight() for layer in quant_layers(graph)}
        correct(graph, x)
    for layer in quant_layers(graph):
        assert torch.equal(layer.module.integer_weight(), integers[layer.target]), "only scales and biases move"
    found = outputs(graph, x, rounded=True)
    expected = outputs(place(networks.learnt().build()), x, rounded=False)
    for name, q in found.items():
        for channel in range(q.shape[1]):
            f, g = expected[name][:, channel].double(), q[:, channel].double()
            assert float(g.mean()) == pytest.approx(float(f.mean()), abs=1e-4 * float(f.abs().max()))
            slope = float(((f - f.mean()) * (g - g.mean())).mean() / (f - f.mean()).square().mean())
            assert slope == pytest.approx(1, abs=1e-3), f"{name}, channel {channel}"


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gain_correction_beats_its_control(bits):
    """The control: the same scales and the same bias correction."""
    with_gains, without = (
        noise_of(quantize(networks.learnt(), patterns(128, seed=2), QuantizeConfig(bits=bits, correct_gain=gain)))
        for gain in (True, False)
    )
    assert with_gains > without + 2


@pytest.mark.parametrize("limit", [1, 3, 7, 31])
def test_searched_scales_are_no_worse_than_any_of_a_fine_grid_by_much(limit):
    weight = torch.randn(5, 400, generator=torch.Generator().manual_seed(limit)) ** 3
    weight[4] = 0

    def error(scale: torch.Tensor) -> torch.Tensor:
        return (round_weight(weight, scale, limit) - weight).square().sum(1)

    full = weight.abs().amax(1).clamp_min(1e-30) / limit
    best = torch.stack([error(full * share) for share in torch.linspace(0.02, 1.05, 500)]).amin(0)
    found = error(least_squares_scale(weight, limit).clamp_min(1e-30))
    assert (found <= 1.05 * best + 1e-12).all()
    assert (found <= error(full)).all()


def bits_of(checkpoint: Checkpoint) -> tuple[dict[str, int], dict[str, int]]:
    """Bits of the weights by layer, and of the activations by quantizer."""
    graph = checkpoint.build()
    quantizers = {n: m.bits for n, m in graph.named_modules() if isinstance(m, ActivationQuantizer)}
    return {layer.target: int(layer.module.weight_bits) for layer in quant_layers(graph)}, quantizers


def test_ends_keep_more_bits_and_patterns_go_over_all(tmp_path):
    config = QuantizeConfig(bits=3, activations=4, per_layer={"3.*": 5, "3.first.0": 2, "10": 6})
    quantized = quantize(networks.learnt(), patterns(64), config)
    quantized.save(tmp_path / "net.safetensors")
    weights, activations = bits_of(Checkpoint.load(tmp_path / "net.safetensors"))
    assert weights == {"0.0": 8, "3.first.0": 5, "3.second.0": 5, "4.body.0": 3, "6.body.0": 3, "10": 6}
    assert activations.pop("quantizers.input_1") == 8, "the pixels are integers already"
    assert activations.pop("quantizers._7") == 8, "what the last layer reads"
    assert set(activations.values()) == {4}
    np.testing.assert_array_equal(
        predict_logits(Checkpoint.load(tmp_path / "net.safetensors").build(), VALIDATION),
        predict_logits(quantized.build(), VALIDATION),
    )
    weights, activations = bits_of(quantize(networks.learnt(), patterns(64), QuantizeConfig(bits=4, ends=6)))
    assert (weights["0.0"], weights["10"], activations["quantizers._7"]) == (6, 6, 6)
    assert quantized.lineage[-1]["per_layer"] == {"3.*": 5, "3.first.0": 2, "10": 6}


def test_four_bits_of_activations_are_sixteen_values():
    quantized = quantize(networks.learnt(), patterns(64), QuantizeConfig(activations=4))
    graph = quantized.build()
    seen = []
    graph.get_submodule("quantizers._1").register_forward_hook(lambda m, i, out: seen.append((m, out)))
    graph(to_tensor(VALIDATION))
    quantizer, values = seen[0]
    integers = (values / quantizer.scale).round()
    assert quantizer.levels == 15
    assert integers.unique().tolist() == list(range(16))
    assert noise_of(quantize(networks.learnt(), patterns(64))) > noise_of(quantized) + 3 > 8


class Unusual(torch.nn.Module):
    """Has a layer with weights that has no integer form."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = torch.nn.Conv2d(1, 4, 3), torch.nn.ConvTranspose2d(4, 4, 2)
        self.last = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.up(self.conv(x))).mean((2, 3)))


def test_a_layer_without_an_integer_form_is_named():
    with pytest.raises(InputError, match="cannot quantize layer up: ConvTranspose2d has no integer form here"):
        place(Unusual())


def test_the_result_is_a_checkpoint_like_any_other(tmp_path):
    quantized = networks.integers()
    quantized.save(tmp_path / "net.safetensors")
    again = Checkpoint.load(tmp_path / "net.safetensors")
    assert again.digest() == quantized.digest()
    assert quantized.lineage[-1]["step"] == "quantize"
    assert quantized.lineage[-1]["bits"] == 8
    for net in (quantized, again):
        np.testing.assert_array_equal(
            predict_logits(net.build(), VALIDATION), predict_logits(quantized.build(), VALIDATION)
        )
    assert not networks.learnt().quant


def test_the_same_seed_gives_the_same_integers():
    first, second, other = (
        quantize(networks.learnt(), patterns(200), QuantizeConfig(images=64), seed=seed) for seed in (1, 1, 2)
    )
    assert first.digest() == second.digest() != other.digest()


def test_wrong_input_is_named():
    frames = patterns(64)
    with pytest.raises(InputError, match="bits must be between 2 and 8, or 32 for float, not 9"):
        quantize(networks.learnt(), frames, QuantizeConfig(bits=9))
    with pytest.raises(InputError, match="ranges must be one of minmax, percentile, mse, not entropy"):
        quantize(networks.learnt(), frames, QuantizeConfig(ranges="entropy"))
    with pytest.raises(InputError, match=r"per_layer: no layer is called 'conv\*' \(there are 0.0, 3.first.0, "):
        quantize(networks.learnt(), frames, QuantizeConfig(per_layer={"conv*": 4}))
    for wrong, words in (
        ({"bits": 1}, "bits must be between 2 and 8, or 32 for float, not 1"),
        ({"ends": 9}, "ends must be between 2 and 8, not 9"),
        ({"per_layer": {"a": 1}}, "bits of a must be between 2 and 8, not 1"),
        ({"activations": 6}, "activations must be 8 or 4, not 6"),
    ):
        with pytest.raises(InputError, match=words):
            QuantizeConfig(**wrong)
    with pytest.raises(InputError, match="at least 16 pictures, not 15"):
        quantize(networks.learnt(), patterns(15))
    with pytest.raises(InputError, match="at least 16 pictures, not 3"):
        quantize(networks.learnt(), frames, QuantizeConfig(images=3))
    with pytest.raises(InputError, match="quantized already"):
        quantize(networks.integers(), frames)


def test_the_wrong_order_raises():
    graph = place(build(TINY))
    with pytest.raises(RuntimeError, match="freeze before calibrate"):
        freeze(graph)
    with torch.no_grad():
        calibrate(graph, patterns(32), min_max)
    freeze(graph)


def observed(values: torch.Tensor) -> Observed:
    seen = Observed()
    seen.add(values, torch.Generator().manual_seed(0))
    return seen


def test_ranges_of_a_tensor_with_one_outlier():
    values = torch.cat([torch.linspace(-1, 1, 10_000), torch.tensor([50.0])])
    seen = observed(values)
    assert min_max(seen) == (-1, 50)
    assert percentile(seen)[1] == pytest.approx(1, abs=0.01)
    # The outlier alone costs more than all the others together, so least squares keeps most of its range.
    assert 25 < mse(seen)[1] <= 50


def test_least_squares_is_no_worse_than_the_full_range():
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0)) ** 3
    seen = observed(values)

    def error(low: float, high: float) -> float:
        quantizer = ActivationQuantizer()
        quantizer.set_range(low, high)
        return float((quantizer(values) - values).square().sum())

    assert error(*mse(seen)) <= error(*min_max(seen))


def test_calibration_sees_the_float_network():
    """Every range covers exactly what the float network computes there, found with plain hooks."""
    checkpoint = networks.learnt()
    frames = patterns(32, seed=3)
    net, extremes = checkpoint.build(), {}
    net[1].register_forward_hook(lambda m, i, out: extremes.update(high=float(out.max())))
    predict_logits(net, frames)
    graph = place(checkpoint.build())
    with torch.no_grad():
        calibrate(graph, frames, min_max, batch_size=5)
    relu = graph.get_submodule("quantizers._1")
    assert float(relu.scale) * 255 == pytest.approx(extremes["high"], rel=1e-4)
    assert int(relu.zero_point) == 0
