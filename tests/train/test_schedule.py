import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimfer.train.config import TrainConfig
from slimfer.train.schedule import lr_at

progress = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("at", "rate"),
    [(0.0, 0.0), (0.05, 0.1), (0.1, 0.2), (0.1 + 0.9 / 2, 0.1), (0.1 + 0.9 / 4, 0.1 * (1 + math.sqrt(0.5))), (1.0, 0)],
)
def test_cosine_as_arithmetic(at, rate):
    assert lr_at(at, TrainConfig(lr=0.2, warmup=0.1)) == pytest.approx(rate, abs=1e-12)


@pytest.mark.parametrize(("at", "rate"), [(0.0, 1), (0.49, 1), (0.5, 0.1), (0.74, 0.1), (0.75, 0.01), (0.99, 0.01)])
def test_steps_as_arithmetic(at, rate):
    config = TrainConfig(lr=1, warmup=0, schedule="step", step_at=(0.5, 0.75), step_factor=0.1)
    assert lr_at(at, config) == pytest.approx(rate)


@given(progress, progress, st.floats(0, 0.9), st.sampled_from(["cosine", "step"]))
def test_rises_in_the_warmup_and_never_after(one, other, warmup, schedule):
    config = TrainConfig(lr=0.3, warmup=warmup, schedule=schedule)
    low, high = sorted((one, other))
    first, second = lr_at(low, config), lr_at(high, config)
    assert 0 <= min(first, second) <= max(first, second) <= 0.3
    if high < warmup:
        assert first <= second
    if low >= warmup:
        assert first >= second


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_each_cycle_goes_through_the_whole_schedule(schedule):
    once = TrainConfig(schedule=schedule, warmup=0.1)
    thrice = TrainConfig(schedule=schedule, warmup=0.1, cycles=3)
    for cycle in range(3):
        for progress in (0.0, 0.05, 0.3, 0.6, 0.9, 0.99):
            assert lr_at((cycle + progress) / 3, thrice) == pytest.approx(lr_at(progress, once), abs=1e-9)
