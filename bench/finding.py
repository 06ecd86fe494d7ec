"""How small a face may be to be found, what looking closer costs, and how long a frame takes from face to answer.

Times are those of the processor, and the best of all: neighbours on the machine can only add to them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from slimfer.report.tables import Table
from slimfer.runtime.crop import face_pixels
from slimfer.runtime.session import Session
from slimfer.runtime.yunet import SIZE, YuNet

CANVAS = (1600, 1200)
SIDES = (60, 100, 150, 200, 300, 600)  # pixels of a pasted photo, whose face is nearly as large
MOST = (320, 640, 960, 1280)
FRAME = (640, 480)
FACE = 240  # pixels of the photo in the frame


def run(
    detector: Path, models: Sequence[Path], photos: Path, *, pictures: int = 12, repeats: int = 200
) -> dict[str, Any]:
    """Measure on photos that are pasted into larger pictures of one colour."""
    faces = [_open(path) for path in sorted(photos.glob("*.jpg"))]
    faces = [face for face in faces if min(face.size) >= 300][:pictures]
    rng = np.random.default_rng(0)
    rows = []
    for most in MOST:
        yunet = YuNet(detector, most=most)
        for side in (0, *SIDES):
            seen, extra, took = 0, 0, []
            for face in faces:
                spot = tuple(int(rng.integers(0, length - side)) for length in CANVAS)
                picture = _pasted(CANVAS, face, spot, side)
                start = time.thread_time()
                found = yunet.find(picture)
                took.append(time.thread_time() - start)
                middle = [near for near in found if _near(near.x + near.w / 2, near.y + near.h / 2, spot, side)]
                seen, extra = seen + bool(middle), extra + len(found) - bool(middle)
            rows.append({
                "most": most, "side": side, "n": len(faces), "found": seen / len(faces), "others": extra,
                "ms": 1e3 * min(took),
            })  # fmt: skip
    return {"finding": rows, "ms": _times(detector, models, faces[0], repeats)}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Return what is found and in what time; and the parts of the way from a frame to the answer."""
    sides = [row["side"] for row in result["finding"] if row["most"] == MOST[0]]
    header = ("looks at most at", *(f"{side} px" if side else "no face" for side in sides))
    rows = [(f"{most} px", *(_cell(row) for row in result["finding"] if row["most"] == most)) for most in MOST]
    parts = [(name, f"{value:.3f}") for name, value in result["ms"].items()]
    marks = (False, *(True for _ in sides))
    return [Table(header, tuple(rows), marks), Table(("part", "ms"), tuple(parts), (False, True))]


def _cell(row: Mapping[str, Any]) -> str:
    told = f"{100 * row['found']:.0f} %, " if row["side"] else f"{row['others']} found, "
    return f"{told}{row['ms']:.1f} ms"


def _open(path: Path) -> Image.Image:
    with Image.open(path) as photo:
        return photo.convert("RGB")


def _pasted(size: tuple[int, int], face: Image.Image, spot: tuple[int, ...], side: int) -> Image.Image:
    picture = Image.new("RGB", size, (90, 110, 120))
    if side:
        picture.paste(face.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0), spot)
    return picture


def _near(x: float, y: float, spot: tuple[int, ...], side: int) -> bool:
    return max(abs(x - spot[0] - side / 2), abs(y - spot[1] - side / 2)) < side / 3


def _times(detector: Path, models: Sequence[Path], photo: Image.Image, repeats: int) -> dict[str, float]:
    """Return the best of interleaved runs, in milliseconds, on one thread."""
    frame = _pasted(FRAME, photo, (200, 100), FACE)
    yunet, session = YuNet(detector), Session(models[0])
    (face,) = yunet.find(frame)
    pixels = face_pixels(frame, face, session.image, session.channels)[None]

    def cut() -> object:
        return face_pixels(frame, face, session.image, session.channels)

    def whole() -> None:
        (found,) = yunet.find(frame)
        session.run(face_pixels(frame, found, session.image, session.channels)[None])

    parts: dict[str, Callable[[], object]] = {
        f"find the face ({FRAME[0]}x{FRAME[1]} frame, seen at {SIZE} px)": lambda: yunet.find(frame),
        f"cut it out ({max(face.w, face.h):.0f} px)": cut,
        "cut out a second one": cut,  # the first has to fetch code and pixels that finding drove out of the caches
        f"read it ({session.artifact.name})": lambda: session.run(pixels),
        "all of it": whole,
    }
    took: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(repeats):
        for name, part in parts.items():
            start = time.thread_time()
            part()
            took[name].append(1e3 * (time.thread_time() - start))
    return {name: min(values) for name, values in took.items()}
