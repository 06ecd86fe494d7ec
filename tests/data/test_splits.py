import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimfer.data.splits import stratified
from slimfer.errors import InputError


@given(counts=st.lists(st.integers(0, 60), min_size=1, max_size=7), count=st.integers(1, 200), seed=st.integers(0, 99))
def test_each_class_has_its_share(counts: list[int], count: int, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    index = stratified(labels, count, seed)
    taken = min(count, len(labels))
    assert len(np.unique(index)) == len(index) == taken
    assert index.tolist() == sorted(index)
    for number, size in enumerate(counts):
        share = size * taken / max(len(labels), 1)
        assert abs((labels[index] == number).sum() - share) < 1
    assert np.array_equal(index, stratified(labels, count, seed))


def test_another_seed_is_another_sample() -> None:
    labels = np.repeat(np.arange(3), 50)
    assert not np.array_equal(stratified(labels, 30, 0), stratified(labels, 30, 1))


def test_nothing_is_no_sample() -> None:
    with pytest.raises(InputError, match="at least 1 picture, not 0"):
        stratified(np.zeros(5, dtype=np.int64), 0)
