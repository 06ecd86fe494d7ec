"""A tree of files to read from: a folder, or a .zip that is never extracted and not trusted.

A zip's directory can say anything: paths that lead out of it, links, sizes that fill the memory. All of it is checked
before the first byte of a member is read, and a member is never read beyond the size that it declared.
"""

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, Self

from slimfer.errors import InputError

# No picture of a face is larger; a member that says so is a bomb or a mistake.
MAX_BYTES = 64 * 2**20
MAX_MEMBERS = 2_000_000


class Tree(Protocol):
    """Files by their path, relative, with `/` between the parts.

    Attributes:
        files: all of them, sorted.
        folders: all of them, sorted; they may be empty.
    """

    files: list[str]
    folders: list[str]

    def read(self, name: str) -> bytes:
        """Return the content of one file."""

    def __enter__(self) -> Self:
        """Return the tree."""

    def __exit__(self, *error: object) -> None:
        """Close what is open."""


class FolderTree:
    """The files below a folder; links to folders are followed, once each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[str] = []
        self.folders: list[str] = []
        seen = set()
        for place, folders, files in os.walk(root, onerror=_refuse, followlinks=True):
            real = os.path.realpath(place)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            relative = Path(place).relative_to(root)
            self.files += [(relative / name).as_posix() for name in files]
            self.folders += [(relative / name).as_posix() for name in folders]
        self.files.sort()
        self.folders.sort()

    def read(self, name: str) -> bytes:
        """Return the content of one file.

        Raises:
            InputError: if it is larger than any picture of a face, or cannot be read.
        """
        try:
            with open(self.root / name, "rb") as stream:
                data = stream.read(MAX_BYTES + 1)
        except OSError as error:
            raise InputError(f"not readable ({error.strerror})") from None
        if len(data) > MAX_BYTES:
            raise InputError(f"larger than {MAX_BYTES} bytes")
        return data

    def __enter__(self) -> Self:
        """Return the tree."""
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: no file stays open."""


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: not readable ({error.strerror})")


class ZipTree:
    """The members of a .zip file."""

    def __init__(self, path: Path) -> None:
        """Open the file and check its directory.

        Raises:
            InputError: naming the member, if one has an absolute path or `..`, is a link, is encrypted, is there twice
                or declares a size that no picture has; or if it is no zip file.
        """
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, struct.error) as error:
            raise InputError(f"{path}: not readable as zip ({error})") from None
        try:
            self._members = self._checked()
        except BaseException:
            self._zip.close()
            raise
        self.files = sorted(self._members)
        self.folders = sorted({above for name in self._zip.namelist() for above in _folders_of(name)})

    def _checked(self) -> dict[str, zipfile.ZipInfo]:
        members = self._zip.infolist()
        if len(members) > MAX_MEMBERS:
            raise InputError(f"{self.path}: {len(members)} members, and {MAX_MEMBERS} are the most")
        files: dict[str, zipfile.ZipInfo] = {}
        for member in members:
            # `orig_filename` is what the file says; `filename` has been cleaned of what we look for.
            if problem := _refusal(member):
                raise InputError(f"{self.path}: member {member.orig_filename!r} {problem}")
            if member.is_dir():
                continue
            if member.filename in files:
                raise InputError(f"{self.path}: member {member.filename!r} is there twice")
            files[member.filename] = member
        return files

    def read(self, name: str) -> bytes:
        """Return the content of one member, at most as long as it declared.

        Raises:
            InputError: if it is damaged or not what the directory says.
        """
        member = self._members[name]
        try:
            with self._zip.open(member) as stream:
                # With a bound: without one, zipfile inflates up to 2 GiB before it looks at the declared size.
                return stream.read(member.file_size + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, struct.error) as error:
            raise InputError(f"damaged in the zip ({error})") from None

    def __enter__(self) -> Self:
        """Return the tree."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self._zip.close()


def _folders_of(name: str) -> Iterator[str]:
    """Yield the folders that a member lies in; a name that ends in `/` is a folder itself."""
    end = name.rfind("/")
    while end > 0:
        yield name[:end]
        end = name.rfind("/", 0, end)


def _refusal(member: zipfile.ZipInfo) -> str:
    """Return why a member is refused, or nothing."""
    name = member.orig_filename.replace("\\", "/")
    if name.startswith("/") or name[1:2] == ":":
        return "has an absolute path"
    if ".." in name.split("/"):
        return "leads out of the archive by '..'"
    if "\0" in name:
        return "has a zero byte in its name"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a symbolic link"
    if member.flag_bits & 1:
        return "is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed by another method than deflate"
    if member.file_size > MAX_BYTES:
        return f"declares {member.file_size} bytes, and {MAX_BYTES} are the most"
    return ""
