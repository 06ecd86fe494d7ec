"""Animated pictures and folders of frames as videos, through Pillow: no extra needed."""

import re
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from slimfer.errors import InputError
from slimfer.images import SUFFIXES, plain, read_image

ANIMATED = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}
_STILL = 0.1  # seconds that a frame is shown where the file does not say, as browsers do


class Animation:
    """A GIF, WebP or APNG that is open; attributes as those of `Capture`."""

    live = False

    def __init__(self, path: Path, *, max_pixels: int) -> None:
        """Open it.

        Raises:
            InputError: if it is not such a picture or too large.
        """
        try:
            self._image = Image.open(path, formats=sorted(set(ANIMATED.values())))
            self.total = int(getattr(self._image, "n_frames", 1))
        # Decoders raise OSError, SyntaxError, ValueError, ... for damaged input: all the same here.
        except Exception as error:
            raise InputError(f"{path} is no GIF, WebP or APNG that can be read ({error})") from None
        width, height = self._image.size
        if width * height > max_pixels:
            self.close()
            raise InputError(f"{path}: frames have {width} x {height} pixels, and {max_pixels} are the most")
        self._next, self._seconds = 0, 0.0
        self.fps = 1 / self._duration()
        self.note: str | None = None

    def read(self, wanted: bool) -> tuple[float, Callable[[], Image.Image]] | None:
        """As `Capture.read`; a damaged frame is the end."""
        if self._next >= self.total:
            return None
        try:
            self._image.seek(self._next)
            picture = plain(self._image).convert("RGB")
        except Exception as error:
            self.note = f"frame {self._next} is damaged ({error})"
            return None
        seconds = self._seconds
        self._next, self._seconds = self._next + 1, seconds + self._duration()
        return seconds, _given(picture)

    def close(self) -> None:
        """Close the file."""
        self._image.close()

    def _duration(self) -> float:
        return (self._image.info.get("duration") or 0) / 1000 or _STILL


class FrameFolder:
    """A folder whose pictures are the frames, in the order of the numbers in their names; else as `Capture`."""

    live = False

    def __init__(self, path: Path, *, fps: float, max_pixels: int) -> None:
        """List the pictures.

        Raises:
            InputError: if there are none.
        """
        self._paths = sorted((p for p in path.iterdir() if p.suffix.lower() in SUFFIXES), key=_natural)
        if not self._paths:
            raise InputError(f"{path}: a folder without pictures ({', '.join(SUFFIXES)})")
        self.fps, self.total, self._max_pixels = fps, len(self._paths), max_pixels
        self._next = self._damaged = 0
        self.note: str | None = None

    def read(self, wanted: bool) -> tuple[float, Callable[[], Image.Image]] | None:
        """As `Capture.read`; a damaged picture is left out."""
        while self._next < self.total:
            path, seconds = self._paths[self._next], self._next / self.fps
            self._next += 1
            if not wanted:
                return seconds, Image.Image
            try:
                picture = plain(read_image(path.read_bytes(), max_pixels=self._max_pixels))
            except (InputError, OSError) as error:
                self._damaged += 1
                first = self.note.partition("; ")[2] if self.note else f"{path.name}: {error}"
                self.note = f"{self._damaged} of the pictures cannot be read; {first}"
            else:
                return seconds, _given(picture)
        return None

    def close(self) -> None:
        """Nothing is open."""


def _given(picture: Image.Image) -> Callable[[], Image.Image]:
    return lambda: picture


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key by which frame_2 comes before frame_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]
