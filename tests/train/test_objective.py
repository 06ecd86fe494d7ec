import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slimfer.train.objective import balanced_weights, cross_entropy, smooth, weighted

seeds = st.integers(0, 1000)


def batch(seed: int, n: int = 5, k: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, k, generator=generator) * 4, torch.rand(n, k, generator=generator).softmax(1)


@given(seeds)
def test_cross_entropy_is_the_slow_sum(seed):
    logits, target = batch(seed)
    slow = 0.0
    for row, wanted in zip(logits.tolist(), target.tolist(), strict=True):
        norm = math.log(sum(math.exp(value) for value in row))
        slow -= sum(t * (value - norm) for t, value in zip(wanted, row, strict=True))
    assert float(cross_entropy(logits, target)) == pytest.approx(slow / len(logits), rel=1e-5)


@given(seeds, st.floats(-50, 50))
def test_cross_entropy_does_not_see_a_shift_and_is_least_at_the_target(seed, shift):
    logits, target = batch(seed)
    loss = cross_entropy(logits, target)
    assert torch.isclose(cross_entropy(logits + shift, target), loss, rtol=1e-4)
    assert loss >= cross_entropy(target.log(), target) - 1e-6


def test_half_precision_logits_are_judged_in_full():
    logits, target = batch(0)
    half = logits.bfloat16()
    assert torch.equal(cross_entropy(half, target), cross_entropy(half.float(), target))


@given(seeds, st.floats(0, 0.99))
def test_smoothing_keeps_the_sum_and_the_order(seed, smoothing):
    _, target = batch(seed)
    smoothed = smooth(target, smoothing)
    assert torch.allclose(smoothed.sum(1), torch.ones(5), atol=1e-6)
    assert torch.allclose(smoothed, (1 - smoothing) * target + smoothing / 4)
    assert smooth(target, 0.0) is target


@given(st.lists(st.integers(0, 3), min_size=1, max_size=50))
def test_balanced_weights_make_classes_equal_and_have_mean_one(labels):
    labels = torch.tensor(labels)
    weights = balanced_weights(labels, 4)
    assert float(weights[labels].mean()) == pytest.approx(1, rel=1e-5)
    totals = [float(weights[labels[labels == k]].sum()) for k in labels.unique()]
    assert totals == pytest.approx([totals[0]] * len(totals), rel=1e-5)


def test_weighting_scales_each_row_by_the_weight_of_its_classes():
    target = torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5]])
    rows = weighted(target, torch.tensor([2.0, 1.0, 3.0]))
    assert torch.equal(rows, torch.tensor([[2.0, 0, 0], [0, 1.0, 1.0]]))
    assert weighted(target, None) is target
    logits, _ = batch(1, 2, 3)
    by_hand = (2 * cross_entropy(logits[:1], target[:1]) + 2 * cross_entropy(logits[1:], target[1:])) / 2
    assert torch.isclose(cross_entropy(logits, rows), by_hand)
