"""Where answers about pictures go: a table, one JSON document, lines on stdout, or a file that can be gone on with."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import RenderableType

from slimfer.cli.common import table
from slimfer.errors import InputError
from slimfer.report.numbers import percent

if TYPE_CHECKING:
    from slimfer.runtime.answer import Prediction
    from slimfer.runtime.folder import AnswerFile
    from slimfer.runtime.forms import Form

FormName = Literal["table", "json", "jsonl", "csv"]
ENDINGS: dict[str, FormName] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".json": "json"}


class Sink:
    """Takes answers one after the other.

    Attributes:
        tally: of all that it holds.
    """

    document: Any = None

    def __init__(self) -> None:
        from slimfer.runtime.folder import Tally

        self.tally = Tally()

    def __contains__(self, path: str) -> bool:
        """Whether a picture needs no answer any more."""
        return False

    def write(self, prediction: "Prediction") -> None:
        """Take an answer."""
        self.tally.add(prediction.path, prediction.status, prediction.error)

    def view(self) -> Sequence[RenderableType]:
        """Return what is shown at the end."""
        return ()


class Document(Sink):
    """One JSON array; holds all answers."""

    def __init__(self, *, timed: bool) -> None:
        super().__init__()
        self.document: list[dict[str, Any]] = []
        self._timed = timed

    def write(self, prediction: "Prediction") -> None:
        """Keep the answer."""
        super().write(prediction)
        from slimfer.runtime.forms import document

        self.document.append(document(prediction, timed=self._timed))

    def view(self) -> Sequence[RenderableType]:
        """Return the document for `--format json`, which is --json by another name."""
        return (json.dumps(self.document, indent=2, allow_nan=False),) if self._timed else ()


class Table(Sink):
    """A table for people, one row per face; holds all rows."""

    COLUMNS = ("picture", "expression", "confidence %", "box", "note")

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[tuple[str, ...]] = []

    def view(self) -> Sequence[RenderableType]:
        """Return the table."""
        return (table(self.COLUMNS, self._rows, numeric=(False, False, True, False, False)),)

    def write(self, prediction: "Prediction") -> None:
        """Keep the rows of the answer."""
        super().write(prediction)
        name = printable(prediction.path or "-")
        if not prediction.faces:
            self._rows.append((name, "", "", "", _note(prediction)))
        for face in prediction.faces:
            box = f"{face.box.x},{face.box.y} {face.box.w}x{face.box.h}"
            note = "uncertain" if face.uncertain else ""
            self._rows.append((name, face.label, percent(face.confidence), box, note))
            name = ""


class Lines(Sink):
    """Records on stdout, each as soon as it is there."""

    def __init__(self, form: "Form") -> None:
        super().__init__()
        if hasattr(sys.stdout, "reconfigure"):  # a name of a file may be any bytes
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        self._form = form
        self._print(form.head())

    def write(self, prediction: "Prediction") -> None:
        """Print the answer."""
        super().write(prediction)
        self._print(self._form.record(prediction))

    def _print(self, text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise InputError(f"stdout: {error.strerror}") from None


class Appended(Sink):
    """Records in a file."""

    def __init__(self, file: "AnswerFile") -> None:
        self._file, self.tally = file, file.tally

    def __contains__(self, path: str) -> bool:
        """Whether the file had an answer when it was opened."""
        return path in self._file

    def write(self, prediction: "Prediction") -> None:
        """Append the answer.

        Raises:
            InputError: if there is no face detector: the picture would count as done.
        """
        if prediction.status == "no_detector":
            raise InputError(prediction.error)
        self._file.write(prediction)
        super().write(prediction)


@dataclass(frozen=True)
class Target:
    """What the flags say about where answers go.

    Attributes:
        form: how they are written.
        out: the file; None is stdout.
        resume: go on in a file that is there.
        force: replace it.
    """

    form: FormName
    out: Path | None
    resume: bool
    force: bool

    @classmethod
    def of(cls, form: FormName | None, out: str | None, *, as_json: bool, resume: bool, force: bool) -> "Target":
        """Return what the flags say together.

        Raises:
            InputError: if they contradict each other, or the file cannot be written.
        """
        from slimfer.runtime.folder import check_target

        path = None if out in (None, "-") else Path(str(out))
        if resume and force:
            raise InputError("--resume goes on with what is there and --force replaces it; give one of them")
        if path is None:
            if resume:
                raise InputError("--resume needs --out FILE, the file to go on with")
            if as_json and form not in (None, "json"):
                raise InputError(f"--json and --format {form} contradict each other")
            return cls("json" if as_json else form or "table", None, resume, force)
        check_target(path, resume=resume, force=force)
        form = form or ENDINGS.get(path.suffix.lower())
        if form is None or form == "table":
            raise InputError(f"--out {path}: the ending says nothing; give --format jsonl, csv or json")
        if resume and form == "json":
            raise InputError(f"--out {path}: one JSON document cannot be gone on with; --resume needs jsonl or csv")
        return cls(form, path, resume, force)

    @property
    def is_on_screen(self) -> bool:
        """Whether answers appear on the terminal one by one, where a bar would be in the way."""
        return self.out is None and self.form in ("jsonl", "csv") and sys.stdout.isatty()

    @contextmanager
    def open(self, labels: Sequence[str], model: tuple[str, str]) -> Iterator[Sink]:
        """Open what takes the answers of a model."""
        if self.form == "table":
            yield Table()
        elif self.form == "json":
            yield from self._document()
        else:
            yield from self._records(labels, model)

    def _document(self) -> Iterator[Sink]:
        from slimfer.files import write_json

        sink = Document(timed=self.out is None)
        yield sink
        if self.out:
            try:
                write_json(self.out, sink.document)
            except OSError as error:
                raise InputError(f"{self.out}: {error.strerror}") from None

    def _records(self, labels: Sequence[str], model: tuple[str, str]) -> Iterator[Sink]:
        from slimfer.runtime.folder import AnswerFile
        from slimfer.runtime.forms import Csv, JsonLines

        form = Csv(labels) if self.form == "csv" else JsonLines(timed=self.out is None)
        if self.out is None:
            yield Lines(form)
            return
        with AnswerFile(self.out, form, model, resume=self.resume, force=self.force) as file:
            yield Appended(file)


def printable(text: str) -> str:
    """Return the text with everything that a terminal might act on as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _note(prediction: "Prediction") -> str:
    return f"{prediction.status}: {printable(prediction.error)}" if prediction.error else prediction.status
