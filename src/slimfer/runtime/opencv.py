"""OpenCV, an extra (`slimfer[video]`): loaded in one place, and quiet."""

import importlib
import os
from contextlib import suppress
from typing import Any

from slimfer.errors import InputError

_LEVEL = "OPENCV_LOG_LEVEL"


def load() -> Any:
    """Return the module cv2, which writes nothing to stderr from then on unless the user has set its log level.

    What matters of its messages is said in our words.

    Raises:
        InputError: if it is not installed.
    """
    wanted = _LEVEL in os.environ
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError as error:
        raise InputError(f'OpenCV is not there ({error}); pip install "slimfer[video]"') from None
    if not wanted:  # the variable alone would come too late where somebody else has imported it
        with suppress(AttributeError):  # other versions, other places
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2
