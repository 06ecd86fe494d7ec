"""The gradients of the papers, re-derived value by value in slow loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slimfer.model.rounding import (
    PIECE,
    before_dorefa,
    dorefa_weight,
    round_activation,
    round_weight,
    scale_gradient,
)


def even(x: float) -> int:
    return round(x)  # Python rounds half to even, too


def clip(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


def learnt_step(x: float, s: float, low: int, high: int) -> float:
    """d(rounded x) / ds, equation 3 of Esser et al. 2020."""
    v = x / s
    if v <= low:
        return low
    return high if v >= high else even(v) - v


def learnt_clip(x: float, s: float, low: int, high: int) -> float:
    """d(rounded x) / ds by equation 3 of Choi et al. 2018, with alpha = high * s."""
    v = x / s
    if v <= low:
        return low
    return high if v >= high else 0.0


RULES = {"lsq": learnt_step, "pact": learnt_clip}
LAYOUTS = {
    "plain": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "gaps": lambda x: torch.stack([x, x], -1)[..., 0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("zero_point", "levels"), [(0, 15), (3, 15), (90, 255), (15, 15)])
def test_activations_against_slow_loops(rule, zero_point, levels, layout):
    generator = torch.Generator().manual_seed(levels + zero_point)
    shape, s, low, high = (2, 3, 4, 5), 0.13, -zero_point, levels - zero_point
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * s * levels * 0.6
    given = torch.randn(shape, generator=generator, dtype=torch.float64)
    source = LAYOUTS[layout](x).requires_grad_()
    scale = torch.tensor(s, dtype=torch.float64, requires_grad=True)
    rounded = round_activation(source, scale, zero_point, levels, rule)
    # The gradient comes in another layout than the values.
    dx, ds = torch.autograd.grad(rounded, (source, scale), given)

    values, weights = x.flatten().tolist(), given.flatten().tolist()
    expected = [s * clip(even(v / s), low, high) for v in values]
    torch.testing.assert_close(rounded.flatten(), torch.tensor(expected, dtype=torch.float64))
    inside = [g if low < v / s < high else 0.0 for v, g in zip(values, weights, strict=True)]
    assert dx.flatten().tolist() == inside
    largest = max(high, -low)
    factor = 1 / math.sqrt(60 * largest) if rule == "lsq" else 1 / largest**2
    total = sum(g * RULES[rule](v, s, low, high) for v, g in zip(values, weights, strict=True))
    assert float(ds) == pytest.approx(total * factor, rel=1e-5)


def test_a_fixed_scale_gets_no_gradient_and_values_get_the_same():
    x = torch.linspace(-2, 2, 101, requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=True)
    (dx,) = torch.autograd.grad(round_activation(x, scale, 10, 15).sum(), x)
    assert dx.tolist() == [1.0 if -10 < v / 0.1 < 5 else 0.0 for v in x.tolist()]
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        torch.autograd.grad(round_activation(x, scale, 10, 15).sum(), scale)


def test_pieces_do_not_show():
    """Tensors larger than a piece, in bf16: as in one piece, and as in float32 within bf16's steps."""
    x = torch.randn(2, PIECE, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = torch.cat([x, x[:, :7]], 1).requires_grad_()
    scale = torch.tensor(0.25, requires_grad=True)
    rounded = round_activation(x, scale, 4, 15, "lsq")
    assert rounded.dtype == torch.bfloat16
    q = (x.detach().float() / 0.25).round().clamp(-4, 11)
    torch.testing.assert_close(rounded.float(), q * 0.25, rtol=2**-8, atol=0)
    rows = [round_activation(row, scale, 4, 15, "lsq") for row in x]
    assert torch.equal(rounded, torch.stack(rows))
    dx, ds = torch.autograd.grad(rounded.float().square().sum(), (x, scale))
    v = x.detach().float() / 0.25
    step = torch.where((v > -4) & (v < 11), q - v, q)
    expected = float((2 * rounded.detach().float() * step).sum()) / math.sqrt(x.shape[1] * 11)
    assert float(ds) == pytest.approx(expected, rel=1e-2)
    assert ((dx != 0) == ((v > -4) & (v < 11) & (rounded != 0))).all()


@given(st.integers(2, 8), st.floats(1e-4, 1e3), st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.data())
def test_half_a_step_at_most_and_twice_is_once(bits, scale, places, data):
    levels = 2**bits - 1
    zero_point = data.draw(st.integers(0, levels))
    low, high = -zero_point * scale, (levels - zero_point) * scale
    x = torch.tensor([low + (high - low) * (place + 1) / 2 for place in places])
    rounded = round_activation(x[None], torch.tensor(scale), zero_point, levels)
    assert ((rounded - x).abs() <= scale * 0.5001 + 1e-6 * abs(high - low)).all()
    assert torch.equal(round_activation(rounded, torch.tensor(scale), zero_point, levels), rounded)


def weights(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 2, 3, 3, generator=generator, dtype=torch.float64)
    return weight.requires_grad_(), torch.tensor([0.2, 0.5, 1.1], dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_learned_steps_of_weights_against_slow_loops(limit):
    weight, scale = weights(limit)
    given = torch.randn(weight.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    rounded = round_weight(weight, scale_gradient(scale, 0.25), limit)
    dw, ds = torch.autograd.grad(rounded, (weight, scale), given)
    for channel, s in enumerate(scale.tolist()):
        values, grads = weight[channel].flatten().tolist(), given[channel].flatten().tolist()
        expected = [s * clip(even(v / s), -limit, limit) for v in values]
        assert rounded[channel].flatten().tolist() == pytest.approx(expected)
        inside = [g if abs(v / s) < limit else 0.0 for v, g in zip(values, grads, strict=True)]
        assert dw[channel].flatten().tolist() == pytest.approx(inside)
        total = sum(g * learnt_step(v, s, -limit, limit) for v, g in zip(values, grads, strict=True))
        assert float(ds[channel]) == pytest.approx(0.25 * total)


def test_the_largest_weight_learns_when_its_scale_follows_it():
    weight, _ = weights()
    scale = weight.detach().abs().flatten(1).amax(1) / 7
    (dw,) = torch.autograd.grad(round_weight(weight, scale * (1 - 1e-9), 7, margin=0.4).sum(), weight)
    assert (dw == 1).all()


@pytest.mark.parametrize("limit", [1, 3, 127])
def test_dorefa_against_slow_loops(limit):
    weight, scale = weights(limit)
    rounded = dorefa_weight(weight, scale, limit)
    for channel, s in enumerate(scale.tolist()):
        t = [math.tanh(v / (s * limit)) for v in weight[channel].flatten().tolist()]
        largest = max(map(abs, t))
        expected = [s * even(limit * value / largest) for value in t]
        assert rounded[channel].flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_dorefa_starts_from_the_integers_of_calibration(limit):
    weight, scale = (tensor.detach() for tensor in weights(limit))
    scale = scale.minimum(weight.abs().flatten(1).amax(1) / limit)  # the largest weight reaches the largest integer
    start = before_dorefa(weight, scale, limit)
    torch.testing.assert_close(dorefa_weight(start, scale, limit), round_weight(weight, scale, limit))
