"""From a face that was found to the pixels that the network reads."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from slimfer.images import to_pixels
from slimfer.runtime.answer import Box
from slimfer.runtime.faces import Found


def face_pixels(picture: Image.Image, found: Found, side: int, channels: int) -> npt.NDArray[np.uint8]:
    """Cut a square around the face and bring it to the network's input.

    Args:
        picture: upright, of mode L or RGB.
        found: a face in it.
        side: height and width of the result.
        channels: 1 (gray) or 3 (RGB).

    Returns:
        (channels, side, side) uint8.
    """
    half = max(found.w, found.h) / 2
    x, y = found.x + found.w / 2, found.y + found.h / 2
    return to_pixels(picture.crop((x - half, y - half, x + half, y + half)), side, channels)


def box_of(found: Found, width: int, height: int) -> Box:
    """Return the part of the face's box that is inside a picture of that size, in whole pixels, at least one."""
    left, top = (min(max(round(low), 0), size - 1) for low, size in ((found.x, width), (found.y, height)))
    right = min(max(round(found.x + found.w), left + 1), width)
    bottom = min(max(round(found.y + found.h), top + 1), height)
    return Box(left, top, right - left, bottom - top)
