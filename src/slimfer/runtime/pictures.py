"""Animated pictures and folders of frames as videos, through Pillow: no extra needed."""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
        self._max_pixels = max_pixels
        with ExitStack() as opened:
            try:
                with _bombs_are_errors():
                    self._image = opened.enter_context(Image.open(path, formats=sorted(set(ANIMATED.values()))))
                    self._check_size()
                    self.total = int(getattr(self._image, "n_frames", 1))
            except InputError as error:
                raise InputError(f"{path}: {error}") from None
            # Decoders raise OSError, SyntaxError, ValueError, ... for damaged input: all the same here.
            except Exception as error:
                raise InputError(f"{path} is no GIF, WebP or APNG that can be read ({error})") from None
            opened.pop_all()
        self._next, self._seconds = 0, 0.0
        self.fps = 1 / self._duration()
        self.note: str | None = None

    def read(self, wanted: bool) -> tuple[float, Callable[[], Image.Image]] | None:
        """As `Capture.read`; a damaged frame is the end."""
        if self._next >= self.total:
            return None
        try:
            with _bombs_are_errors():
                self._image.seek(self._next)
            self._check_size()  # a frame may be larger than the first
            picture = _rgb(self._image)
        except Exception as error:
            self.note = f"frame {self._next} is damaged ({error})"
            return None
        seconds = self._seconds
        self._next, self._seconds = self._next + 1, seconds + self._duration()
        return seconds, _given(picture)

    def _check_size(self) -> None:
        width, height = self._image.size
        if width * height > self._max_pixels:
            raise InputError(f"frames have {width} x {height} pixels, and {self._max_pixels} are the most")

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
                picture = _rgb(read_image(path.read_bytes(), max_pixels=self._max_pixels))
            except (InputError, OSError) as error:
                self._damaged += 1
                first = self.note.partition("; ")[2] if self.note else f"{path.name}: {error}"
                self.note = f"{self._damaged} of the pictures cannot be read; {first}"
            else:
                return seconds, _given(picture)
        return None

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def _bombs_are_errors() -> Iterator[None]:
    """Make Pillow refuse what it otherwise only warns of, on stderr: more than 89 million pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _rgb(image: Image.Image) -> Image.Image:
    return plain(image).convert("RGB")  # a copy in any case: the next frame of an animation is drawn into the same one


def _given(picture: Image.Image) -> Callable[[], Image.Image]:
    return lambda: picture


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key by which frame_2 comes before frame_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]
