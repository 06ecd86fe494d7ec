"""Numbers as people read them: three significant digits, a unit, a dash for what was not measured."""

import math
from collections.abc import Sequence

MISSING = "–"


def percent(fraction: float | None) -> str:
    """Return 0.6893 as `68.93`."""
    return MISSING if fraction is None else f"{100 * fraction:.2f}"


def count(number: float | None) -> str:
    """Return a count with a unit: `11.17 M`, `312 k`, `87`."""
    return MISSING if number is None else _scaled(number, 1000, ("", " k", " M", " G"))


def size(number: float | None) -> str:
    """Return bytes in decimal units, as file managers and budgets (`250KB`) have them: `44.7 MB`."""
    return MISSING if number is None else _scaled(number, 1000, (" B", " kB", " MB", " GB"))


def whole(number: float | None) -> str:
    """Return a whole number with separators: `31,173`."""
    return MISSING if number is None else f"{number:,.0f}"


def milliseconds(number: float | None) -> str:
    """Return three significant digits."""
    return MISSING if number is None else _significant(number)


def times(ratio: float | None) -> str:
    """Return a ratio: `41.3×`."""
    return MISSING if ratio is None else f"{_significant(ratio)}×"


def compared(ratio: float, more: str, less: str) -> str:
    """Return a ratio with the word that it deserves: `2.50× faster`, or for 0.4 `2.50× slower`."""
    return f"{times(ratio)} {more}" if ratio >= 1 else f"{times(1 / ratio)} {less}"


def signed(points: float, digits: int = 2) -> str:
    """Return a change with its sign and a true minus; what rounds to nothing has none."""
    text = f"{points:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def points(value: float, digits: int = 2) -> str:
    """Return percentage points without a plus, but with a true minus; what rounds to nothing has no sign."""
    return signed(value, digits).removeprefix("+")


def counted(number: int, noun: str) -> str:
    """Return `1 epoch`, `2 epochs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _scaled(number: float, base: int, units: Sequence[str]) -> str:
    power = 0
    # Compare what will be printed: 999,999 is 1.00 M, not 1000 k.
    while power < len(units) - 1 and float(f"{number:.3g}") >= base:
        number, power = number / base, power + 1
    return (f"{number:.0f}" if power == 0 else _significant(number)) + units[power]


def _significant(number: float) -> str:
    """Return three significant digits without an exponent."""
    rounded = float(f"{number:.3g}")
    digits = 0 if rounded == 0 else 2 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(0, digits)}f}"
