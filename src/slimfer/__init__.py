"""Facial-expression recognition, small and fast enough to run anywhere.

Example:
    >>> slimfer.Recognizer()("photo.jpg").label  # doctest: +SKIP
    'happy'
"""

import importlib
from typing import TYPE_CHECKING, Any

from slimfer.version import VERSION as __version__

if TYPE_CHECKING:
    from slimfer.runtime.answer import Prediction as Prediction
    from slimfer.runtime.predict import Recognizer as Recognizer
    from slimfer.runtime.video import watch as watch

__all__ = ["Prediction", "Recognizer", "__version__", "watch"]

_HOMES = {"Prediction": "answer", "Recognizer": "predict", "watch": "video"}


def __getattr__(name: str) -> Any:
    """Load the runtime when it is first asked for: the command line's help must not wait for onnxruntime."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"slimfer.runtime.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'slimfer' has no attribute {name!r}")
