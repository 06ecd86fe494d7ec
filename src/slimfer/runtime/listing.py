"""Which pictures are meant: files, globs and folders as an ordered stream of paths.

Folders are walked as the paths are asked for, one folder at a time, so a million pictures need no list; what is walked
twice comes in the same order twice.
"""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from slimfer.errors import InputError
from slimfer.images import SUFFIXES

STDIN = "-"


class Listing:
    """The pictures that some names stand for; iterating gives each path once, in the order of the names.

    A file is taken whatever its ending. A folder gives the files with the ending of a picture, sorted by name, and with
    `recursive` those of its folders; hidden files and folders are left out, and links to folders are not followed. A
    glob gives what it matches, sorted: every file, if it ends in an ending (`*.jfif`), else those with the ending of a
    picture. `-` stays what it is.

    Attributes:
        roots: the folder of each name.
        base: the deepest folder that holds everything.
        closed: folders inside that could not be read, and why.
    """

    def __init__(self, names: Sequence[str], *, recursive: bool = False, leave_out: Path | None = None) -> None:
        """Take the names; nothing is listed yet.

        Args:
            names: paths of files and folders, globs, `-`.
            recursive: go into the folders of folders, too.
            leave_out: a folder in which nothing is looked for, because the caller writes into it.

        Raises:
            InputError: if a name is neither a file nor a folder nor a glob.
        """
        self._names = tuple(dict.fromkeys(names))
        self._recursive = recursive
        self._leave_out = leave_out
        self.closed: dict[str, str] = {}
        self.roots = tuple(os.path.abspath(_root(name)) for name in self._names if name != STDIN)
        self.base = Path(os.path.commonpath(self.roots)) if self.roots else Path.cwd()

    def __iter__(self) -> Iterator[str]:
        """Give every path once."""
        if len(self._names) == 1:
            yield from self._expand(self._names[0])
            return
        seen: set[str] = set()
        for name in self._names:
            for path in self._expand(name):
                if path not in seen:
                    seen.add(path)
                    yield path

    def count(self) -> int:
        """Return how many there are.

        Raises:
            InputError: if a name stands for no picture at all.
        """
        for name in self._names:
            if next(iter(self._expand(name)), None) is None:
                raise InputError(self._nothing(name))
        return sum(1 for _ in self)

    def relative(self, path: str) -> Path:
        """Return where a path lies below `base`."""
        return Path(os.path.relpath(os.path.abspath(path), self.base))

    def _expand(self, name: str) -> Iterator[str]:
        if os.path.isdir(name):
            return self._walk(os.fspath(Path(name)))
        if _is_file(name) or not glob.has_magic(name):
            return iter((name,))
        return self._matches(name)

    def _walk(self, top: str) -> Iterator[str]:
        pending = [iter(self._entries(top, top=True))]
        while pending:
            for path, is_folder in pending[-1]:
                if is_folder:
                    pending.append(iter(self._entries(path)))
                    break
                yield path
            else:
                pending.pop()

    def _entries(self, folder: str, *, top: bool = False) -> Iterator[tuple[str, bool]]:
        """Give the pictures and folders in a folder by name, and whether each is a folder."""
        files, folders = [], set()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if self._recursive and not self._is_left_out(entry):
                            folders.add(entry.name)
                    elif entry.name.lower().endswith(SUFFIXES) and _could_be_read(entry):
                        files.append(entry.name)
        except OSError as error:
            if top:
                raise InputError(f"{folder}: {error.strerror}") from None
            self.closed[folder] = error.strerror or str(error)
        for name in sorted((*files, *folders)):
            yield os.path.join(folder, name), name in folders

    def _matches(self, pattern: str) -> Iterator[str]:
        ending = Path(pattern).suffix
        every = len(ending) > 1 and not glob.has_magic(ending)
        found = {path for path in glob.iglob(pattern, recursive=True) if every or path.lower().endswith(SUFFIXES)}
        for path in sorted(found):
            if _is_file(path) and not (self._leave_out and lies_in(path, self._leave_out)):
                yield path

    def _is_left_out(self, entry: "os.DirEntry[str]") -> bool:
        left = self._leave_out
        return left is not None and entry.name == left.name and left.exists() and os.path.samefile(entry.path, left)

    def _nothing(self, name: str) -> str:
        endings = ", ".join(SUFFIXES)
        if not os.path.isdir(name):
            return f"{name}: the pattern matches no picture"
        deeper = "" if self._recursive else "; --recursive looks into its folders, too"
        return f"{name}: a folder without pictures ({endings}){deeper}"


def lies_in(path: str | Path, folder: Path) -> bool:
    """Whether a path is the folder or lies in it, links followed."""
    return Path(path).resolve().is_relative_to(folder.resolve())


def _root(name: str) -> str:
    """Return the folder that holds all that a name stands for.

    Raises:
        InputError: if it stands for nothing.
    """
    if os.path.isdir(name):
        return name
    if _is_file(name):
        return os.path.dirname(name) or "."
    if not glob.has_magic(name):
        raise InputError(f"{name}: no such {'option' if name.startswith('-') else 'file or folder'}")
    folder = os.path.dirname(name)
    while glob.has_magic(folder):
        folder = os.path.dirname(folder)
    return folder or "."


def _is_file(path: str) -> bool:
    """Whether there is something to read under this name; a broken link is, so that it is answered and listed."""
    return os.path.lexists(path) and not os.path.isdir(path)


def _could_be_read(entry: "os.DirEntry[str]") -> bool:
    """Whether this is a file, or a link that leads nowhere: that one is answered and listed, too."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:  # a link to itself
        return True
