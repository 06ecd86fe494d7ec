"""Fetching a file whose checksum is known: it goes on where it was cut, and half a file never gets the name.

What came before a connection was lost is kept in `NAME.part`, with what the server said identifies the file, so that
another file under the same address is never glued to it. The files are small, so they are held in memory until they
are whole.
"""

import hashlib
import importlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from slimfer.errors import InputError
from slimfer.files import atomic_write
from slimfer.version import VERSION

PATIENCE = 10.0  # seconds without a byte
DEADLINE = 120.0  # seconds in all, for one address
CHUNK = 1 << 16

_ONE_AT_A_TIME = threading.Lock()  # of the threads; processes may fetch the same file twice, which harms nothing


def fetch(
    addresses: Sequence[str],
    path: Path,
    *,
    sha256: str,
    size: int,
    say: Callable[[str], None],
    patience: float = PATIENCE,
) -> None:
    """Fetch a file over HTTP, unless it is there already.

    Args:
        addresses: where it is; the next is tried when one fails.
        path: where it belongs.
        sha256: of the file, in hexadecimal digits.
        size: of the file in bytes.
        say: is told what is fetched, from where, how large, to where.
        patience: seconds without a byte after which a connection counts as lost.

    Raises:
        InputError: if no address gives that file, or it cannot be written; what came so far is kept for the next call.
    """
    with _ONE_AT_A_TIME:
        if _is_whole(path, sha256):
            return
        reasons = []
        for address in addresses:
            say(f"fetching {path.name} ({size / 1000:.0f} kB) from {address} to {path.parent}")
            try:
                _fetch(address, path, sha256, size, patience)
            except InputError as error:
                reasons.append(f"{urlsplit(address).netloc}: {error}")
            else:
                return
        raise InputError("; ".join(reasons))


@dataclass
class _Part:
    """What came so far: of which address, what identifies that version of the file, and its first bytes."""

    address: str
    version: str = ""
    data: bytearray = field(default_factory=bytearray)

    @classmethod
    def load(cls, path: Path, address: str) -> "_Part":
        """Read what an earlier call left; nothing if it is of another address or damaged."""
        try:
            head, _, data = path.read_bytes().partition(b"\n")
            about = json.loads(head)
            if about["address"] == address and isinstance(about["version"], str):
                return cls(address, about["version"], bytearray(data))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return cls(address)

    def save(self, path: Path) -> None:
        head = json.dumps({"address": self.address, "version": self.version})
        atomic_write(path, head.encode() + b"\n" + self.data)


def _fetch(address: str, path: Path, sha256: str, size: int, patience: float) -> None:
    rest = path.with_name(f"{path.name}.part")
    part = _Part.load(rest, address)
    try:
        reason = _receive(part, size, patience)
        if reason:
            raise InputError(reason)
        if hashlib.sha256(part.data).hexdigest() != sha256:
            part.data.clear()
            raise InputError("what came is not the file that is expected (its SHA-256 differs)")
        atomic_write(path, bytes(part.data))
        part.data.clear()
    except OSError as error:
        raise InputError(f"{path.parent} cannot be written ({error.strerror or error})") from None
    finally:
        _keep(part, rest)


def _keep(part: _Part, rest: Path) -> None:
    """Leave what came for the next call, if anything; that this fails is no reason to fail."""
    try:
        if part.data and part.version:
            part.save(rest)
        else:
            rest.unlink(missing_ok=True)
    except OSError:
        pass


def _receive(part: _Part, size: int, patience: float) -> str:
    """Ask until `part` holds `size` bytes, as long as every answer brings some; return why it does not."""
    end = time.monotonic() + DEADLINE
    while True:
        before = len(part.data)
        reason = _ask(part, size, patience, end)
        if len(part.data) == size:
            return ""
        if len(part.data) > size:
            part.data.clear()
            return f"what came is not the file that is expected (it is larger than {size} bytes)"
        if len(part.data) <= before:
            return reason


def _ask(part: _Part, size: int, patience: float, end: float) -> str:
    """Send one request and add what comes to `part`; return what went wrong."""
    # Loaded here: http and ssl take 40 ms, and hardly any start of a program fetches something.
    request, client = (importlib.import_module(name) for name in ("urllib.request", "http.client"))
    headers = {"User-Agent": f"slimfer/{VERSION}", "Accept-Encoding": "identity"}
    if part.data and part.version:
        headers |= {"Range": f"bytes={len(part.data)}-", "If-Range": part.version}
    try:
        with request.urlopen(request.Request(part.address, headers=headers), timeout=patience) as answer:
            goes_on = str(answer.headers.get("Content-Range", "")).startswith(f"bytes {len(part.data)}-")
            if answer.status != 206 or not goes_on:
                part.data.clear()
                part.version = _version(answer.headers)
            while len(part.data) <= size:
                chunk = answer.read1(CHUNK)
                if not chunk:
                    return "the connection was lost"
                part.data += chunk
                if time.monotonic() > end:
                    return f"it took longer than {DEADLINE:.0f} seconds"
            return ""
    except client.HTTPException as error:
        return f"the connection was lost ({type(error).__name__})"
    except OSError as error:  # HTTPError and URLError are OSErrors
        code = getattr(error, "code", None)
        if code == 416:  # what was kept is longer than the file: begin anew next time
            part.data.clear()
        return f"HTTP status {code}" if code else f"no connection ({getattr(error, 'reason', error)})"


def _version(headers: Any) -> str:
    """Return what identifies this version of the file for If-Range: a strong ETag, else its date."""
    tag = str(headers.get("ETag", ""))
    return tag if tag.startswith('"') else str(headers.get("Last-Modified", ""))


def _is_whole(path: Path, sha256: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except OSError:
        return False
