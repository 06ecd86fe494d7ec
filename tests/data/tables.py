"""Small FER2013 tables, good and bad, and zips by hand."""

import csv
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from slimfer.data.frames import Dataset, Frames
from slimfer.labels import EMOTIONS

USAGES = ("Training", "PublicTest", "PrivateTest")
HEADER = ("emotion", "pixels", "Usage")


def picture(value: int = 0, n: int = 48 * 48) -> str:
    return " ".join(str((value + i) % 256) for i in range(n))


def write_rows(path: Path, rows: Sequence[Sequence[object]], header: Sequence[str] = HEADER) -> Path:
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def frames(n: int, *, seed: int = 0, side: int = 48, channels: int = 1, classes: tuple[str, ...] = EMOTIONS) -> Frames:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, channels, side, side), np.uint8)
    return Frames(images, rng.integers(0, len(classes), n), classes)


def dataset(**counts: int) -> Dataset:
    return {split: frames(n, seed=i) for i, (split, n) in enumerate(counts.items())}


def jpeg(value: int = 100, size: tuple[int, int] = (48, 48), kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray((np.indices((size[1], size[0])).sum(0) * 7 + value).astype(np.uint8)).save(stream, kind)
    return stream.getvalue()


def write_files(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return path


def same(a: Dataset, b: Dataset) -> bool:
    return list(a) == list(b) and all(
        (a[split].images == b[split].images).all()
        and [a[split].classes[i] for i in a[split].labels] == [b[split].classes[i] for i in b[split].labels]
        for split in a
    )
