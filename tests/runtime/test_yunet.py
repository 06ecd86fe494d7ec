"""YuNet decoded here says what OpenCV says, at any size, and finds faces that are small, many, cut or not there."""

import importlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from slimfer.errors import InputError
from slimfer.files import write_json
from slimfer.runtime.faces import Found
from slimfer.runtime.yunet import YuNet, suppress

FILE = "face_detection_yunet_2023mar.onnx"
GOLDEN = Path(__file__).parent.parent / "golden" / "yunet.json"
SCORES = (0.05, 0.6)


@pytest.fixture(scope="module")
def yunet(shared: Path) -> YuNet:
    return YuNet(shared / FILE)


def exact(model: Path, picture: Image.Image, min_score: float) -> list[list[float]]:
    """Return the faces at the picture's own size, best first, as OpenCV writes them."""
    longer = max(picture.size)
    found = YuNet(model, size=longer, most=longer, min_score=min_score).find(picture)
    rows = [[f.x, f.y, f.w, f.h, *np.ravel(f.landmarks).tolist(), f.score] for f in found]
    return sorted(rows, key=lambda row: -row[-1])


def opencv(model: Path, picture: Image.Image, min_score: float) -> list[list[float]]:
    """Return what OpenCV's FaceDetectorYN finds in the same pixels."""
    cv2 = importlib.import_module("cv2")
    detector = cv2.FaceDetectorYN.create(str(model), "", picture.size, min_score, 0.3, 5000)
    rows = detector.detect(np.ascontiguousarray(np.asarray(picture.convert("RGB"))[..., ::-1]))[1]
    return [] if rows is None else [[float(value) for value in row] for row in rows]


def crowd(photos: Path, width: int = 1280, height: int = 960, side: int = 180) -> tuple[Image.Image, int]:
    """Return a picture with as many different photos in a grid as fit, some space around each, and how many."""
    picture, step = Image.new("RGB", (width, height), (90, 110, 120)), side * 5 // 4
    spots = [(x, y) for y in range(0, height - side, step) for x in range(0, width - side, step)]
    names = [*photos.glob("happiness_*.jpg"), *photos.glob("neutral_*.jpg"), *photos.glob("surprise_*.jpg")]
    used = list(zip(spots, sorted(names), strict=False))
    for spot, name in used:
        with Image.open(name) as photo:
            picture.paste(photo.convert("RGB").resize((side, side), Image.Resampling.BILINEAR), spot)
    return picture, len(used)


def pictures(photos: Path) -> Iterator[tuple[str, Image.Image]]:
    """Yield pictures of many kinds: gray and colour, no multiples of 32, none or one or many faces.

    None with a side of 32 pixels or less: OpenCV enlarges maps of one row or column otherwise than ONNX says.
    """
    for name in ("anger_1", "disgust_2", "disgust_3", "fear_1", "happiness_4", "neutral_2", "sadness_3", "surprise_5"):
        with Image.open(photos / f"{name}.jpg") as photo:
            yield name, photo.copy()
    yield "crowd", crowd(photos, 500, 333, 100)[0]
    yield "none", Image.new("RGB", (97, 61), "olive")


def same(ours: list[list[float]], theirs: list[list[float]]) -> None:
    assert len(ours) == len(theirs)
    if ours:
        np.testing.assert_allclose(ours, theirs, atol=0.05)


def test_the_golden_values_of_opencv(shared: Path) -> None:
    golden = json.loads(GOLDEN.read_text())["faces"]
    for name, picture in pictures(shared / "photos"):
        for score in SCORES:
            same(exact(shared / FILE, picture, score), golden[f"{name} {score}"])


def test_opencv_says_the_same_where_it_is(shared: Path) -> None:
    pytest.importorskip("cv2")
    for _, picture in pictures(shared / "photos"):
        for score in SCORES:
            same(exact(shared / FILE, picture, score), opencv(shared / FILE, picture, score))


def test_every_photo_has_one_face(yunet: YuNet, shared: Path) -> None:
    for path in sorted((shared / "photos").glob("*.jpg")):
        with Image.open(path) as picture:
            assert len(yunet.find(picture)) == 1, path.name


def middle(face: Found) -> tuple[float, float]:
    return face.x + face.w / 2, face.y + face.h / 2


def placed(photos: Path, size: tuple[int, int], spot: tuple[int, int], side: int) -> Image.Image:
    """Return a picture with one photo in it."""
    picture = Image.new("RGB", size, (90, 110, 120))
    with Image.open(photos / "happiness_1.jpg") as photo:
        picture.paste(photo.convert("RGB").resize((side, side), Image.Resampling.BILINEAR), spot)
    return picture


@pytest.mark.parametrize(("size", "side"), [((640, 480), 200), ((1600, 1200), 150), ((3000, 2000), 260)])
def test_a_small_face_in_a_large_photo(yunet: YuNet, shared: Path, size: tuple[int, int], side: int) -> None:
    spot = size[0] * 3 // 5, size[1] // 3
    faces = yunet.find(placed(shared / "photos", size, spot, side))
    assert len(faces) == 1
    x, y = middle(faces[0])
    assert abs(x - spot[0] - side / 2) < side / 8
    assert abs(y - spot[1] - side / 2) < side / 8


def test_one_look_misses_what_a_closer_look_finds(shared: Path) -> None:
    """The control of the test above."""
    picture = placed(shared / "photos", (1600, 1200), (900, 400), 150)
    assert YuNet(shared / FILE, most=320).find(picture) == ()
    assert len(YuNet(shared / FILE).find(picture)) == 1


