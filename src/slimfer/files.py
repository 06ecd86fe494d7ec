"""Writing and reading files so that a kill, a full disk or a second process never leaves half a file.

Measured reason (docs/design.md): of 150 plain writers killed at a random moment 83 left a corrupt file; with a
temporary file and a rename none did, but stray temporary files stayed behind. Hence the sweep.
"""

import json
import os
from pathlib import Path
from typing import Any

from slimfer.errors import InputError

_MARK = ".slimfer-tmp-"


def atomic_write(path: Path | str, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part.

    Temporary file in the same folder, flush, fsync, rename, fsync of the folder.

    Raises:
        OSError: if the folder cannot be written or the disk is full; `path` is then unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}{_MARK}{os.getpid()}")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sweep_stale(folder: Path | str) -> list[Path]:
    """Remove temporary files below `folder` whose writer is dead; return what was removed."""
    removed = []
    for path in Path(folder).rglob(f"*{_MARK}*"):
        writer = path.name.rpartition(_MARK)[2]
        if writer.isdigit() and _is_alive(int(writer)) and int(writer) != os.getpid():
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


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
