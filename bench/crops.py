"""How a face has to be cut out of a picture so that a network trained on FER2013 reads it best.

Two kinds of pictures: photos, which have a world around the face, but are few; and FER2013's own validation pictures,
which are many, but end where the face ends. Every variant is a change of the face that was found (larger, lower,
without landmarks, jittered) or of the picture (turned, cut, with something else beyond the edge), so all go through
the runtime's own `face_pixels`.
"""

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from slimfer.data.frames import Frames
from slimfer.errors import InputError
from slimfer.images import to_pixels
from slimfer.report.tables import Table
from slimfer.runtime.crop import GRAY, face_pixels, roll
from slimfer.runtime.faces import Detector, Found
from slimfer.runtime.haar import Haar
from slimfer.runtime.session import Session
from slimfer.runtime.yunet import YuNet

NAMES = {"anger": "angry", "happiness": "happy", "sadness": "sad"}
MARGINS = (0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3)
SHIFTS = (-0.08, -0.04, 0.0, 0.04, 0.08)
ROLLS = (0, 10, 20, 30)
CUTS = (0.15, 0.3)
JITTER = 0.1  # standard deviation of the middle and of the logarithm of the size, in sides of the box
FILLS = ("gray", "edge", "mean", "black")


@dataclass(frozen=True)
class Settings:
    """How much is measured: every `step`-th validation picture, and turns of pictures by a generator with `seed`."""

    step: int = 6
    seed: int = 0


@dataclass(frozen=True)
class Case:
    """A picture of L, what it shows (index of the class), and the largest face found in it."""

    picture: Image.Image
    label: int
    face: Found


Variant = Callable[[Case], npt.NDArray[np.uint8]]


