"""Facial-expression recognition, small and fast enough to run anywhere.

Example:
    >>> slimfer.Recognizer("model.onnx").predict("face.jpg").faces[0].label  # doctest: +SKIP
    'happy'
"""

import importlib
from typing import TYPE_CHECKING, Any

from slimfer.version import VERSION as __version__

if TYPE_CHECKING:
    from slimfer.runtime.predict import Prediction as Prediction
    from slimfer.runtime.predict import Recognizer as Recognizer

__all__ = ["Prediction", "Recognizer", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the runtime when it is first asked for: the command line's help must not wait for onnxruntime."""
    if name in ("Prediction", "Recognizer"):
        return getattr(importlib.import_module("slimfer.runtime.predict"), name)
    raise AttributeError(f"module 'slimfer' has no attribute {name!r}")
