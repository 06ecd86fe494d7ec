"""How far a work is: a bar with the time left on a terminal, one line per step elsewhere, nothing when quiet."""

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


# Seconds between two moves of a bar, before the first line about many things, and between two lines at most.
_MOVE, _SHORT, _PAUSE = 0.1, 5.0, 60.0


class Show(Protocol):
    """Where the state of a work goes besides log.txt; an epoch is whatever deserves a line."""

    def step(self, title: str, done: float) -> None:
        """Take note that the share `done` of the work is over."""

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


class Pace:
    """Follows work on many things of one kind: moves the bar, and elsewhere gives a line now and then.

    A line comes at every tenth of the work, and every minute, but none in the first seconds: short work needs none.
    """

    def __init__(self, show: Show, total: int, what: str, *, done: int = 0) -> None:
        """Begin, with `done` of `total` things done already by an earlier process."""
        self._show, self._total, self._what = show, max(total, 1), what
        self._first = self.done = done
        self._begun = self._moved = self._said = time.monotonic()
        self._tenth = 10 * done // self._total

    def step(self) -> None:
        """Take note of one more."""
        self.done += 1
        now = time.monotonic()
        if now - self._moved >= _MOVE:
            self._moved = now
            self._show.step(f"{self.done:,} of {self._total:,} {self._what}", min(1.0, self.done / self._total))
        tenth = 10 * self.done // self._total
        due = tenth > self._tenth or now - self._said >= _PAUSE
        if due and self.done < self._total and now - self._begun >= _SHORT:
            self._tenth, self._said = tenth, now
            self._show.epoch(self._line(now))

    @property
    def seconds(self) -> float:
        """Return how long this process has worked."""
        return time.monotonic() - self._begun

    @property
    def rate(self) -> float:
        """Return the things done per second by this process."""
        return (self.done - self._first) / max(self.seconds, 1e-9)

    def _line(self, now: float) -> str:
        left = in_words((now - self._begun) * (self._total - self.done) / (self.done - self._first))
        return f"{self.done:,} of {self._total:,} {self._what}  {in_words(now - self._begun)}  left {left}"
