"""OpenCV's Haar cascade: what finds faces where YuNet cannot be had but OpenCV 4 is installed; the weaker one."""

import threading
from pathlib import Path

import numpy as np
from PIL import Image

from slimfer.errors import InputError
from slimfer.runtime.faces import Found
from slimfer.runtime.opencv import load

CASCADE = "haarcascade_frontalface_default.xml"
SIZE = 640  # most pixels of the longer side: a cascade's time grows with their number
STEP, NEIGHBORS, LEAST = 1.1, 5, 24  # OpenCV's own detector of FER programs: scale step, votes for a face, pixels
WIDER, LOWER = 1.12, 0.04  # from its square to YuNet's box (medians): times the side, and down by a part of it
SCORE = 0.5  # the cascade gives no score


class Haar:
    """Finds upright frontal faces; no landmarks; safe to use from several threads at once."""

    name = "haar"

    def __init__(self) -> None:
        """Open the cascade that comes with OpenCV.

        Raises:
            InputError: if OpenCV is not installed, or is one without cascades (version 5).
        """
        cv2 = load()
        try:
            self._cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / CASCADE))
        except AttributeError:
            raise InputError('this OpenCV has no cascades; OpenCV 4 has: pip install "slimfer[video]"') from None
        if self._cascade.empty():
            raise InputError(f"OpenCV is installed without {CASCADE}")
        self._lock = threading.Lock()  # the cascade keeps what it computes in itself

    def find(self, picture: Image.Image) -> tuple[Found, ...]:
        """Return the faces of an upright picture, the largest first."""
        width, height = picture.size
        if not width or not height:
            return ()
        scale = max(1.0, max(width, height) / SIZE)
        small = max(1, round(width / scale)), max(1, round(height / scale))
        gray = picture.convert("L")
        if small != picture.size:
            gray = gray.resize(small, Image.Resampling.BILINEAR, reducing_gap=1.0)
        with self._lock:
            boxes = self._cascade.detectMultiScale(np.asarray(gray), STEP, NEIGHBORS, minSize=(LEAST, LEAST))
        found = [_found(*(float(value) * scale for value in box)) for box in boxes]
        return tuple(sorted(found, key=lambda face: face.w * face.h, reverse=True))


def _found(x: float, y: float, w: float, h: float) -> Found:
    return Found(x - (WIDER - 1) / 2 * w, y - (WIDER - 1) / 2 * h + LOWER * h, WIDER * w, WIDER * h, SCORE)
