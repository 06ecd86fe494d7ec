"""A file of answers that survives a kill at any moment, and what was found in all.

The file is the ledger: a picture is done when its record is there. Records are appended whole, in the order of the
pictures; opening the file again cuts off a record that was not finished and knows the pictures that need no answer.
"""

import fcntl
import hashlib
import os
import stat
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from slimfer.errors import InputError
from slimfer.runtime.answer import Prediction
from slimfer.runtime.forms import Form, Record
from slimfer.runtime.listing import STDIN

LISTED = 20  # pictures with a problem that are named; all of them are in the answers


class Tally:
    """How many pictures ended how, and the first that could not be read.

    Attributes:
        statuses: number of pictures by status.
        problems: path and reason of the first pictures that are unreadable.
        no_detector: the remedy where there is no face detector, or empty.
    """

    def __init__(self) -> None:
        """Begin at nothing."""
        self.statuses: Counter[str] = Counter()
        self.problems: list[tuple[str, str]] = []
        self.no_detector = ""

    def add(self, path: str | None, status: str, error: str | None) -> None:
        """Take note of one picture."""
        self.statuses[status] += 1
        if status == "unreadable" and len(self.problems) < LISTED:
            self.problems.append((path or STDIN, error or ""))
        elif status == "no_detector":
            self.no_detector = error or ""

    @property
    def pictures(self) -> int:
        """Return the number of all."""
        return self.statuses.total()

    @property
    def failed(self) -> int:
        """Return the number of pictures without an answer: unreadable ones, or all where there is no detector."""
        return self.statuses["unreadable"] + self.statuses["no_detector"]


class AnswerFile:
    """Appends answers; use it in a `with` block.

    Attributes:
        tally: of the pictures that were in the file when it was opened.
    """

    def __init__(self, path: Path, form: Form, model: tuple[str, str], *, resume: bool, force: bool) -> None:
        """Open the file and lock it against other processes.

        Args:
            path: what to write.
            form: of the records.
            model: name and version of the artifact that answers.
            resume: go on in a file that is there already.
            force: replace it.

        Raises:
            InputError: if it is there and neither was said, its folder is not there, it cannot be written, another
                process writes it, or it cannot be gone on with.
        """
        self.path, self._form = path, form
        self.tally = Tally()
        self._done = _Paths()
        check_target(path, resume=resume, force=force)
        try:
            self._stream = open(path, "r+b" if path.exists() else "x+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None
        try:
            self._lock()
            self._regular = stat.S_ISREG(os.fstat(self._stream.fileno()).st_mode)
            if not resume and self._regular:
                self._stream.truncate()
            self._end = self._recover(model) if self._regular else 0
            if self._end == 0:
                self._append(form.head())
        except BaseException:
            self._stream.close()
            raise

    def __contains__(self, path: str) -> bool:
        """Whether the picture was answered when the file was opened."""
        return path in self._done

    def write(self, prediction: Prediction) -> None:
        """Append one answer; on an error nothing of it stays.

        Raises:
            InputError: if the disk is full or the file cannot be written.
        """
        self._append(self._form.record(prediction))

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until all is on disk, and close."""
        try:
            if self._regular:
                os.fsync(self._stream.fileno())
        except OSError as failure:
            raise InputError(f"{self.path}: {failure.strerror}") from error
        finally:
            self._stream.close()

    def _append(self, text: str) -> None:
        data = memoryview(text.encode(errors="surrogateescape"))
        whole = False
        try:
            written = 0
            while written < len(data):
                written += self._stream.write(data[written:]) or 0
            whole = True
            self._end += len(data)
        except OSError as error:
            again = "what stands in it is whole, and --resume goes on with it"
            raise InputError(f"{self.path}: {error.strerror}; {again}") from None
        finally:
            if not whole and self._regular:
                _cut(self._stream, self._end)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{self.path}: another process is writing it") from None
        except OSError:
            pass  # a file system without locks

    def _recover(self, model: tuple[str, str]) -> int:
        """Read what is done, cut off what is not whole, and return the length of the rest."""
        end, last = 0, None
        head = self._form.head().encode()
        with open(self._stream.fileno(), "rb", closefd=False) as lines:
            lines.seek(0)
            try:
                for last in self._form.read(lines):
                    self._note(last)
                    end = last.end
            except InputError as error:
                raise InputError(f"{self.path}: {error}; --force replaces the file") from None
        if last is not None and last.model != model:
            theirs, ours = (" ".join(one) for one in (last.model, model))
            raise InputError(f"{self.path} was written with the model {theirs}, not {ours}; --force begins anew")
        if end == 0 and head:
            self._stream.seek(0)
            end = len(head) if self._stream.read(len(head)) == head else 0
        _cut(self._stream, end)
        return end

    def _note(self, record: Record) -> None:
        self._done.add(record.path)
        self.tally.add(record.path, record.status, record.error)


def check_target(path: Path, *, resume: bool, force: bool) -> None:
    """See whether a file may be written.

    Raises:
        InputError: if it exists and neither `resume` nor `force` is set, is a folder or in none, or is read-only.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; --out takes the name of a file")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder to write {path.name} into; make it first")
    if path.is_file() and path.stat().st_size and not (resume or force):
        raise InputError(f"{path} exists; --resume goes on with it, --force replaces it")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{path}: no permission to write it")


class _Paths:
    """A set of paths that keeps 8 bytes of a hash of each: a million take some 70 MB, not several hundred.

    Two of a million different paths have the same hash with a probability of 1 in 40 million.
    """

    def __init__(self) -> None:
        self._hashes: set[bytes] = set()

    def add(self, path: str) -> None:
        self._hashes.add(_digest(path))

    def __contains__(self, path: str) -> bool:
        return bool(self._hashes) and _digest(path) in self._hashes


def _digest(path: str) -> bytes:
    return hashlib.blake2b(path.encode(errors="surrogatepass"), digest_size=8).digest()


def _cut(stream: BinaryIO, end: int) -> None:
    stream.truncate(end)
    stream.seek(end)
