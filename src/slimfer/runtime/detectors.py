"""Which face detector is there."""

import os
from collections.abc import Callable
from pathlib import Path

from slimfer.errors import InputError
from slimfer.runtime.faces import Detector
from slimfer.runtime.yunet import YuNet


def open_detector(path: str | Path | None = None, *, threads: int = 1, say: Callable[[str], None]) -> Detector:
    """Open the best face detector at hand.

    Raises:
        InputError: if there is none, with the remedy.
    """
    del say  # the cache, the download and Haar's cascade follow
    path = path or os.environ.get("SLIMFER_DETECTOR")
    if path is None:
        raise InputError("there is no face detector; name its file in SLIMFER_DETECTOR")
    return YuNet(path, threads=threads)