def test_many_faces_are_found_once_each_largest_first(yunet: YuNet, shared: Path) -> None:
    picture, number = crowd(shared / "photos")
    faces = yunet.find(picture)
    assert number == 18
    assert len(faces) == number
    areas = [face.w * face.h for face in faces]
    assert areas == sorted(areas, reverse=True)


@pytest.mark.parametrize("edge", [(-50, 100), (390, 100), (200, -50), (200, 230)])
def test_a_face_that_the_edge_cuts(yunet: YuNet, shared: Path, edge: tuple[int, int]) -> None:
    assert len(yunet.find(placed(shared / "photos", (640, 480), edge, 300))) == 1


def test_mirrored_pictures_have_mirrored_faces(yunet: YuNet, shared: Path) -> None:
    with Image.open(shared / "photos/happiness_1.jpg") as photo:
        (face,), (mirrored,) = yunet.find(photo), yunet.find(ImageOps.mirror(photo))
    assert abs(middle(face)[0] + middle(mirrored)[0] - 350) < 10
    assert mirrored.landmarks[0][0] < mirrored.landmarks[1][0]  # right is right of the viewed person, mirrored or not


def test_gray_is_as_good_as_three_times_gray(yunet: YuNet, shared: Path) -> None:
    with Image.open(shared / "photos/neutral_1.jpg") as photo:
        assert photo.mode == "L"
        assert yunet.find(photo) == yunet.find(photo.convert("RGB"))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(1, 1), (10000, 20), (20, 10000), (0, 0), (0, 5), (33, 1)])
def test_a_picture_of_one_colour_has_no_face(yunet: YuNet, mode: str, size: tuple[int, int]) -> None:
    assert yunet.find(Image.new(mode, size, "gray")) == ()


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(["1", "L", "P", "RGB", "RGBA", "CMYK"]), st.binary())
def test_any_picture_has_an_answer(yunet: YuNet, width: int, height: int, mode: str, data: bytes) -> None:
    picture = Image.new(mode, (width, height))
    ImageDraw.Draw(picture).ellipse((0, 0, width, height // 2 + 1), fill=1)
    picture.frombytes((data * (4 * width * height + 8))[: len(picture.tobytes())] if data else picture.tobytes())
    assert isinstance(yunet.find(picture), tuple)


def test_threads_share_one_detector(yunet: YuNet, shared: Path) -> None:
    """Each reads pictures of other shapes, so that buffers in common would show."""
    photos = [picture for _, picture in pictures(shared / "photos")]
    expected = [yunet.find(picture) for picture in photos]
    wrong: list[int] = []

    def read(start: int) -> None:
        for step in range(2 * len(photos)):
            index = (start + step) % len(photos)
            if yunet.find(photos[index]) != expected[index]:
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


boxes = st.tuples(
    st.integers(-20, 60), st.integers(-20, 60), st.integers(0, 40), st.integers(0, 40), st.integers(1, 99)
)


@given(st.lists(boxes, max_size=12))
def test_suppression_is_the_greedy_rule(values: list[tuple[int, int, int, int, int]]) -> None:
    rows = np.zeros((len(values), 15), np.float32)
    for row, (x, y, w, h, score) in zip(rows, values, strict=True):
        row[:4], row[14] = (x, y, w, h), score / 100
    assert suppress(rows) == slowly(rows)


def slowly(rows: npt.NDArray[np.float32]) -> list[int]:
    """Non-maximum suppression, as one explains it."""
    kept: list[int] = []
    for index in sorted(range(len(rows)), key=lambda row: -rows[row, 14]):
        if all(overlap(rows[index], rows[other]) <= 0.3 for other in kept):
            kept.append(index)
    return kept


def overlap(a: Any, b: Any) -> float:
    """Return the pixels in both over the pixels in any, counted one by one."""
    pixels = [
        {(x, y) for x in range(int(r[0]), int(r[0] + r[2])) for y in range(int(r[1]), int(r[1] + r[3]))} for r in (a, b)
    ]
    return len(pixels[0] & pixels[1]) / max(1, len(pixels[0] | pixels[1]))


@pytest.mark.parametrize("index", [0, 1000, -1])
def test_a_damaged_file_is_refused(shared: Path, index: int) -> None:
    data = bytearray((shared / FILE).read_bytes())
    data[index] ^= 1
    with pytest.raises(InputError, match="SHA-256"):
        YuNet(bytes(data))


@pytest.mark.parametrize("name", ["missing.onnx", ".", "photos/labels.csv", "\0"])
def test_what_is_no_detector_is_named(shared: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"not face_detection_yunet_2023mar|the face detector is not there"):
        YuNet(shared / name)


@pytest.mark.parametrize("settings", [{"size": 31}, {"min_score": 0.0}, {"min_score": 1.1}, {"threads": 0}])
def test_numbers_out_of_range(shared: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be"):
        YuNet(shared / FILE, **settings)


def write_golden(shared: Path) -> None:
    """Ask OpenCV 4 again; `python -c "import sys; sys.path.insert(0, 'tests/runtime'); ..."` where it is installed."""
    faces = {
        f"{name} {score}": [[round(value, 3) for value in row] for row in opencv(shared / FILE, picture, score)]
        for name, picture in pictures(shared / "photos")
        for score in SCORES
    }
    write_json(GOLDEN, {"opencv": importlib.import_module("cv2").__version__, "faces": faces})
