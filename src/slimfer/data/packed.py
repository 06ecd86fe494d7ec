"""A dataset packed for opening at once: raw arrays that are mapped into memory, and a header that vouches for them.

FOLDER/dataset.json       classes, splits, and for every file its size and SHA-256; its own SHA-256 last
       train.images.u8    (N, C, H, W) uint8, mapped and read only
       train.labels.i64   (N,) int64, little endian
       train.votes.f32    (N, K) float32, little endian, where there are votes
       train.names.json   where each picture came from

Written once and as a whole, then never changed. Opening checks every size, and the content of all but the pictures;
`slimfer data inspect` checks these as well.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slimfer.data.frames import Dataset, Frames
from slimfer.data.reading import Request, Witness
from slimfer.data.splits import SPLITS
from slimfer.errors import InputError
from slimfer.files import atomic_folder, read_json, write_json

FORMAT = 1
HEADER = "dataset.json"

_DTYPES = {"images.u8": "uint8", "labels.i64": "<i8", "votes.f32": "<f4"}
_NAMES = "names.json"


def is_packed(path: Path) -> bool:
    """Return whether `path` is a folder with a header of ours."""
    return (path / HEADER).is_file()


def is_packed_file(name: str) -> bool:
    """Return whether a packed folder has files of this name."""
    split, _, kind = name.partition(".")
    return name == HEADER or (split in SPLITS and kind in (*_DTYPES, _NAMES))


def write_packed(path: Path, dataset: Dataset) -> None:
    """Write `dataset` as a packed folder, all of it or nothing (see `slimfer.files.atomic_folder`)."""
    splits = {}
    with atomic_folder(path) as building:
        for split, frames in dataset.items():
            files = {}
            for kind, data in _parts(frames).items():
                name = f"{split}.{kind}"
                (building / name).write_bytes(data)
                files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            splits[split] = {"shape": list(frames.images.shape), "classes": list(frames.classes), "files": files}
        header = {"format": FORMAT, "kind": "dataset", "splits": splits}
        write_json(building / HEADER, {**header, "sha256": _hash_of(header)})


def read_packed(path: Path, request: Request) -> Dataset:
    """Open a packed folder; the pictures stay on disk until they are used.

    Raises:
        InputError: naming the file, if one is missing, cut or changed; or if the pictures were packed with another size
            or number of channels than wanted, or votes are given.
    """
    if request.votes is not None:
        raise InputError(f"{request.votes}: votes go with the official csv, and {path} is packed")
    splits = _read_header(path)["splits"]
    return {split: _read_split(path, split, splits[split], request) for split in SPLITS if split in splits}


def _parts(frames: Frames) -> dict[str, bytes | memoryview]:
    """Return the content of the files of one split."""
    arrays: dict[str, npt.NDArray[Any]] = {"images.u8": frames.images, "labels.i64": frames.labels}
    if frames.votes is not None:
        arrays["votes.f32"] = frames.votes
    parts = {
        kind: np.ascontiguousarray(array, _DTYPES[kind]).reshape(-1).view(np.uint8).data
        for kind, array in arrays.items()
    }
    # Surrogates from undecodable file names survive as escapes.
    return {**parts, _NAMES: json.dumps(frames.names).encode()}


def _read_header(path: Path) -> Mapping[str, Any]:
    header = read_json(path / HEADER)
    try:
        stated = header.pop("sha256")
        if header["kind"] != "dataset" or header["format"] != FORMAT:
            raise InputError(f"{path / HEADER}: format {header['format']!r}; this version reads format {FORMAT}")
    except (AttributeError, KeyError, TypeError):
        raise InputError(f"{path / HEADER}: not the header of a packed dataset") from None
    if stated != _hash_of(header):
        raise InputError(f"{path / HEADER}: changed since it was written (its SHA-256 differs); convert again")
    return header


def _hash_of(header: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _read_split(path: Path, split: str, entry: Mapping[str, Any], request: Request) -> Frames:
    count, channels, height, width = entry["shape"]
    if (channels, height, width) != (request.channels, request.image, request.image):
        raise InputError(
            f"{path} is packed as {channels} x {height} x {width}, not {request.channels} x {request.image} x "
            f"{request.image}; convert the source again with --image and --channels"
        )
    for name, stated in entry["files"].items():
        _check(path / name, stated, request.witness)
    votes = f"{split}.votes.f32"
    return Frames(
        _map(path / f"{split}.images.u8", (count, channels, height, width)),
        np.fromfile(path / f"{split}.labels.i64", "<i8").astype(np.int64),
        tuple(entry["classes"]),
        votes=_votes(path / votes, count) if votes in entry["files"] else None,
        names=tuple(read_json(path / f"{split}.{_NAMES}")),
    )


def _check(file: Path, stated: Mapping[str, Any], witness: Witness) -> None:
    """Compare a file with what the header says of it."""
    try:
        size = os.stat(file).st_size
    except OSError as error:
        raise InputError(f"{file}: not readable ({error.strerror})") from None
    if size != stated["bytes"]:
        raise InputError(f"{file}: {size} bytes, not {stated['bytes']}: cut or changed; convert again")
    of_pictures = file.name.endswith(".images.u8")
    if of_pictures and not witness.thorough:
        return
    with open(file, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest == stated["sha256"]:
        return
    what = "changed since it was written (its SHA-256 differs); convert again"
    if not of_pictures:
        raise InputError(f"{file}: {what}")
    witness.problem(str(file), what)


def _map(file: Path, shape: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
    if not shape[0]:
        return np.empty(shape, np.uint8)
    return np.memmap(file, np.uint8, "r", shape=shape)


def _votes(file: Path, count: int) -> npt.NDArray[np.float32]:
    return np.fromfile(file, "<f4").astype(np.float32).reshape(count, -1)
