"""Open a dataset by path or by name, whatever its layout: the table of layouts, and `load`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from slimfer.data.fer2013 import is_csv, is_csv_folder, read_csv, read_csv_folder
from slimfer.data.folder import is_zip, read_folder, read_zip
from slimfer.data.frames import Dataset
from slimfer.data.packed import is_packed, read_packed
from slimfer.data.reading import Request
from slimfer.data.synthetic import synthetic
from slimfer.errors import InputError

SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class Layout:
    """One way in which datasets come.

    Attributes:
        what: for messages.
        accepts: whether a path looks like this layout, without reading it.
        read: reads every split.
    """

    what: str
    accepts: Callable[[Path], bool]
    read: Callable[[Path, Request], Dataset]


# The first that accepts a path reads it.
DATASETS: Mapping[str, Layout] = {
    "packed": Layout("a packed folder", is_packed, read_packed),
    "csv": Layout("fer2013.csv", is_csv, read_csv),
    "csv-folder": Layout("a folder with train.csv, validation.csv, test.csv", is_csv_folder, read_csv_folder),
    "zip": Layout("a .zip of split/class/picture", is_zip, read_zip),
    "folder": Layout("a folder of split/class/picture", Path.is_dir, read_folder),
}


def load(source: str | Path, *, image: int = 48, channels: int = 1, votes: Path | None = None) -> Dataset:
    """Read every split of a dataset into memory (or map it, when packed).

    Args:
        source: a folder or file in one of the layouts of `DATASETS`, or `synthetic` for the embedded default.
        image: height and width in pixels that pictures are brought to.
        channels: 1 (gray) or 3 (RGB).
        votes: `fer2013new.csv` of FER+, for soft labels on top of the official csv.

    Returns:
        Those of the splits train, validation and test that the dataset has, none of them empty.

    Raises:
        InputError: if there is nothing there, it is no dataset, a split is empty, or a row or picture is wrong (named).
    """
    dataset = read(source, Request(image, channels, votes))
    for split, frames in dataset.items():
        if not len(frames):
            raise InputError(f"{source}: the split {split} is empty")
    return dataset


def read(source: str | Path, request: Request) -> Dataset:
    """Read what is there, empty splits too; `request.witness` is told about problems.

    Raises:
        InputError: if there is nothing there or it is no dataset.
    """
    if str(source) == SYNTHETIC:
        if request.votes is not None:
            raise InputError(f"{request.votes}: votes go with the official csv, and synthetic faces have none")
        return synthetic(image=request.image, channels=request.channels)
    path = Path(source)
    dataset = DATASETS[layout_of(path)].read(path, request)
    if not dataset:
        raise InputError(f"{source}: no pictures")
    return dataset


def layout_of(path: Path) -> str:
    """Return the key in `DATASETS` of the layout that `path` is in.

    Raises:
        InputError: if there is nothing there, or nothing that looks like a dataset.
    """
    for name, layout in DATASETS.items():
        if layout.accepts(path):
            return name
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    raise InputError(f"{path}: not a dataset; it can be {', '.join(layout.what for layout in DATASETS.values())}")
