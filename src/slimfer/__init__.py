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

__all__ = ["Prediction", "Recognizer", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the runtime when it is first asked for: the command line's help must not wait for onnxruntime."""
    if name == "Recognizer":
        return importlib.import_module("slimfer.runtime.predict").Recognizer
    if name == "Prediction":
        return importlib.import_module("slimfer.runtime.answer").Prediction
    raise AttributeError(f"module 'slimfer' has no attribute {name!r}")
