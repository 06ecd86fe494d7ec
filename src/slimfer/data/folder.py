"""A folder or .zip of pictures: `split/<class>/*.jpg`, as in torchvision and Hugging Face.

- Splits go by any name in `slimfer.data.splits`; classes by any spelling in `slimfer.labels`.
- Without splits (`<class>/*.jpg`) everything is the split `train`.
- One or more folders around it all (`fer2013/train/...`) are looked through.
- If the classes are emotions, and perhaps more, the emotions come first in their order; otherwise the order is
  alphabetical.
- Files with other endings than those of pictures are left alone, as are hidden ones; pictures in a format that is not
  read are a problem.
"""

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from slimfer.data.archive import FolderTree, Tree, ZipTree
from slimfer.data.frames import Dataset, Frames
from slimfer.data.reading import Request
from slimfer.data.splits import SPLITS, split_of
from slimfer.errors import InputError
from slimfer.files import atomic_folder, atomic_open
from slimfer.images import SUFFIXES, read_image, to_pixels
from slimfer.labels import EMOTIONS, canonical

# Pictures all the same: left out without a word, a class would be smaller than its folder.
UNREAD = (".tif", ".tiff", ".avif", ".jp2", ".jxl")


def is_zip(path: Path) -> bool:
    """Return whether `path` is a .zip file by its name."""
    return path.is_file() and path.suffix.lower() == ".zip"


def read_folder(path: Path, request: Request) -> Dataset:
    """Read a folder of pictures.

    Raises:
        InputError: naming the file, if a picture is unreadable or not in a class; or if there are no pictures.
    """
    return _read(FolderTree(path), path, request)


def read_zip(path: Path, request: Request) -> Dataset:
    """Read a .zip of pictures without extracting it.

    Raises:
        InputError: naming the member, if the zip is not safe to read, a picture is unreadable or not in a class; or if
            there are no pictures.
    """
    return _read(ZipTree(path), path, request)


def write_folder(path: Path, dataset: Dataset) -> None:
    """Write `split/<class>/NNNNN.png` below `path`, the whole folder at once (see `slimfer.files.atomic_folder`).

    Raises:
        InputError: if there are votes, which this layout cannot hold.
    """
    with atomic_folder(path) as building:
        for name, data in _as_png(dataset):
            (building / name).parent.mkdir(parents=True, exist_ok=True)
            (building / name).write_bytes(data)


def write_zip(path: Path, dataset: Dataset) -> None:
    """Write `split/<class>/NNNNN.png` into one .zip, atomically.

    Raises:
        InputError: if there are votes, which this layout cannot hold.
    """
    with atomic_open(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, data in _as_png(dataset):
            # ZipInfo's own date, 1980: the same pictures give the same file.
            archive.writestr(zipfile.ZipInfo(name), data)


def class_order(names: set[str]) -> tuple[str, ...]:
    """Return class names in their order: emotions first in theirs, when all of them are, or all seven are there."""
    emotions = set(EMOTIONS)
    if names <= emotions or names >= emotions:
        return (*(name for name in EMOTIONS if name in names), *sorted(names - emotions))
    return tuple(sorted(names))


@dataclass(frozen=True)
class _Item:
    """One picture: its path in the tree, its split and its class."""

    path: str
    split: str
    name: str


def _read(tree: Tree, path: Path, request: Request) -> Dataset:
    if request.votes is not None:
        raise InputError(f"{request.votes}: votes go with the official csv, row by row, and {path} is none")
    with tree:
        items, depth = _items(tree, path)
        classes = class_order({item.name for item in items})
        splits = {item.split for item in items} | _split_folders(tree, depth)
        return {
            split: _frames(tree, path, [item for item in items if item.split == split], classes, request)
            for split in SPLITS
            if split in splits
        }


def _frames(tree: Tree, path: Path, items: list[_Item], classes: tuple[str, ...], request: Request) -> Frames:
    images = np.empty((len(items), request.channels, request.image, request.image), np.uint8)
    kept: list[_Item] = []
    for item in items:
        try:
            if item.path.lower().endswith(UNREAD):
                raise InputError("a picture in a format that is not read here (JPEG, PNG, WebP, BMP, PPM are)")
            picture = read_image(tree.read(item.path))
        except InputError as error:
            request.witness.problem(f"{path}: {item.path}", str(error))
            continue
        request.witness.size(*picture.size)
        images[len(kept)] = to_pixels(picture, request.image, request.channels)
        kept.append(item)
    code = {name: i for i, name in enumerate(classes)}
    labels = np.array([code[item.name] for item in kept], np.int64)
    return Frames(images[: len(kept)], labels, classes, names=tuple(item.path for item in kept))


def _items(tree: Tree, path: Path) -> tuple[list[_Item], int]:
    """Return the pictures, and how many folders lie around the splits or classes."""
    pictures = [name for name in tree.files if _is_picture(name)]
    if not pictures:
        raise InputError(f"{path}: no pictures ({', '.join(SUFFIXES)})")
    depth = _depth_of_wrapping(pictures)
    parts = [_parts(name)[depth:] for name in pictures]
    in_splits = [split_of(first) is not None for first, *_ in parts]
    if any(in_splits) and not all(in_splits):
        raise InputError(f"{path}: {pictures[in_splits.index(False)]} is in no split, and other pictures are in splits")
    _refuse_two_names({first for first, *_ in parts}, path)
    items = []
    for name, (first, *rest) in zip(pictures, parts, strict=True):
        split, folders = (split_of(first), rest) if any(in_splits) else (SPLITS[0], [first, *rest])
        if len(folders) < 2 or split is None:
            raise InputError(f"{path}: {name} is in no class; the layout is split/class/picture")
        items.append(_Item(name, split, canonical(folders[0])))
    return items, depth


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def _is_picture(name: str) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
    return not hidden and name.lower().endswith(SUFFIXES + UNREAD)


def _depth_of_wrapping(pictures: list[str]) -> int:
    """Return how many folders lie around the splits (or, without splits, around the classes)."""
    folders = [_parts(name)[:-1] for name in pictures]
    shared = 0
    while all(len(parts) > shared and parts[shared] == folders[0][shared] for parts in folders):
        if split_of(folders[0][shared]):
            return shared
        shared += 1
    # A single class without splits: its folder is shared by all, and is the class.
    return min(shared, min(len(parts) for parts in folders) - 1) if shared else 0


def _refuse_two_names(firsts: set[str], path: Path) -> None:
    names: dict[str, str] = {}
    for first in sorted(firsts):
        split = split_of(first)
        if split in names:
            raise InputError(f"{path}: both {names[split]} and {first} are the split {split}")
        if split:
            names[split] = first


def _split_folders(tree: Tree, depth: int) -> set[str]:
    """Return the splits that have a folder, with pictures or without."""
    paths = [_parts(folder) for folder in tree.folders]
    return {split for parts in paths if len(parts) == depth + 1 and (split := split_of(parts[-1]))}


def _as_png(dataset: Dataset) -> Iterator[tuple[str, bytes]]:
    """Yield the path and the PNG of every picture."""
    for split, frames in dataset.items():
        if frames.votes is not None:
            raise InputError(f"{split}: a folder of pictures cannot hold votes; convert to packed")
        for i, (image, label) in enumerate(zip(frames.images, frames.labels, strict=True)):
            picture = Image.fromarray(
                image[0] if frames.channels == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
            )
            stream = io.BytesIO()
            picture.save(stream, "PNG")
            yield f"{split}/{frames.classes[label]}/{i:05d}.png", stream.getvalue()
