"""Write a dataset in another layout; nothing that is not a dataset is ever overwritten."""

from collections.abc import Callable, Mapping
from pathlib import Path

from slimfer.data.archive import FolderTree
from slimfer.data.fer2013 import write_csv
from slimfer.data.folder import write_folder, write_zip
from slimfer.data.frames import Dataset
from slimfer.data.packed import HEADER, is_packed_file, write_packed
from slimfer.data.splits import SPLITS
from slimfer.errors import InputError

WRITERS: Mapping[str, Callable[[Path, Dataset], None]] = {
    "packed": write_packed,
    "folder": write_folder,
    "csv": write_csv,
    "zip": write_zip,
}


def layout_for(target: Path, to: str | None, default: str = "packed") -> str:
    """Return the layout to write: `to` if it is given, else by the ending of `target` (.csv, .zip), else `default`.

    Raises:
        InputError: if `to` is no layout, or does not go with the ending.
    """
    by_ending = {".csv": "csv", ".zip": "zip"}.get(target.suffix.lower())
    if to is None:
        return by_ending or default
    if to not in WRITERS:
        raise InputError(f"layout must be one of {', '.join(WRITERS)}, not {to!r}")
    if (by_ending or to) != to or (to in ("csv", "zip") and by_ending is None):
        raise InputError(f"{target}: the ending does not go with the layout {to}")
    return to


def check_target(target: Path, *, source: Path | None = None, force: bool = False) -> None:
    """Refuse a target that would cost somebody something.

    Args:
        target: file or folder to write.
        source: what is read meanwhile.
        force: whether a dataset at `target` may be replaced.

    Raises:
        InputError: if `target` is there and not an empty folder, unless it is a dataset and `force` is true; or if
            source and target lie in each other.
    """
    if source is not None:
        here, there = target.resolve(), source.resolve()
        if here == there or here in there.parents or there in here.parents:
            raise InputError(f"{target} and {source} are the same or one inside the other; write somewhere else")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not force:
        raise InputError(f"{target} is there already; --force replaces it")
    if not _is_dataset(target):
        raise InputError(f"{target} holds more than a dataset that slimfer wrote, so --force does not replace it")


def write(target: Path, dataset: Dataset, layout: str) -> None:
    """Write `dataset` to `target`, all of it or nothing.

    Raises:
        InputError: if the layout cannot hold the dataset.
    """
    WRITERS[layout](target, dataset)


def _is_dataset(target: Path) -> bool:
    """Return whether `target` is nothing but what `write` writes: a wrong yes would delete a user's files."""
    if target.is_file():
        return target.suffix.lower() in (".csv", ".zip")
    files = FolderTree(target).files
    if HEADER in files:
        return all(is_packed_file(name) for name in files)
    return all(name.count("/") == 2 and name.split("/")[0] in SPLITS and name.endswith(".png") for name in files)
