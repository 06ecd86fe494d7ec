"""Writing TOML; the package that does it comes with the training side, so it is asked for when it is needed."""

import importlib
from collections.abc import Mapping
from typing import Any


def to_toml(values: Mapping[str, Any]) -> str:
    """Return a TOML document; None is left out, since TOML has no such value.

    Raises:
        ImportError: if the training side is not installed.
    """
    text: str = importlib.import_module("tomli_w").dumps(_without_none(values))
    return text


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, tuple | list):
        return [_without_none(item) for item in value]
    return value
