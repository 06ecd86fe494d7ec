"""Where slimfer keeps what it fetched, and whether it may fetch at all."""

import os
import sys
from pathlib import Path

from slimfer.errors import InputError


def home() -> Path:
    """Return slimfer's own folder, which need not be there yet.

    SLIMFER_HOME, else `slimfer` in the folder that the system has for things that can be fetched again:
    XDG_CACHE_HOME or ~/.cache, ~/Library/Caches on macOS, LOCALAPPDATA on Windows.

    Raises:
        InputError: if the user has no home folder and SLIMFER_HOME is not set.
    """
    own = os.environ.get("SLIMFER_HOME")
    if own:
        return Path(own)
    cache = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", "")
    if Path(cache).is_absolute():  # the XDG specification: relative ones are to be ignored
        return Path(cache) / "slimfer"
    try:
        user = Path.home()
    except RuntimeError:
        raise InputError("there is no home folder; set SLIMFER_HOME to a folder that slimfer may use") from None
    return user / {"darwin": "Library/Caches", "win32": "AppData/Local"}.get(sys.platform, ".cache") / "slimfer"


def offline() -> bool:
    """Whether SLIMFER_OFFLINE forbids to use the network; whatever does not clearly say no forbids it."""
    return os.environ.get("SLIMFER_OFFLINE", "").strip().lower() not in ("", "0", "off", "no", "false")
