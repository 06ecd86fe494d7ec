"""How far a training is: a bar with the time left on a terminal, one line per epoch elsewhere, nothing when quiet."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from slimfer.cli.common import Common, is_set, note
from slimfer.runs import RunFolder

if TYPE_CHECKING:
    from slimfer.train import loop


class Show(Protocol):
    """Where the state of a training goes besides log.txt."""

    def step(self, title: str, done: float) -> None:
        """Take note that the share `done` of the training is over."""

    def epoch(self, line: str) -> None:
        """Take note of a finished epoch."""


class Lines:
    """One line per epoch on stderr."""

    def step(self, title: str, done: float) -> None:
        """Show nothing between epochs: a log file keeps every line."""

    def epoch(self, line: str) -> None:
        """Print the line."""
        note(line)


class Silence(Lines):
    """Nothing."""

    def epoch(self, line: str) -> None:
        """Print nothing."""


class Bar:
    """A bar that moves with every step, and the lines of finished epochs above it."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.task = bar.add_task("", total=1.0)

    def step(self, title: str, done: float) -> None:
        """Move the bar."""
        self.bar.update(self.task, description=title, completed=done)

    def epoch(self, line: str) -> None:
        """Print the line above the bar."""
        self.bar.console.print(line, highlight=False, markup=False)


class Watch:
    """Follows one training: writes each epoch to the run's log and shows it."""

    def __init__(self, show: Show, run: RunFolder, stage: str = "", *, also: "loop.Watcher | None" = None) -> None:
        """Follow the training called `stage`, and hand everything on to `also`."""
        self.show, self.run, self.stage, self.also = show, run, stage, also
        self.begun = self.epoch_begun = time.monotonic()
        self.first: float | None = None

    def __call__(self, progress: "loop.Progress") -> None:
        """Take note of one step or epoch."""
        if self.also:
            self.also(progress)
        done = (progress.epoch + progress.step / progress.steps) / progress.epochs
        if self.first is None:  # a resumed training begins in its middle; time left is judged by this part alone
            self.first = done
            self.begun = self.epoch_begun = time.monotonic()
        title = f"{self.stage}  " if self.stage else ""
        title += f"epoch {progress.epoch + 1}/{progress.epochs}"
        self.show.step(title, done)
        if progress.row is None:
            return
        row, now = progress.row, time.monotonic()
        line = f"{title}  {in_words(now - self.epoch_begun)}"
        line += f"  loss {row['train/loss']:.3g}  val_accuracy {row['val/accuracy']:.3f}"
        if self.first < done < 1:
            line += f"  left {in_words((now - self.begun) * (1 - done) / (done - self.first))}"
        self.epoch_begun = now
        self.run.log(line)
        self.show.epoch(line)


@contextmanager
def showing(common: Common) -> Iterator[Show]:
    """Open the way to show progress that fits the terminal and the flags."""
    if common.quiet:
        yield Silence()
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not is_set("CI"):
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("left"), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            yield Bar(bar)
    else:
        yield Lines()


def in_words(seconds: float) -> str:
    """Return a duration for people: `38 s`, `17 min`, `2.4 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
