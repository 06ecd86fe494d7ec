"""Answers as text: JSON lines and CSV, one whole record per picture, written and read back.

A record is complete or it is not there: a reader can tell, so that a file whose writer was killed can be cut to its
last whole record.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from slimfer.errors import InputError
from slimfer.runtime.answer import Face, Prediction
from slimfer.runtime.listing import STDIN

# Of a CSV before the columns of the classes, and after them.
COLUMNS = (
    "path", "status", "width", "height", "faces", "face", "x", "y", "w", "h", "detection_score",
    "label", "score", "confidence", "uncertain",
)  # fmt: skip
LAST_COLUMNS = ("error", "model", "version")

_OBJECT = b'{"path": '  # how every line of JSON begins


@dataclass(frozen=True)
class Record:
    """What is known again of a picture that was answered earlier.

    Attributes:
        path: of the picture; `-` is stdin.
        status: of the answer.
        error: what was wrong, or None.
        model: name and version of the artifact that answered.
        end: position in the file behind the record, in bytes.
    """

    path: str
    status: str
    error: str | None
    model: tuple[str, str]
    end: int


class Form(Protocol):
    """How answers are written."""

    def head(self) -> str:
        """Return what stands before the first record."""
        ...

    def record(self, prediction: Prediction) -> str:
        """Return the lines of one picture."""
        ...

    def read(self, lines: Iterable[bytes]) -> Iterator[Record]:
        """Yield the whole records of a file, and stop before one that was cut off.

        Raises:
            InputError: if the file is something else.
        """
        ...


class JsonLines:
    """One JSON object per line, `Prediction.to_dict()`; see docs/predict.md.

    Args:
        timed: with `ms`; without, the same pictures give the same bytes.
    """

    def __init__(self, *, timed: bool = False) -> None:
        self._timed = timed

    def head(self) -> str:
        """Return nothing."""
        return ""

    def record(self, prediction: Prediction) -> str:
        """Return one line."""
        return json.dumps(document(prediction, timed=self._timed), allow_nan=False) + "\n"

    def read(self, lines: Iterable[bytes]) -> Iterator[Record]:
        """As `Form.read`."""
        end = 0
        for number, line in enumerate(lines, 1):
            end += len(line)
            record = _parsed(line, end)
            if record is None:
                if line.endswith(b"\n") or not _begins_like(line, _OBJECT):
                    raise InputError(f"line {number} is not an answer of slimfer predict")
                return
            yield record


class Csv:
    """One row per face, and one for a picture without a face; see docs/predict.md."""

    def __init__(self, labels: Sequence[str]) -> None:
        """Take the names of the classes, which are columns."""
        self._labels = tuple(labels)
        self._columns = (*COLUMNS, *labels, *LAST_COLUMNS)

    def head(self) -> str:
        """Return the names of the columns."""
        return _row(self._columns)

    def record(self, prediction: Prediction) -> str:
        """Return the rows of one picture."""
        one = prediction
        start = (one.path or STDIN, one.status, one.width, one.height, len(one.faces))
        last = (one.error or "", one.model, one.version)
        if not one.faces:
            blank = len(self._columns) - len(start) - len(last)
            return _row((*start, *[""] * blank, *last))
        rows = (_row((*start, index, *self._face(face), *last)) for index, face in enumerate(one.faces, 1))
        return "".join(rows)

    def read(self, lines: Iterable[bytes]) -> Iterator[Record]:
        """As `Form.read`."""
        counted = _Counted(lines)
        rows = csv.reader(counted, strict=True)
        try:
            head = next(rows, None)
            if head is None:
                return
            if not counted.whole:
                if not _begins_like(_row(head).rstrip("\n").encode(), self.head().encode()):
                    raise InputError("it does not begin like the answers of slimfer predict")
                return
            if head != list(self._columns):
                raise InputError("the columns are not those that slimfer predict writes with this model")
            for row in rows:
                if not counted.whole:
                    return
                if len(row) != len(self._columns):
                    raise InputError(f"line {rows.line_num} has {len(row)} columns and not {len(self._columns)}")
                value = dict(zip(self._columns, row, strict=True))
                if value["faces"] == "0" or value["face"] == value["faces"]:
                    model = value["model"], value["version"]
                    yield Record(value["path"], value["status"], value["error"] or None, model, counted.bytes)
        except csv.Error:
            if counted.more():
                raise InputError(f"line {rows.line_num} is not a row of a CSV") from None

    def _face(self, face: Face) -> tuple[object, ...]:
        box = face.box
        found = "" if face.detection_score is None else f"{face.detection_score:.6f}"
        scores = (f"{face.scores[label]:.6f}" for label in self._labels)
        uncertain = str(face.uncertain).lower()
        return (
            box.x, box.y, box.w, box.h, found, face.label, f"{face.score:.6f}", f"{face.confidence:.6f}", uncertain,
            *scores,
        )  # fmt: skip


def document(prediction: Prediction, *, timed: bool = True) -> dict[str, Any]:
    """Return the JSON values of an answer, with the times that it took or without."""
    value = prediction.to_dict()
    if not timed:
        del value["ms"]
    return value


class _Counted:
    """Lines as text for the csv module, which draws no line before it needs it; knows how far that is."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self.bytes = 0
        self.whole = True

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.bytes += len(line)
        self.whole = line.endswith(b"\n")
        return line.decode(errors="surrogateescape")

    def more(self) -> bool:
        return next(self._lines, None) is not None


def _parsed(line: bytes, end: int) -> Record | None:
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
        model = str(value["model"]), str(value["version"])
        return Record(value["path"] or STDIN, value["status"], value.get("error"), model, end)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _begins_like(line: bytes, start: bytes) -> bool:
    """Whether a line that may have been cut off begins with `start`."""
    return line.startswith(start) or start.startswith(line)


def _row(cells: Iterable[object]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\r\n").writerow(cells)  # quotes what holds \r or \n, as names of files may
    return stream.getvalue().removesuffix("\r\n") + "\n"
