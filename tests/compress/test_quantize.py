import numpy as np
import pytest
import torch

import networks
from helpers import TINY, patterns
from slimfer.compress.config import QuantizeConfig
from slimfer.compress.quantize import RANGES, Observed, calibrate, freeze, min_max, mse, percentile, quantize
from slimfer.errors import InputError
from slimfer.metrics import sqnr_db
from slimfer.model.placing import place
from slimfer.model.quant import ActivationQuantizer
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
