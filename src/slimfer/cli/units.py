"""Sizes, times and counts with units on the command line: `250KB`, `1MiB`, `0.1ms`, `10M`. KB is 1000, KiB 1024."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Parameter, Token

from slimfer.errors import InputError

SIZES: Mapping[str, float] = {
    "": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip
COUNTS: Mapping[str, float] = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}
TIMES: Mapping[str, float] = {"us": 1e-3, "ms": 1.0, "s": 1e3, "min": 6e4}


def parse_size(text: str) -> int:
    """Return bytes.

    Raises:
        InputError: if the text is no size.
    """
    return round(_parse(text, SIZES, "a size such as 250KB, 1MiB or 4096 (KB = 1000 bytes, KiB = 1024)"))


def parse_time(text: str) -> float:
    """Return milliseconds; a unit is required.

    Raises:
        InputError: if the text is no time.
    """
    return _parse(text, TIMES, "a time such as 0.1ms, 50us, 2s or 1min")


def parse_count(text: str) -> int:
    """Return a number of things.

    Raises:
        InputError: if the text is no count.
    """
    return round(_parse(text, COUNTS, "a count such as 10M, 1.5G, 300k or 4096"))


def _parse(text: str, units: Mapping[str, float], wanted: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in units:
        raise InputError(f"{text!r} is not {wanted}")
    return float(match[1]) * units[match[2].lower()]


def _size(kind: Any, tokens: Sequence[Token]) -> int:
    return parse_size(tokens[0].value)


def _time(kind: Any, tokens: Sequence[Token]) -> float:
    return parse_time(tokens[0].value)


def _count(kind: Any, tokens: Sequence[Token]) -> int:
    return parse_count(tokens[0].value)


# Types of flags: bytes, milliseconds and counts, given with their unit.
Size = Annotated[int, Parameter(converter=_size, metavar="SIZE", n_tokens=1)]
Milliseconds = Annotated[float, Parameter(converter=_time, metavar="TIME", n_tokens=1)]
Count = Annotated[int, Parameter(converter=_count, metavar="COUNT", n_tokens=1)]
