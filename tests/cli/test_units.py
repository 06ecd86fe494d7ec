import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimfer.cli.units import SIZES, parse_count, parse_size, parse_time
from slimfer.errors import InputError


@pytest.mark.parametrize(
    ("text", "value"),
    [("250KB", 250_000), ("250 kb", 250_000), ("1MiB", 1_048_576), ("1.5KiB", 1536), ("4096", 4096), (".5MB", 500_000)],
)
def test_sizes(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize(("text", "value"), [("0.1ms", 0.1), ("50us", 0.05), ("2s", 2000), ("1 min", 60_000)])
def test_times(text: str, value: float) -> None:
    assert parse_time(text) == pytest.approx(value)


@given(st.integers(0, 10**12), st.sampled_from(sorted(SIZES)))
def test_whole_numbers_with_any_unit(number: int, unit: str) -> None:
    assert parse_size(f"{number}{unit}") == number * SIZES[unit]


@pytest.mark.parametrize("text", ["", "KB", "-1KB", "1KBps", "1 2", "1e3", "nan", "1,5KB", "0.1ms"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "5", "ms", "-1ms", "1KB"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(InputError, match="is not a time"):
        parse_time(text)


@pytest.mark.parametrize(("text", "value"), [("10M", 10_000_000), ("1.5g", 1_500_000_000), ("300k", 300_000), ("7", 7)])
def test_counts(text: str, value: int) -> None:
    assert parse_count(text) == value


@pytest.mark.parametrize("text", ["", "M", "-1M", "10MB", "1ms"])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(InputError, match="is not a count"):
        parse_count(text)
