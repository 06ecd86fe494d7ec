"""The square around a face: where it lies, how it is turned, and what stands for the world outside."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from slimfer.images import to_pixels
from slimfer.runtime.answer import Box
from slimfer.runtime.crop import GRAY, box_of, face_pixels, roll
from slimfer.runtime.faces import Found, Point

# Eyes and mouth of a face in a square from -1 to 1, not in the middle of it.
FACE = ((-0.4, -0.3), (0.4, -0.3), (0.0, 0.1), (-0.3, 0.5), (0.3, 0.5))


def turned(point: Point, degrees: float) -> Point:
    """Turn clockwise, as one sees it: y points down."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return cos * point[0] - sin * point[1], sin * point[0] + cos * point[1]


def found(x: float, y: float, size: float, degrees: float = 0.0) -> Found:
    """A square face with its middle at (x, y)."""
    points = tuple((x + px * size / 2, y + py * size / 2) for px, py in (turned(point, degrees) for point in FACE))
    return Found(x - size / 2, y - size / 2, size, size, 0.9, points)


def smooth(width: int, height: int, x: float, y: float, size: float, degrees: float = 0.0) -> Image.Image:
    """A picture whose brightness at a place is known: a slope and a wave, fixed to the face at (x, y)."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    u, v = turned(((columns - x) / size, (rows - y) / size), -degrees)  # arrays do here what numbers do
    return Image.fromarray(wave(u, v))


def wave(u: npt.NDArray[np.float64], v: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    return (128 + 60 * np.sin(3 * u) * np.cos(2 * v) + 40 * u + 20 * v).clip(0, 255).round().astype(np.uint8)


def expected(side: int) -> npt.NDArray[np.uint8]:
    """The same function, at the middles of the pixels of the upright square."""
    v, u = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    return wave(u, v)


@given(st.floats(40, 160), st.floats(40, 160), st.floats(30, 150), st.floats(-180, 180))
def test_a_turned_face_is_read_upright(x: float, y: float, size: float, degrees: float) -> None:
    picture = smooth(400, 400, x + 100, y + 100, size, degrees)
    pixels = face_pixels(picture, found(x + 100, y + 100, size, degrees), 24, 1)
    assert np.abs(pixels[0].astype(int) - expected(24)).max() <= 4


@given(st.floats(-180, 180))
def test_roll_is_the_angle_of_the_face(degrees: float) -> None:
    difference = math.degrees(roll(found(100, 100, 80, degrees))) - degrees
    assert abs((difference + 180) % 360 - 180) < 1e-6


def test_the_eyes_of_a_profile_do_not_decide_alone() -> None:
    upright = found(100, 100, 80).landmarks
    noisy = ((98.0, 88.0), (102.0, 91.0), *upright[2:])  # both eyes nearly in one place
    assert abs(math.degrees(roll(Found(60, 60, 80, 80, 0.9, noisy)))) < 10


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_picture_that_is_the_face_is_read_as_such(mode: str, channels: int) -> None:
    shape = (48, 48) if mode == "L" else (48, 48, 3)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8))
    pixels = face_pixels(picture, Found(0, 0, 48, 48, 1.0), 48, channels)
    np.testing.assert_array_equal(pixels, to_pixels(picture, 48, channels))


@pytest.mark.parametrize("size", [20, 300])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_beyond_the_edge_it_is_gray(size: int, mode: str) -> None:
    """The left half of the square is outside."""
    pixels = face_pixels(Image.new(mode, (400, 400), "white"), Found(-size / 2, 50, size, size, 0.9), 48, 3)
    assert (pixels[:, :, :23] == GRAY).all()
    assert (pixels[:, :, 25:] == 255).all()


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.floats(0, 1e4), st.floats(0, 1e4), st.sampled_from(["L", "RGB"]))
def test_any_box_gives_pixels_and_a_box_inside(x: float, y: float, w: float, h: float, mode: str) -> None:
    face, picture = Found(x, y, w, h, 0.5), Image.new(mode, (30, 20))
    pixels = face_pixels(picture, face, 12, 1)
    assert pixels.shape == (1, 12, 12)
    assert pixels.dtype == np.uint8
    box = box_of(face, 30, 20)
    assert box.w >= 1 <= box.h
    assert 0 <= box.x <= box.x + box.w <= 30
    assert 0 <= box.y <= box.y + box.h <= 20


def test_a_box_inside_stays_what_it_is() -> None:
    assert box_of(Found(3.2, 4.4, 10.0, 11.9, 0.9), 30, 20) == Box(3, 4, 10, 12)
