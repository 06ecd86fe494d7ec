"""From a face that was found to the pixels that the network reads; all constants are measured in docs/faces.md."""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from slimfer.images import to_pixels
from slimfer.runtime.answer import Box
from slimfer.runtime.faces import Found

MARGIN = 1.0  # side of the square that is read, in longer sides of the box: what FER2013 shows around its faces
GRAY = 128  # what stands for the world beyond the edge of the picture: the 0 of the network
SAMPLES = 2  # per pixel and direction, where a face is shrunk


def face_pixels(picture: Image.Image, found: Found, side: int, channels: int) -> npt.NDArray[np.uint8]:
    """Cut a square around the face, turn it upright by the landmarks, and bring it to the network's input.

    Args:
        picture: upright, of mode L or RGB.
        found: a face in it; it may reach over the edge.
        side: height and width of the result.
        channels: 1 (gray) or 3 (RGB).

    Returns:
        (channels, side, side) uint8. A face without landmarks is not turned, and where its square is the whole
        picture, the pixels are exactly those of `images.to_pixels`.
    """
    length = max(MARGIN * found.w, MARGIN * found.h, 1.0)
    x, y = found.x + found.w / 2, found.y + found.h / 2
    angle = roll(found)
    if length <= side:
        return to_pixels(_turned(picture, x, y, length, angle, side, Image.Resampling.BICUBIC), side, channels)
    # The picture is read at few places, not as a whole, and averaged after: the time does not grow with the face.
    square = _turned(picture, x, y, length, angle, SAMPLES * side, Image.Resampling.NEAREST)
    return to_pixels(square.reduce(SAMPLES), side, channels)


def roll(found: Found) -> float:
    """Return by what angle the face is turned clockwise, in radians; 0 where there are no landmarks.

    It is the angle of the turn that brings level eyes and a mouth right below them closest, by least squares, to the
    eyes and the mouth that were found; in profiles the eyes alone say little.
    """
    if not found.landmarks:
        return 0.0
    right, left, _, right_mouth, left_mouth = found.landmarks
    across = left[0] - right[0], left[1] - right[1]
    down = tuple((b + d - a - c) / 2 for a, b, c, d in zip(right, right_mouth, left, left_mouth, strict=True))
    return math.atan2(across[1] - down[0], across[0] + down[1])


def box_of(found: Found, width: int, height: int) -> Box:
    """Return the part of the face's box that is inside a picture of that size, in whole pixels, at least one."""
    left, top = (min(max(round(low), 0), size - 1) for low, size in ((found.x, width), (found.y, height)))
    right = min(max(round(found.x + found.w), left + 1), width)
    bottom = min(max(round(found.y + found.h), top + 1), height)
    return Box(left, top, right - left, bottom - top)


def _turned(
    picture: Image.Image, x: float, y: float, length: float, angle: float, points: int, how: Image.Resampling
) -> Image.Image:
    """Return `points` x `points` pixels of the square around (x, y) that is turned clockwise by `angle`."""
    cos, sin = length / points * math.cos(angle), length / points * math.sin(angle)
    middle = points / 2
    matrix = cos, -sin, x - middle * (cos - sin), sin, cos, y - middle * (cos + sin)
    color = GRAY if picture.mode == "L" else (GRAY,) * 3
    return picture.transform((points, points), Image.Transform.AFFINE, matrix, how, fillcolor=color)
