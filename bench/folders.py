"""Pictures per second of `slimfer predict FOLDER`, as a user runs it, on one core and on more.

Every turn is the whole command in a process of its own that may use so many cores and no others, start included; files
are in the system's cache, as they are after being copied. Turns of all contestants alternate.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from slimfer.report.numbers import milliseconds, times, whole
from slimfer.report.tables import Table

Pixels = npt.NDArray[np.uint8]

FACES = ("--no-detect",)


@dataclass(frozen=True)
class Settings:
    """How long and how large; the defaults are those of the published figures.

    Attributes:
        pictures: in the folder.
        rounds: turns of each contestant.
        cores: numbers of cores; those that the machine does not have are left out.
    """

    pictures: int = 1000
    rounds: int = 3
    cores: tuple[int, ...] = (1, 2)


SMOKE = Settings(pictures=4, rounds=1, cores=(1,))


def run(settings: Settings, frames: Sequence[Pixels], detector: Path) -> list[dict[str, Any]]:
    """Return one row per kind of folder and number of cores.

    Args:
        settings: how long and how large.
        frames: (H, W, 3) RGB with one face each; they become JPEG files, again and again the same.
        detector: file of YuNet.
    """
    cores = sorted(os.sched_getaffinity(0))
    with TemporaryDirectory() as folder:
        kinds = {
            "photos of 640x480, JPEG": (
                _photos(Path(folder), frames, settings.pictures),
                ("--detector", str(detector)),
            ),
            "cut faces of 48x48, PNG": (_faces(Path(folder), settings.pictures), FACES),
        }
        cases = [(kind, number) for kind in kinds for number in settings.cores if number <= len(cores)]
        seconds: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
        for _ in range(settings.rounds):
            for kind, number in cases:
                path, flags = kinds[kind]
                seconds[kind, number].append(_predict(path, flags, cores[:number], settings.pictures))
    middle = {case: statistics.median(values) for case, values in seconds.items()}
    return [
        {
            "folder": kind,
            "cores": number,
            "pictures": settings.pictures,
            "seconds": middle[kind, number],
            "images_per_s": settings.pictures / middle[kind, number],
            "faster_than_one_core": middle[kind, settings.cores[0]] / middle[kind, number],
        }
        for kind, number in cases
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the rows for people."""
    header = ("slimfer predict", "pictures", "cores", "s", "images/s", "faster than one core")
    cells = tuple(
        (
            row["folder"],
            whole(row["pictures"]),
            str(row["cores"]),
            milliseconds(row["seconds"]),
            whole(row["images_per_s"]),
            times(row["faster_than_one_core"]),
        )
        for row in rows
    )
    return Table(header, cells, (False, *[True] * 5))


def _photos(folder: Path, frames: Sequence[Pixels], number: int) -> Path:
    path = folder / "photos"
    path.mkdir()
    for index in range(number):
        Image.fromarray(frames[index % len(frames)]).save(path / f"{index:06}.jpg", quality=90)
    return path


def _faces(folder: Path, number: int) -> Path:
    path = folder / "faces"
    path.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (number, 48, 48), np.uint8)
    for index, face in enumerate(noise):
        Image.fromarray(face).save(path / f"{index:06}.png")
    return path


def _predict(folder: Path, flags: Sequence[str], cores: Sequence[int], pictures: int) -> float:
    """Return the seconds of one command; its answers are counted."""
    out = folder.with_suffix(".jsonl")
    command = [sys.executable, "-m", "slimfer", "predict", str(folder), "--out", str(out), "--force", "--quiet"]
    env = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "SLIMFER_THREADS")}
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # inherited by the child
    try:
        begun = time.perf_counter()
        subprocess.run([*command, *flags, "--workers", str(len(cores))], check=True, env=env)
        seconds = time.perf_counter() - begun
    finally:
        os.sched_setaffinity(0, before)
    found = len(out.read_text(encoding="utf-8").splitlines())
    if found != pictures:
        raise RuntimeError(f"{found} answers to {pictures} pictures")
    return seconds
