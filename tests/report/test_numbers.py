import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimfer.report.numbers import count, milliseconds, percent, size, times, whole


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (741_210, "741 kB"),
        (999_499, "999 kB"),
        (999_999, "1.00 MB"),
        (44_723_644, "44.7 MB"),
        (5_260_000_000, "5.26 GB"),
    ],
)
def test_size(number, text):
    assert size(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0187, "0.0187"),
        (0.1, "0.100"),
        (0.9999, "1.00"),
        (6.9, "6.90"),
        (12.34, "12.3"),
        (187.2, "187"),
        (1234.5, "1,230"),
    ],
)
def test_milliseconds_have_three_significant_digits(number, text):
    assert milliseconds(number) == text


def test_counts_and_shares():
    assert (count(87), count(312_000), count(11_171_271)) == ("87", "312 k", "11.2 M")
    assert (percent(0.68934), whole(31_172.6), times(41.26)) == ("68.93", "31,173", "41.3×")


@pytest.mark.parametrize("told", [count, size, milliseconds, times, percent, whole])
def test_what_was_not_measured_is_a_dash(told):
    assert told(None) == "–"


@given(st.floats(1e-4, 1e8))
def test_printed_milliseconds_are_within_half_a_percent(number):
    assert float(milliseconds(number).replace(",", "")) == pytest.approx(number, rel=0.00501)


@given(st.integers(1, 10**12))
def test_printed_sizes_are_within_half_a_percent(number):
    value, unit = size(number).replace(",", "").split(" ")
    assert float(value) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit] == pytest.approx(number, rel=0.00501)
