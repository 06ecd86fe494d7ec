"""What every verb shares: the common flags, the form of an answer, and how both meet the terminal."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from cyclopts.validators import Number
from rich.console import Console, RenderableType
from rich.table import Table

from slimfer.errors import InputError, SlimferError

SHARED = Group("Shared by every verb", sort_key=100)


@Parameter(name="*", group=SHARED)
@dataclass(frozen=True)
class Common:
    """Flags of every verb.

    Attributes:
        json: print one JSON document on stdout (fractions 0-1); everything else goes to stderr.
        quiet: no progress, no hints; errors still appear.
        threads: CPU threads; without it SLIMFER_THREADS, then OMP_NUM_THREADS.
        seed: of everything random.
        device: where networks train; auto takes a GPU where there is one.
    """

    json: bool = False
    quiet: Annotated[bool, Parameter(alias="-q")] = False
    threads: Annotated[int | None, Parameter(validator=Number(gte=1, lte=1024))] = None
    seed: Annotated[int | None, Parameter(show_default="0", validator=Number(gte=0, lt=2**31))] = None
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def thread_count(self, default: int = 1) -> int:
        """Return the number of threads: flag, else SLIMFER_THREADS, else OMP_NUM_THREADS, else `default`.

        Raises:
            InputError: if the variable is not a number of threads.
        """
        if self.threads is not None:
            return self.threads
        for name in ("SLIMFER_THREADS", "OMP_NUM_THREADS"):
            if value := os.environ.get(name):
                if not value.isdecimal() or not 1 <= int(value) <= 1024:
                    raise InputError(f"{name} must be a number from 1 to 1024, not {value!r}")
                return int(value)
        return default


@dataclass(frozen=True)
class Answer:
    """What a verb returns; one place prints it, as JSON or for people.

    Attributes:
        document: the JSON values for `--json`.
        view: what people see on stdout, in order: text and tables.
        hint: the command that usually comes next, or empty.
        exit_code: 0, unless the verb found what it was asked to look for (`data inspect --strict`).
        failure: what the answer did not meet; it is shown first, then this sentence, and the exit code is this one's.
    """

    document: Any
    view: Sequence[RenderableType] = ()
    hint: str = ""
    exit_code: int = 0
    failure: SlimferError | None = None


def emit(answer: Answer, common: Common) -> None:
    """Print an answer: JSON or tables on stdout, the hint on stderr."""
    if common.json:
        sys.stdout.write(json.dumps(answer.document, indent=2, allow_nan=False) + "\n")
    else:
        console = Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False)
        for part in answer.view:
            console.print(part, soft_wrap=isinstance(part, str))
    sys.stdout.flush()
    if answer.hint and not common.quiet:
        note(f"next: {answer.hint}")


def note(line: str) -> None:
    """Write one line to stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, numeric: Sequence[bool] = ()) -> Table:
    """Return a table for people; numeric columns are aligned right, by default all but the first."""
    numeric = numeric or [index > 0 for index in range(len(columns))]
    result = Table(box=None, pad_edge=False, header_style="bold")
    for column, number in zip(columns, numeric, strict=True):
        result.add_column(column, justify="right" if number else "left")
    for row in rows:
        result.add_row(*(str(cell) for cell in row))
    return result


def is_set(name: str) -> bool:
    """Return whether an environment variable says yes: 1, on, yes or true in any case."""
    return os.environ.get(name, "").strip().lower() in ("1", "on", "yes", "true")


def torch_device(common: Common, threads: int | None = None) -> str:
    """Make torch ready and return the device to use, `cpu` or `cuda`.

    Args:
        common: the flags.
        threads: default number of CPU threads; None leaves torch's own, one per core.

    Raises:
        InputError: if `--device cuda` is asked for and there is none.
        ImportError: if the training side is not installed.
    """
    import torch

    torch.set_num_threads(common.thread_count(default=threads or torch.get_num_threads()))
    if common.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no CUDA device here; use --device cpu")
    if common.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return common.device
