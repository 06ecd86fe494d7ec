"""The flag `--steps`: a chain in one line, `"slim:ratio=0.5 finetune:epochs=4,lr=0.02 quantize:bits=4 qat"`."""

import re
import tomllib
from typing import Annotated, Any

from cyclopts import Parameter

from slimfer.errors import InputError

Chain = Annotated[
    str | None,
    Parameter(
        name="--steps",
        help="The chain instead of the usual one: kinds of steps with keys of their tables, "
        'e.g. "slim:ratio=0.5 finetune:epochs=4 quantize:bits=4 qat".',
    ),
]


def parse_steps(text: str) -> tuple[dict[str, Any], ...]:
    """Return the `[[steps]]` of a recipe that `text` stands for: KIND[:KEY=VALUE[,KEY=VALUE...]], separated by spaces.

    Keys may be dotted (`limits.round_to=8`), values are those of TOML; a bare word is text.

    Raises:
        InputError: if a key has no value or is there twice.
    """
    return tuple(_step(word) for word in text.split())


def _step(word: str) -> dict[str, Any]:
    kind, _, settings = word.partition(":")
    lines = []
    # A comma inside brackets belongs to its value.
    for setting in re.split(r",(?![^\[{]*[\]}])", settings) if settings else []:
        key, equals, value = setting.partition("=")
        if not equals or not key or not value:
            raise InputError(f"--steps: {setting!r} in {word!r} is not KEY=VALUE")
        bare = re.fullmatch(r"[A-Za-z_*][\w*./-]*", value) and value not in ("true", "false", "inf", "nan")
        lines.append(f'{key} = "{value}"' if bare else f"{key} = {value}")
    try:
        return {"do": kind, **tomllib.loads("\n".join(lines))}
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"--steps: {word!r} cannot be read ({error})") from None
