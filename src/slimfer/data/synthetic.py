"""Synthetic faces: seven expressions drawn from brows, eyes, nose and mouth, under pose, light, occlusion and noise.

They are what `make demo` and the tests learn from, so they cost nothing to get and little to draw, and they have the
one property of real faces that matters here: the expression is in shapes, not in any single pixel. Position, rotation,
skin, background and light vary more than the expression does, so a linear classifier on pixels fails (43 %
right) and a small convolutional network does not (tests/data/test_synthetic.py shows both).

Every part is a signed distance in face units (the head is about 1 high and 0.8 wide from its centre), turned into
coverage over one pixel: anti-aliased at any size. Which muscles an expression moves follows the action units of
Ekman and Friesen's FACS (1978), coarsely.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from slimfer.data.frames import Dataset, Frames
from slimfer.errors import InputError
from slimfer.labels import EMOTIONS

SPLITS = ("train", "validation", "test")

# Faces are drawn in blocks, each with a generator of its own: face i of a split is the same however many are asked for.
BLOCK = 64

Array = npt.NDArray[np.float32]

# Displacement of each part at full strength, in face units; parts that are not named stay where they are.
EXPRESSIONS: Mapping[str, Mapping[str, float]] = {
    "angry": {"brow_lift": -0.08, "brow_slant": 0.42, "eye_open": -0.025, "mouth_curve": -0.05, "mouth_width": -0.07},
    "disgust": {
        "brow_lift": -0.07,
        "eye_open": -0.055,
        "nose_wrinkle": 1.0,
        "mouth_curve": -0.07,
        "mouth_skew": 0.26,
        "mouth_open": 0.02,
    },
    "fear": {"brow_lift": 0.09, "brow_slant": -0.34, "eye_open": 0.05, "mouth_open": 0.09, "mouth_width": 0.07},
    "happy": {"eye_open": -0.02, "mouth_curve": 0.17, "mouth_width": 0.10, "mouth_open": 0.05, "teeth": 1.0},
    "sad": {"brow_slant": -0.36, "eye_open": -0.035, "mouth_curve": -0.13},
    "surprise": {"brow_lift": 0.13, "eye_open": 0.06, "mouth_open": 0.21, "mouth_width": -0.13},
    "neutral": {},
}

# What varies from face to face, uniformly within the range, whatever the expression.
VARIATION: Mapping[str, tuple[float, float]] = {
    # pose: degrees, shifts as a fraction of half a side, sizes as factors, turns as the shift of the features
    "rotation": (-15, 15),
    "shift_x": (-0.19, 0.19),
    "shift_y": (-0.17, 0.17),
    "scale": (0.84, 1.10),
    "aspect": (0.88, 1.10),
    "yaw": (-0.12, 0.12),
    "pitch": (-0.07, 0.07),
    # the person: gray values 0-1 and face units
    "skin": (0.30, 0.85),
    "hair": (0.03, 0.65),
    "hairline": (-0.75, -0.50),
    "brow_darkness": (0.35, 0.85),
    "brow_thickness": (0.022, 0.050),
    "lip_darkness": (0.25, 0.60),
    "eye_distance": (0.29, 0.37),
    "eye_height": (-0.16, -0.08),
    "eye_width": (0.11, 0.15),
    "iris": (0.05, 0.35),
    "gaze": (-0.04, 0.04),
    "mouth_height": (0.44, 0.54),
    "nose_length": (0.20, 0.30),
    "glasses": (0, 1),
    # how this person makes this expression
    "strength": (0.75, 1.15),
    "brow_lift": (-0.035, 0.035),
    "brow_slant": (-0.09, 0.09),
    "eye_open": (-0.012, 0.015),
    "mouth_curve": (-0.03, 0.03),
    "mouth_open": (-0.005, 0.025),
    "mouth_width": (-0.03, 0.03),
    "mouth_skew": (-0.05, 0.05),
    "nose_wrinkle": (-0.1, 0.2),
    "teeth": (-0.3, 0.4),
    "side": (-1, 1),
    # light, background, what stands in front, the camera
    "light_x": (-0.30, 0.30),
    "light_y": (-0.25, 0.25),
    "contrast": (0.80, 1.10),
    "brightness": (-0.12, 0.12),
    "background": (0.05, 0.95),
    "texture": (0.0, 0.15),
    "texture_angle": (0, np.pi),
    "texture_scale": (2.0, 9.0),
    "texture_phase": (0, 2 * np.pi),
    "occluded": (0, 1),
    "occluder_angle": (0, 2 * np.pi),
    "occluder_edge": (0.62, 1.0),
    "occluder": (0.0, 1.0),
    "noise": (0.005, 0.03),
}

GLASSES_SHARE = 0.15
OCCLUDED_SHARE = 0.15


def synthetic(
    n_train: int = 6000,
    n_validation: int = 1000,
    n_test: int = 1000,
    *,
    seed: int = 0,
    image: int = 48,
    channels: int = 1,
) -> Dataset:
    """Draw a dataset of synthetic faces; face i of a split depends on (seed, split, i) only.

    Args:
        n_train: faces to learn from.
        n_validation: faces to choose on.
        n_test: faces to judge on.
        seed: of everything that is drawn.
        image: height and width in pixels, 16-512.
        channels: 1 (gray), or 3 (the gray value three times).

    Returns:
        The splits train, validation and test with labels in the order of `EMOTIONS`, about equally many of each; a
        split of 0 faces is left out.

    Raises:
        InputError: if a number is out of range.
    """
    if not 16 <= image <= 512:
        raise InputError(f"image must be between 16 and 512 pixels for synthetic faces, not {image}")
    if channels not in (1, 3):
        raise InputError(f"channels must be 1 or 3, not {channels}")
    counts = dict(zip(SPLITS, (n_train, n_validation, n_test), strict=True))
    for split, count in counts.items():
        if count < 0:
            raise InputError(f"the number of {split} faces must not be negative, and it is {count}")
    return {split: _split(split, count, seed, image, channels) for split, count in counts.items() if count}


def _split(split: str, count: int, seed: int, image: int, channels: int) -> Frames:
    images = np.empty((count, channels, image, image), np.uint8)
    labels = np.empty(count, np.int64)
    for start in range(0, count, BLOCK):
        rng = np.random.default_rng([seed, SPLITS.index(split), start // BLOCK])
        block_labels = rng.integers(len(EMOTIONS), size=BLOCK)
        size = min(BLOCK, count - start)
        labels[start : start + size] = block_labels[:size]
        images[start : start + size] = _draw(block_labels, rng, image)[:size, None]
    names = tuple(f"synthetic {split} {i}" for i in range(count))
    return Frames(images, labels, EMOTIONS, names=names)


def _draw(labels: npt.NDArray[np.int64], rng: np.random.Generator, side: int) -> npt.NDArray[np.uint8]:
    """Draw one face per label: (N,) -> (N, side, side) uint8."""
    p = _parameters(labels, rng)
    centres = ((np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1).astype(np.float32)
    x, y = centres[None, None, :], centres[None, :, None]
    canvas = _background(p, x, y)
    u, v = _face_coordinates(p, x, y)
    pixel = 2 / side / p["scale"]
    canvas = _head(canvas, p, u, v, pixel)
    # Turning the head moves the features over it, most in the middle.
    bulge = np.maximum(1 - u * u - v * v, 0)
    u, v = u - p["yaw"] * bulge, v - p["pitch"] * bulge
    for part in (_brows, _eyes, _nose, _mouth):
        canvas = part(canvas, p, u, v, pixel)
    canvas = _occluder(canvas, p, x, y, side)
    lit = (canvas * (1 + p["light_x"] * x + p["light_y"] * y) - 0.5) * p["contrast"] + 0.5 + p["brightness"]
    lit += rng.standard_normal(lit.shape, np.float32) * p["noise"]
    return (np.clip(lit, 0, 1) * 255 + 0.5).astype(np.uint8)


def _parameters(labels: npt.NDArray[np.int64], rng: np.random.Generator) -> dict[str, Array]:
    """Return every value of `VARIATION`, moved by the expression, as (N, 1, 1) float32."""
    drawn = rng.random((len(labels), len(VARIATION)), np.float32)
    low, high = np.array(list(VARIATION.values()), np.float32).T
    values = low + drawn * (high - low)
    names = list(VARIATION)
    p = {name: values[:, i, None, None] for i, name in enumerate(names)}
    for part in {part for units in EXPRESSIONS.values() for part in units}:
        moved = np.array([EXPRESSIONS[name].get(part, 0.0) for name in EMOTIONS], np.float32)[labels]
        p[part] = p[part] + moved[:, None, None] * p["strength"]
    return p


# --- geometry ---------------------------------------------------------------------------------------------------------
def _face_coordinates(p: Mapping[str, Array], x: Array, y: Array) -> tuple[Array, Array]:
    """Undo the pose: image coordinates in [-1, 1] -> face units, v downwards."""
    angle = p["rotation"] * np.float32(np.pi / 180)
    cos, sin = np.cos(angle), np.sin(angle)
    dx, dy = x - p["shift_x"], y - p["shift_y"]
    return (cos * dx + sin * dy) / (p["scale"] * p["aspect"]), (cos * dy - sin * dx) / p["scale"]


def _ellipse(u: Array, v: Array, width: Any, height: Any) -> Array:
    """Return the approximate signed distance to an ellipse around the origin (negative inside)."""
    return (np.sqrt((u / width) ** 2 + (v / height) ** 2) - 1) * np.minimum(width, height)


def _paint(canvas: Array, distance: Array, pixel: Array, value: Any) -> Array:
    """Blend `value` in where `distance` is negative, with the edge spread over one pixel."""
    cover = np.clip(0.5 - distance / pixel, 0, 1)
    return canvas + cover * (value - canvas)


# --- the parts --------------------------------------------------------------------------------------------------------
def _background(p: Mapping[str, Array], x: Array, y: Array) -> Array:
    along = np.cos(p["texture_angle"]) * x + np.sin(p["texture_angle"]) * y
    return p["background"] + p["texture"] * np.sin(along * p["texture_scale"] + p["texture_phase"])


def _head(canvas: Array, p: Mapping[str, Array], u: Array, v: Array, pixel: Array) -> Array:
    canvas = _paint(canvas, _ellipse(u, v + 0.12, 0.82, 0.98), pixel, p["hair"])
    face = np.maximum(_ellipse(u, v - 0.05, 0.70, 0.92), p["hairline"] + 0.15 * u * u - v)
    # Darker towards the sides, as a round thing under light from the front.
    return _paint(canvas, face, pixel, p["skin"] * (1.05 - 0.35 * u * u))


def _brows(canvas: Array, p: Mapping[str, Array], u: Array, v: Array, pixel: Array) -> Array:
    outward = np.abs(u) - p["eye_distance"]
    # A positive slant lowers the inner ends (anger), a negative one raises them (sadness, fear).
    line = p["eye_height"] - 0.17 - p["brow_lift"] - p["brow_slant"] * outward + 1.6 * outward * outward
    stroke = np.maximum(np.abs(v - line) - p["brow_thickness"], np.abs(outward) - 0.17)
    return _paint(canvas, stroke, pixel, p["skin"] * (1 - p["brow_darkness"]))


def _eyes(canvas: Array, p: Mapping[str, Array], u: Array, v: Array, pixel: Array) -> Array:
    outward, down = np.abs(u) - p["eye_distance"], v - p["eye_height"]
    height = np.maximum(0.075 + p["eye_open"], 0.012)
    eye = _ellipse(outward, down, p["eye_width"], height)
    canvas = _paint(canvas, eye - 0.022, pixel, p["skin"] * 0.55)
    canvas = _paint(canvas, eye, pixel, np.minimum(p["skin"] + 0.25, 0.97))
    iris = np.sqrt((u - p["gaze"] - np.sign(u) * p["eye_distance"]) ** 2 + down * down) - 0.065
    canvas = _paint(canvas, np.maximum(eye, iris), pixel, p["iris"] * p["skin"])
    rims: Array = np.abs(np.sqrt(outward * outward + down * down) - 0.21) - 0.018
    rims = np.where(p["glasses"] < GLASSES_SHARE, rims, np.float32(1))
    return _paint(canvas, rims, pixel, p["hair"] * 0.5)


def _nose(canvas: Array, p: Mapping[str, Array], u: Array, v: Array, pixel: Array) -> Array:
    shade = p["skin"] * 0.72
    tip = p["eye_height"] + 0.12 + p["nose_length"]
    base = np.maximum(np.abs(v - tip + 1.5 * u * u) - 0.018, np.abs(u) - 0.11)
    canvas = _paint(canvas, base, pixel, shade)
    # Wrinkles: a fold from each side of the nose down to the cheeks.
    along = np.abs(v - tip + 0.10 - 1.1 * (np.abs(u) - 0.16)) - 0.026
    fold = np.maximum(along, np.abs(np.abs(u) - 0.22) - 0.09)
    folded = 1 - 0.45 * np.clip(p["nose_wrinkle"], 0, 1)
    return _paint(canvas, fold, pixel, canvas * folded)


def _mouth(canvas: Array, p: Mapping[str, Array], u: Array, v: Array, pixel: Array) -> Array:
    half = 0.28 + p["mouth_width"]
    along = u / half
    rise = np.sign(p["side"]) * p["mouth_skew"] * 0.5 * along
    line = p["mouth_height"] + p["mouth_curve"] * (0.5 - along * along) - rise
    bow = np.maximum(1 - along * along, 0)
    opening = np.maximum(p["mouth_open"], 0) * np.sqrt(bow)
    beyond = (np.abs(along) - 1) * half
    gap = np.abs(v - line - 0.4 * opening)
    lips = np.maximum(gap - opening - 0.02 - 0.03 * bow, beyond)
    canvas = _paint(canvas, lips, pixel, p["skin"] * (1 - p["lip_darkness"]))
    inside = np.maximum(gap - opening - 0.008, beyond)
    canvas = _paint(canvas, inside, pixel, p["skin"] * 0.18)
    teeth = np.maximum(inside + 0.015, v - line)
    shown = np.clip(p["teeth"], 0, 1)
    return _paint(canvas, teeth, pixel, canvas + shown * (np.minimum(p["skin"] + 0.3, 0.95) - canvas))


def _occluder(canvas: Array, p: Mapping[str, Array], x: Array, y: Array, side: int) -> Array:
    """A straight edge that covers one side of the picture in some of them: a hand, a scarf, the frame's end."""
    along = np.cos(p["occluder_angle"]) * x + np.sin(p["occluder_angle"]) * y
    edge = np.where(p["occluded"] < OCCLUDED_SHARE, p["occluder_edge"] - along, np.float32(1))
    return _paint(canvas, edge, np.full((1, 1, 1), 2 / side, np.float32), p["occluder"])
