import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimfer.compress.suggest import order_bits, within

measured = st.dictionaries(st.sampled_from([2, 3, 4, 6]), st.floats(-0.1, 1), min_size=1).map(lambda d: {8: 0.001, **d})
networks = st.dictionaries(st.sampled_from("abcde"), measured, min_size=1)


def sizes_of(losses: dict[str, dict[int, float]]) -> dict[str, dict[int, int]]:
    return {name: {bits: bits * 10 * (ord(name) - 96) for bits in own} for name, own in losses.items()}


def test_the_cheapest_byte_goes_first() -> None:
    losses = {"big": {8: 0.0, 4: 0.01, 2: 0.5}, "small": {8: 0.0, 4: 0.001}, "free": {8: 0.0, 4: -0.02}}
    sizes = {"big": {8: 1000, 4: 500, 2: 250}, "small": {8: 10, 4: 5}, "free": {8: 100, 4: 50}}
    changes = order_bits(losses, sizes)
    assert [(c.layer, c.before, c.bits, c.saved) for c in changes] == [
        ("free", 8, 4, 50), ("big", 8, 4, 500), ("small", 8, 4, 5), ("big", 4, 2, 250),
    ]  # fmt: skip
    assert [c.bytes for c in changes] == [1060, 560, 555, 305]
    assert changes[1].loss_per_kb == pytest.approx(0.02)
    assert within(changes, 0.02) == {"free": 4, "big": 4, "small": 4}
    assert within(changes, 0.0) == {"free": 4}


def test_a_bad_level_is_jumped_over() -> None:
    changes = order_bits({"a": {8: 0.0, 6: 0.1, 4: 0.1}}, {"a": {8: 80, 6: 60, 4: 40}})
    assert [(c.before, c.bits) for c in changes] == [(8, 4)]


@given(losses=networks)
def test_the_order_is_a_convex_path_to_the_fewest_bits(losses: dict[str, dict[int, float]]) -> None:
    sizes = sizes_of(losses)
    changes = order_bits(losses, sizes)
    rates = [change.loss_per_kb for change in changes]
    assert rates == pytest.approx(sorted(rates), abs=1e-9)
    assert all(change.saved > 0 and change.loss >= 0 for change in changes)
    assert changes[-1].bytes == sum(min(own.values()) for own in sizes.values())
    assert within(changes, 1e9) == {name: min(own) for name, own in losses.items()}
    worst = sum(max(0.0, max(own.values()) - own[8]) for own in losses.values())
    assert changes[-1].total == pytest.approx(worst)


@given(losses=networks, small=st.floats(0, 1), large=st.floats(0, 1))
def test_more_tolerance_never_gives_more_bits(losses: dict[str, dict[int, float]], small: float, large: float) -> None:
    changes = order_bits(losses, sizes_of(losses))
    few, many = within(changes, max(small, large)), within(changes, min(small, large))
    assert all(few[name] <= bits for name, bits in many.items())
