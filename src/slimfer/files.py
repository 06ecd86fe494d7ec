"""Writing and reading files so that a kill, a full disk or a second process never leaves half a file.

Measured reason (docs/design.md): of 150 plain writers killed at a random moment 83 left a corrupt file; with a
temporary file and a rename none did, but stray temporary files stayed behind. Hence the sweep.
"""

import glob
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from slimfer.errors import InputError

_MARK = ".slimfer-tmp-"
_OLD = "-old"


@contextmanager
def atomic_open(path: Path | str) -> Iterator[BinaryIO]:
    """Open a stream whose bytes become `path` when the block ends well: a reader sees the old file or the new one.

    Temporary file in the same folder, flush, fsync, rename, fsync of the folder.

    Raises:
        OSError: if the folder cannot be written or the disk is full; `path` is then unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def atomic_write(path: Path | str, data: bytes) -> None:
    """Write `data` to `path` as `atomic_open` does.

    Raises:
        OSError: if the folder cannot be written or the disk is full; `path` is then unchanged.
    """
    with atomic_open(path) as stream:
        stream.write(data)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Give an empty folder to fill, which becomes `path` when the block ends well; on an error nothing stays.

    All that was written into it is on disk before it gets its name. A folder that was at `path` is replaced as a whole:
    ask before.

    Raises:
        OSError: if the folder beside it cannot be written, or `path` is a file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_folders(path)
    temporary = _temporary(path)
    old = temporary.with_name(temporary.name + _OLD)
    try:
        temporary.mkdir()
        yield temporary
        for place, _, files in os.walk(temporary):
            for name in files:
                _sync(Path(place, name))
            _sync(Path(place))
        if path.exists():
            os.rename(path, old)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)
    _sync(path.parent)


def sweep_stale(folder: Path | str) -> list[Path]:
    """Remove temporary files below `folder` whose writer is dead; return what was removed."""
    removed = []
    for path in Path(folder).rglob(f"*{_MARK}*"):
        if path.is_dir() or _has_writer(path):
            continue
        path.unlink(missing_ok=True)
        removed.append(path)
    return removed


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text atomically."""
    atomic_write(path, text.encode())


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused (they are not JSON)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read JSON.

    Raises:
        InputError: if the file is missing or is not JSON, naming it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}{_MARK}{os.getpid()}")


def _sweep_folders(path: Path) -> None:
    """Remove what dead writers of the folder `path` left; a kill between the two renames is undone."""
    for stale in path.parent.glob(f"{glob.escape(path.name)}{_MARK}*"):
        if _has_writer(stale):
            continue
        if stale.name.endswith(_OLD) and not path.exists():
            os.rename(stale, path)
        else:
            shutil.rmtree(stale, ignore_errors=True)


def _has_writer(temporary: Path) -> bool:
    """Whether another process, still alive, is writing this temporary file or folder."""
    writer = temporary.name.rpartition(_MARK)[2].removesuffix(_OLD)
    return writer.isdigit() and int(writer) != os.getpid() and _is_alive(int(writer))


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
