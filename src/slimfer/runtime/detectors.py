"""Which face detector is there: the one that was named, YuNet from the cache or the network, or Haar's cascade."""

import os
from collections.abc import Callable
from pathlib import Path

from slimfer.download import fetch
from slimfer.errors import InputError
from slimfer.home import home, offline
from slimfer.runtime import yunet
from slimfer.runtime.faces import Detector
from slimfer.runtime.haar import Haar
from slimfer.runtime.yunet import YuNet

FILE = "face_detection_yunet_2023mar.onnx"
SIZE = 232_589
# OpenCV's own copies: one state of its Hugging Face repository, and the newest of its Zoo.
ADDRESSES = (
    f"https://huggingface.co/opencv/face_detection_yunet/resolve/3cc26e7f1014a5ee5d74a42acee58bafc9d0a310/{FILE}",
    f"https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet/{FILE}",
)


def open_detector(path: str | Path | None = None, *, threads: int = 1, say: Callable[[str], None]) -> Detector:
    """Open the best face detector at hand.

    Args:
        path: of YuNet's file; None asks SLIMFER_DETECTOR, then looks into `slimfer.home.home`, then fetches the file
            to there unless SLIMFER_OFFLINE forbids it, then takes OpenCV's Haar cascade.
        threads: CPU threads.
        say: is told, in one line each, what is fetched, and that the weaker detector is used.

    Raises:
        InputError: if the file named is not YuNet's; if there is no detector, with the remedy.
    """
    named = path or os.environ.get("SLIMFER_DETECTOR")
    if named:
        return YuNet(named, threads=threads)
    try:
        data = _kept_or_fetched(say)
    except InputError as error:
        reason = str(error)
    else:
        return YuNet(data, threads=threads)
    try:
        weaker = Haar()
    except InputError:
        raise InputError(
            f"there is no face detector: {reason}. Get {FILE} from {ADDRESSES[0]} and name it with --detector or "
            "SLIMFER_DETECTOR, or pip install 'slimfer[video]', or give face crops with --no-detect"
        ) from None
    say(
        f"faces are found by OpenCV's Haar cascade, the weaker detector, because {reason}; "
        f"for the better one, name {FILE} with --detector or SLIMFER_DETECTOR"
    )
    return weaker


def _kept_or_fetched(say: Callable[[str], None]) -> bytes:
    """Return YuNet's file."""
    path = home() / FILE
    try:
        return yunet.read(path)
    except InputError as error:
        if path.exists():
            say(f"{error}; it is replaced")
        if offline():
            raise InputError(f"{path} is not there and SLIMFER_OFFLINE forbids to fetch it") from None
    fetch(ADDRESSES, path, sha256=yunet.SHA256, size=SIZE, say=say)
    return yunet.read(path)
