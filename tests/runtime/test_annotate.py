"""Marked pictures: what is drawn, where, and that everybody can read it."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from slimfer.labels import EMOTIONS
from slimfer.runtime.annotate import DARK, LIGHT, PALETTE, annotate, contrast
from slimfer.runtime.answer import Box, Face, Prediction

# How people without one kind of cone see linear RGB: Machado, Oliveira and Fernandes (2009), severity 1.
BLINDNESS = {
    "red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def a_face(x: int, y: int, w: int, h: int, label: str = "happy", **values) -> Face:
    scores = {name: 0.82 if name == label else 0.03 for name in EMOTIONS}
    return Face(Box(x, y, w, h), label, 0.82, scores, values.pop("confidence", 0.9), **values)


def answer(picture: Image.Image, *faces: Face, status: str = "ok") -> Prediction:
    return Prediction(None, status, picture.width, picture.height, faces)


def count(picture: Image.Image, color: tuple[int, int, int]) -> int:
    return int((np.asarray(picture) == color).all(-1).sum())


def grey(width: int, height: int) -> Image.Image:
    return Image.new("L", (width, height), 127)


def test_the_box_is_where_the_face_is() -> None:
    picture = grey(640, 480)
    marked = np.asarray(annotate(picture, answer(picture, a_face(200, 150, 160, 180))))
    colored = (marked == PALETTE[EMOTIONS.index("happy")]).all(-1)
    colored[:, 370:] = False  # the bars
    colored[:150] = False  # the label
    rows, columns = np.flatnonzero(colored.any(1)), np.flatnonzero(colored.any(0))
    rim = 3
    assert 150 <= rows[0] <= 150 + rim
    assert 330 - rim <= rows[-1] + 1 <= 330
    assert 200 <= columns[0] <= 200 + rim
    assert 360 - rim <= columns[-1] + 1 <= 360
    assert (marked[160:320, 210:350] == 127).all(), "the face itself stays visible"


def test_the_bars_are_as_long_as_the_scores() -> None:
    picture = grey(800, 600)
    face = Face(Box(100, 100, 100, 100), "sad", 0.5, {"angry": 0.1, "happy": 0.4, "sad": 0.5}, 0.5)
    marked = np.asarray(annotate(picture, answer(picture, face)))[:, 205:]
    widths = [(marked == PALETTE[index]).all(-1).any(0).sum() for index in range(3)]
    assert widths[1] / widths[2] == pytest.approx(0.8, abs=0.05)
    assert widths[0] / widths[2] == pytest.approx(0.2, abs=0.05)


def test_a_face_that_fills_a_small_picture_keeps_its_pixels_and_gets_bars_beside() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8))
    marked = annotate(picture, answer(picture, a_face(0, 0, 48, 48)))
    assert marked.height == 240
    assert marked.width > 300
    plain = annotate(picture, answer(picture, a_face(0, 0, 48, 48)), enlarge=False)
    assert plain.size == (48, 48)


@pytest.mark.parametrize(("width", "height"), [(48, 48), (640, 480), (4000, 3000)])
def test_the_label_is_of_a_readable_size(width: int, height: int) -> None:
    """The plate is at least a thirtieth of the picture's height and 13 pixels, and not more than an eighth of it."""
    picture = grey(width, height)
    face = a_face(width // 3, height // 3, width // 3, height // 3, "fear")
    marked = np.asarray(annotate(picture, answer(picture, face)))
    scale = marked.shape[0] / height
    above = (marked[: int(scale * (height // 3)) - 1] == PALETTE[EMOTIONS.index("fear")]).all(-1)
    plate = np.flatnonzero(above.sum(1) > 5)
    assert len(plate) >= max(13, marked.shape[0] / 40)
    assert len(plate) <= marked.shape[0] / 8


def test_many_faces_keep_their_labels_apart_where_there_is_room() -> None:
    picture = grey(640, 480)
    faces = [
        a_face(20 + 150 * i, 40 + 150 * j, 90, 90, EMOTIONS[(i + j) % 7], confidence=1.0)
        for i in range(4)
        for j in range(3)
    ]
    marked = annotate(picture, answer(picture, *faces))
    alone = [annotate(picture, answer(picture, face)) for face in faces]
    for face, one in zip(faces, alone, strict=True):
        area = (face.box.x, face.box.y - 20, face.box.x + 60, face.box.y - 1)
        assert marked.crop(area).tobytes() == one.crop(area).tobytes()


def test_boxes_are_scaled_with_the_picture() -> None:
    small, large = grey(400, 300), grey(1200, 900)
    face = a_face(120, 90, 150, 120)
    prediction = answer(small, face)
    tripled = answer(large, a_face(360, 270, 450, 360))
    assert annotate(large, prediction).tobytes() == annotate(large, tripled).tobytes()


def test_what_is_uncertain_and_who_is_who_is_written() -> None:
    picture = grey(400, 300)
    plain = annotate(picture, answer(picture, a_face(100, 100, 90, 90)))
    for values in ({"uncertain": True}, {"track": 2}, {"confidence": 0.41}):
        assert annotate(picture, answer(picture, a_face(100, 100, 90, 90, **values))).tobytes() != plain.tobytes()


@pytest.mark.parametrize("status", ["no_face", "no_detector"])
def test_a_picture_without_a_face_says_so(status: str) -> None:
    picture = grey(400, 300)
    marked = annotate(picture, answer(picture, status=status))
    assert count(marked, DARK) > 100
    assert (np.asarray(marked) > 200).all(-1).sum() > 10


def test_the_picture_given_is_never_drawn_on() -> None:
    for mode in ("L", "RGB", "RGBA", "P", "CMYK"):
        picture = grey(300, 300).convert(mode)
        before = picture.tobytes()
        marked = annotate(picture, answer(picture, a_face(50, 50, 90, 90)))
        assert picture.tobytes() == before
        assert marked.mode == "RGB"


@given(
    size=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    boxes=st.lists(st.tuples(*[st.integers(0, 699)] * 2, *[st.integers(1, 700)] * 2), max_size=6),
    enlarge=st.booleans(),
)
def test_any_boxes_can_be_drawn(size: tuple[int, int], boxes: list[tuple[int, ...]], enlarge: bool) -> None:
    picture = grey(*size)
    faces = []
    for x, y, w, h in boxes:
        x, y = x % size[0], y % size[1]
        faces.append(a_face(x, y, min(w, size[0] - x), min(h, size[1] - y)))
    marked = annotate(picture, answer(picture, *faces), enlarge=enlarge)
    if not enlarge:
        assert marked.size == size
    assert max(marked.size) <= max(2400, *size)


def test_letters_stand_out_on_every_color() -> None:
    for color in PALETTE:
        assert max(contrast(DARK, color), contrast(LIGHT, color)) >= 4.5


@pytest.mark.parametrize("kind", BLINDNESS)
def test_no_two_colors_look_alike_to_colour_blind_people(kind: str) -> None:
    seen = (np.array(PALETTE) / 255) ** 2.2 @ np.array(BLINDNESS[kind]).T
    seen = 255 * seen.clip(0, 1) ** (1 / 2.2)
    for one, other in combinations(seen, 2):
        assert np.linalg.norm(one - other) > 25
