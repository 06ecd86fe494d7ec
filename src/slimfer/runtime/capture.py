"""Cameras, video files and streams through OpenCV, which is an extra: `slimfer[video]`.

Only this file knows OpenCV. Nothing here guards against a read that never returns: `runtime/reader.py` does.
"""

import glob
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from slimfer.errors import InputError
from slimfer.runtime.opencv import load

CONTAINERS = (".mp4", ".mov", ".mkv", ".avi")  # of what is written; all of them hold MPEG-4
_CODEC = "mp4v"
_GAP = 10.0  # seconds; a longer pause between frames is a leap of the clock and is not filled
_USUAL_FPS = 25.0  # where a camera does not say
_MOST_FPS = 1000.0  # some files state a clock's ticks instead of frames


class Capture:
    """A camera, a video file or a stream that is open.

    Attributes:
        live: whether frames come when they come; a file waits.
        fps: frames per second as the source says.
        total: frames as the source says; None if it does not.
    """

    def __init__(self, source: int | str, *, name: str, max_pixels: int, timeout: float) -> None:
        """Open it.

        Args:
            source: number of a camera, else a path or an address.
            name: what messages call it.
            max_pixels: most pixels of a frame.
            timeout: seconds after which FFmpeg gives up on a network.

        Raises:
            InputError: if OpenCV is missing, the source does not open or its frames are too large.
        """
        self._cv2, self._name = load(), name
        camera = isinstance(source, int) or source.startswith("/dev/video")
        wait = int(timeout * 1000)
        limits = [self._cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, wait, self._cv2.CAP_PROP_READ_TIMEOUT_MSEC, wait]
        kind = (self._cv2.CAP_ANY,) if camera else (self._cv2.CAP_FFMPEG, limits)
        self._capture = self._cv2.VideoCapture(source, *kind)
        if not self._capture.isOpened():
            raise InputError(f"{name} {_why(source, camera)}")
        width, height = (int(self._of(key)) for key in ("FRAME_WIDTH", "FRAME_HEIGHT"))
        if width * height > max_pixels:
            self.close()
            raise InputError(f"{name}: frames have {width} x {height} pixels, and {max_pixels} are the most")
        count, fps = self._of("FRAME_COUNT"), self._of("FPS")
        self.total = int(count) if 0 < count < 2**31 and not camera else None
        self.live = camera or ("://" in str(source) and self.total is None)
        self.fps = fps if 0 < fps <= _MOST_FPS else _USUAL_FPS
        self.note: str | None = None

    def read(self, wanted: bool) -> tuple[float | None, Callable[[], Image.Image]] | None:
        """Return time in seconds (None if unknown) of the next frame and how to make its picture; None at the end.

        A frame that is not wanted is decoded, as the next ones need it, but not brought to RGB.
        """
        if not self._capture.grab():
            return None
        seconds = None if self.live else self._of("POS_MSEC") / 1000
        pixels = self._capture.retrieve()[1] if wanted else None
        return seconds, lambda: _picture(pixels)

    def close(self) -> None:
        """Let go of the source."""
        self._capture.release()

    def _of(self, name: str) -> float:
        return float(self._capture.get(getattr(self._cv2, f"CAP_PROP_{name}")))


class VideoFile:
    """A video that is written: MPEG-4 without sound, frames of one size and at one rate.

    Frames go where their time says: the one before is repeated, or one is left out, so that the video is as long as
    what was read, skipped frames or not.
    """

    def __init__(self, path: Path, fps: float) -> None:
        """Begin; the file is made with the first frame.

        Raises:
            InputError: if OpenCV is missing or the name ends in something else than one of `CONTAINERS`.
        """
        self._cv2 = load()
        if path.suffix.lower() not in CONTAINERS:
            raise InputError(f"{path}: the name of a video to write ends in {', '.join(CONTAINERS)}")
        self.path, self.fps = path, fps
        self._writer: Any = None
        self._size = (0, 0)
        self._written = 0
        self._begun = 0.0

    def write(self, picture: Image.Image, seconds: float) -> None:
        """Add an RGB picture; one of another size than the first is stretched to its size.

        Raises:
            InputError: if the file or the codec cannot be opened.
        """
        if self._writer is None:
            self._open(picture.size)
            self._begun = seconds
        if picture.size != self._size:
            picture = picture.resize(self._size)
        due = round((seconds - self._begun) * self.fps) + 1 - self._written
        if due > _GAP * self.fps or due < 0:
            self._begun, due = seconds - self._written / self.fps, 1
        pixels = self._cv2.cvtColor(np.asarray(picture), self._cv2.COLOR_RGB2BGR) if due else None
        for _ in range(due):
            self._writer.write(pixels)
        self._written += due

    def _open(self, size: tuple[int, int]) -> None:
        code = self._cv2.VideoWriter_fourcc(*_CODEC)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = self._cv2.VideoWriter(str(self.path), self._cv2.CAP_FFMPEG, code, self.fps, size)
        self._size = size
        if not self._writer.isOpened():
            raise InputError(f"{self.path} cannot be written: no such folder or right, or this OpenCV lacks MPEG-4")

    def close(self) -> None:
        """Write what makes the file whole."""
        if self._writer is not None:
            self._writer.release()


def _picture(pixels: Any) -> Image.Image:
    """Return BGR or gray pixels as an RGB picture, in one pass."""
    if pixels.ndim == 2:
        return Image.fromarray(pixels).convert("RGB")
    height, width = pixels.shape[:2]
    return Image.frombuffer("RGB", (width, height), np.ascontiguousarray(pixels), "raw", "BGR", 0, 1)


def _why(source: int | str, camera: bool) -> str:
    """Return what may be wrong with a source that does not open."""
    if not camera:
        return "does not open" if "://" in str(source) else "is no video that OpenCV can read"
    there = sorted(glob.glob("/dev/video*")) if sys.platform.startswith("linux") else None
    seen = "" if there is None else f"; devices here: {', '.join(there) or 'none'}"
    return f"does not open: no such camera, another program has it, or its use is not allowed{seen}"