def run(settings: Settings, detector: Path, models: Sequence[Path], photos: Path, validation: Frames) -> dict[str, Any]:
    """Measure all variants on both kinds of pictures."""
    yunet, sessions = YuNet(detector), [Session(model) for model in models]
    sets = {"photos": list(_photos(photos, sessions[0].labels)), "FER2013": _faces(validation, settings.step)}
    rng = np.random.default_rng(settings.seed)
    rows: list[dict[str, Any]] = []
    for name, pictures in sets.items():
        cases = _found(yunet, pictures)

        def add(what: str, variant: Variant, cases: list[Case] = cases, name: str = name) -> None:
            rows.append({"pictures": name, "variant": what, **_score(sessions, cases, variant)})

        add("chosen", _chosen)
        add("no detection, whole picture", lambda case: to_pixels(case.picture, 48, 1))
        for margin in MARGINS:
            add(f"margin {margin}", lambda case, m=margin: _cut(case.picture, framed(case.face, m, 0.0)))
        for shift in SHIFTS:
            add(f"shift {shift:+}", lambda case, s=shift: _cut(case.picture, framed(case.face, 1.0, s)))
        add("jitter, turned upright", lambda case: _cut(case.picture, _jittered(case.face, rng)))
        for degrees in ROLLS:
            turned = _found(yunet, [(_turned(p, degrees * rng.choice([-1, 1])), label) for p, label in pictures])
            add(f"roll {degrees}, turned upright", _chosen, turned)
            add(
                f"roll {degrees}, left as it is",
                lambda case: _cut(case.picture, replace(case.face, landmarks=())),
                turned,
            )
        for cut in CUTS:
            sliced = _found(yunet, list(_sliced(cases, cut)))
            for fill in FILLS:
                add(f"cut {cut}, {fill} beyond", lambda case, f=fill: _filled(case, f), sliced)
    framed_photos = [(ImageOps.expand(p.convert("RGB"), p.width // 3, (90, 110, 120)), y) for p, y in sets["photos"]]
    for weak in (yunet, *_cascade()):
        cases = _found(weak, framed_photos)
        rows.append({"pictures": "photos, framed", "variant": weak.name, **_score(sessions, cases, _chosen)})
    return {"geometry": _geometry(_found(yunet, sets["FER2013"])), "rows": rows}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Return what FER2013 shows around its faces, and the score of every variant."""
    header = ("of FER2013's validation pictures", "5 %", "25 %", "median", "75 %", "95 %")
    geometry = [(name, *(f"{value:.2f}" for value in values)) for name, values in result["geometry"].items()]
    rows = [
        (
            row["pictures"],
            row["variant"],
            str(row["n"]),
            " / ".join(f"{100 * value:.1f}" for value in row["accuracy"]),
            " / ".join(f"{value:.3f}" for value in row["nll"]),
            f"± {row['nll_error']:.3f}",
        )
        for row in result["rows"]
    ]
    scores = ("pictures", "variant", "faces", "accuracy %", "NLL", "standard error")
    return [
        Table(header, tuple(geometry), (False, True, True, True, True, True)),
        Table(scores, tuple(rows), (False, False, True, True, True, True)),
    ]


def framed(face: Found, margin: float, shift: float) -> Found:
    """Return a square box `margin` times as large, moved towards the chin by `shift` of the longer side."""
    side, angle = max(face.w, face.h), roll(face)
    x = face.x + face.w / 2 - math.sin(angle) * shift * side
    y = face.y + face.h / 2 + math.cos(angle) * shift * side
    return replace(face, x=x - margin * side / 2, y=y - margin * side / 2, w=margin * side, h=margin * side)


def _photos(folder: Path, labels: Sequence[str]) -> Iterator[tuple[Image.Image, int]]:
    table = folder / "labels.csv"
    if not table.is_file():
        raise InputError(f"{table} is not there: columns file and expression")
    with table.open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            with Image.open(folder / row["file"]) as photo:
                yield photo.convert("L"), labels.index(NAMES.get(row["expression"], row["expression"]))


def _faces(frames: Frames, step: int) -> list[tuple[Image.Image, int]]:
    """Return every `step`-th picture of each class; `frames` are ordered by class."""
    return [(Image.fromarray(frames.images[i, 0]), int(frames.labels[i])) for i in range(0, len(frames), step)]


def _found(detector: Detector, pictures: Sequence[tuple[Image.Image, int]]) -> list[Case]:
    cases = ((picture, label, detector.find(picture)) for picture, label in pictures)
    return [Case(picture, label, faces[0]) for picture, label, faces in cases if faces]


def _score(sessions: Sequence[Session], cases: Sequence[Case], variant: Variant) -> dict[str, Any]:
    """Return accuracy and mean negative log likelihood of every model; the error is that of the first's mean."""
    pixels, labels = np.stack([variant(case) for case in cases]), np.array([case.label for case in cases])
    accuracies, likelihoods = [], []
    for session in sessions:
        probabilities = session.run_all(pixels)
        accuracies.append(float((probabilities.argmax(1) == labels).mean()))
        likelihoods.append(-np.log(probabilities[np.arange(len(labels)), labels].clip(1e-7)))
    return {
        "n": len(cases),
        "accuracy": accuracies,
        "nll": [float(values.mean()) for values in likelihoods],
        "nll_error": float(likelihoods[0].std() / math.sqrt(len(cases))),
    }


def _geometry(cases: Sequence[Case]) -> dict[str, list[float]]:
    """Return percentiles of what a FER2013 picture of 48 pixels shows in terms of YuNet's box."""
    faces = [case.face for case in cases]
    values = {
        "side of the picture / longer side of the box": [48 / max(f.w, f.h) for f in faces],
        "middle of the picture below that of the box, in longer sides": [
            (24 - f.y - f.h / 2) / max(f.w, f.h) for f in faces
        ],
        "roll, degrees": [math.degrees(roll(f)) for f in faces],
    }
    return {name: np.percentile(numbers, [5, 25, 50, 75, 95]).tolist() for name, numbers in values.items()}


def _chosen(case: Case) -> npt.NDArray[np.uint8]:
    return _cut(case.picture, case.face)


def _cut(picture: Image.Image, face: Found) -> npt.NDArray[np.uint8]:
    return face_pixels(picture, face, 48, 1)


def _jittered(face: Found, rng: np.random.Generator) -> Found:
    x, y, size = JITTER * rng.standard_normal(3)
    side, grown = max(face.w, face.h), math.exp(size)
    return replace(face, x=face.x + x * side, y=face.y + y * side, w=face.w * grown, h=face.h * grown)


def _turned(picture: Image.Image, degrees: float) -> Image.Image:
    """Turn a picture that goes on at its edges as they are."""
    reach = max(picture.size)
    wide = Image.fromarray(np.pad(np.asarray(picture), reach // 2, mode="edge"))
    turned = wide.rotate(degrees, Image.Resampling.BICUBIC)
    return turned.crop((reach // 2, reach // 2, reach // 2 + picture.width, reach // 2 + picture.height))


def _sliced(cases: Sequence[Case], part: float) -> Iterator[tuple[Image.Image, int]]:
    """Cut a part of the face away by an edge of the picture: left, top, right and bottom in turn."""
    for index, case in enumerate(cases):
        face, (width, height) = case.face, case.picture.size
        inner = (max(face.x, 0), max(face.y, 0), min(face.x + face.w, width), min(face.y + face.h, height))
        box = [0.0, 0.0, float(width), float(height)]
        move = (face.w, face.h, -face.w, -face.h)[index % 4] * part
        box[index % 4] = inner[index % 4] + move
        left, top, right, bottom = (round(value) for value in box)
        yield case.picture.crop((left, top, right, bottom)), case.label


def _filled(case: Case, fill: str) -> npt.NDArray[np.uint8]:
    """Cut the face out of a picture that is larger by its own size on all sides, filled."""
    pixels = np.asarray(case.picture)
    reach = max(pixels.shape)
    values = {"gray": GRAY, "mean": round(float(pixels.mean())), "black": 0}
    wide = np.pad(pixels, reach, mode="edge") if fill == "edge" else np.pad(pixels, reach, constant_values=values[fill])
    return _cut(Image.fromarray(wide), _moved(case.face, reach))


def _moved(face: Found, by: float) -> Found:
    points = tuple((x + by, y + by) for x, y in face.landmarks)
    return replace(face, x=face.x + by, y=face.y + by, landmarks=points)


def _cascade() -> Sequence[Detector]:
    """Return Haar's cascade where OpenCV has it."""
    try:
        return (Haar(),)
    except InputError:
        return ()
