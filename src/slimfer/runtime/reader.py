"""Reading ahead in a thread: a source that hangs is noticed, one that is too fast is kept up with, none is waited for.

OpenCV's read never returns when a camera or a stream dies at the wrong moment (opencv #4468, #24393), so it runs in a
thread of its own and is given a deadline. A live source is read as fast as it comes, and only its newest frame is kept;
a file waits for its reader.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from PIL import Image

from slimfer.errors import InputError

_AHEAD = 2  # frames of a file that are decoded while one is worked on
_LEAP = 10.0  # seconds; a longer pause between two frames is a leap of the clock and is not waited for
_GIVEN_UP = 0.9  # an end that comes after this share of the timeout is FFmpeg's own timeout
_LEAVE = 1.0  # seconds to wait for a thread to end; one that hangs is left behind

Picture = Callable[[], Image.Image]


class Source(Protocol):
    """What gives frames one after the other; `Capture`, `Animation` and `FrameFolder` do."""

    note: str | None

    @property
    def live(self) -> bool:
        """Whether frames come when they come; a file waits."""
        ...

    @property
    def fps(self) -> float:
        """Return frames per second as the source says."""
        ...

    @property
    def total(self) -> int | None:
        """Return frames as the source says; None if it does not."""
        ...

    def read(self, wanted: bool) -> tuple[float | None, Picture] | None:
        """Return time and picture of the next frame; None at the end."""
        ...

    def close(self) -> None:
        """Let go of the source."""
        ...


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        number: how many frames of the source came before it.
        seconds: its time in the video; of a live source since the first frame.
        picture: upright, RGB.
    """

    number: int
    seconds: float
    picture: Image.Image = field(repr=False)


class Reader:
    """The frames of a source, each once, in order; a context manager.

    Attributes:
        name: of the source.
        live: whether it is a camera or a stream.
        fps: frames per second as the source says.
        total: frames as the source says; None if it does not.
        read: frames that came so far.
        skipped: those of them that were not given because newer ones had come.
        note: what was wrong in the end, one sentence; None if nothing was.
    """

    def __init__(
        self, open_source: Callable[[], Source], *, name: str, stride: int = 1, real_time: bool = False, timeout: float
    ) -> None:
        """Open the source; reading begins with the first frame that is asked for.

        Args:
            open_source: opens it; is called in the thread that reads.
            name: what messages call it.
            stride: give every n-th frame.
            real_time: give a file's frames at the speed of the video.
            timeout: seconds that opening, and every frame, may take.

        Raises:
            InputError: if it cannot be opened in that time.
        """
        self.name, self._stride, self._real_time, self._timeout = name, stride, real_time, timeout
        self.read = self.skipped = 0
        self.note: str | None = None
        self._change = threading.Condition()
        self._queue: deque[tuple[int, float, Picture]] = deque()
        self._source: Source | None = None
        self._error: Exception | None = None
        self._ended = self._stopped = self._asked = False
        self._since: float | None = time.monotonic()  # when the call of the source began that is under way
        self._thread = threading.Thread(target=self._run, args=(open_source,), daemon=True, name="slimfer-reader")
        self._thread.start()
        try:
            with self._change:
                self._wait(lambda: self._source is not None or self._ended, f"does not open within {timeout:g} s")
        except KeyboardInterrupt:
            self.close()
            raise
        source = self._source
        if source is None:
            raise self._error or InputError(f"{name} cannot be read")
        self.live: bool = source.live
        self.fps: float = source.fps
        self.total: int | None = source.total

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        """Return the next frame.

        Raises:
            StopIteration: at the end.
            InputError: if none comes in time, there never was one, or the source fails.
        """
        with self._change:
            self._asked = True
            self._change.notify_all()
            self._wait(lambda: bool(self._queue) or self._ended, f"has sent no frame for {self._timeout:g} s")
            if not self._queue:
                if self._error is not None:
                    raise self._error
                if not self.read and not self._stopped:
                    raise InputError(f"{self.name} has no frames{f': {self.note}' if self.note else ''}")
                raise StopIteration
            number, seconds, picture = self._queue.popleft()
            self._change.notify_all()
        return Frame(number, seconds, picture())

    def close(self) -> None:
        """Stop reading; a thread that hangs in the source is left behind and ends with the process."""
        with self._change:
            self._stopped = True
            self._queue.clear()
            self._change.notify_all()
        self._thread.join(_LEAVE)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _wait(self, ready: Callable[[], bool], complaint: str) -> None:
        """Wait until `ready`, with the lock held; a call of the source that takes too long ends it.

        Raises:
            InputError: if it does.
        """
        while not ready():
            now = time.monotonic()
            deadline = (now if self._since is None else self._since) + self._timeout
            if now >= deadline:
                self._stopped = True
                raise InputError(f"{self.name} {complaint}")
            self._change.wait(deadline - now)

    def _run(self, open_source: Callable[[], Source]) -> None:
        """Open, read to the end and close; all in this one thread."""
        source: Source | None = None
        try:
            source = open_source()
            with self._change:
                self._source, self._since = source, None
                self._change.notify_all()
                self._change.wait_for(lambda: self._asked or self._stopped)
            self._read(source)
        except InputError as error:
            self._error = error
        # Whatever a library raises for what comes from outside is the source's fault; the sentence keeps its words.
        except Exception as error:
            self._error = InputError(f"{self.name} cannot be read ({type(error).__name__}: {error})")
        finally:
            if source is not None:
                source.close()
            with self._change:
                self._ended, self._since = True, None
                self._change.notify_all()

    def _read(self, source: Source) -> None:
        begun = clock = last = -1.0
        while not self._stopped:
            wanted = self.read % self._stride == 0
            self._since = asked = time.monotonic()
            got = source.read(wanted)
            now = time.monotonic()
            self._since = None
            if got is None:
                self._end(source, waited=now - asked)
                return
            begun = now if begun < 0 else begun
            seconds = now - begun if source.live else _time(got[0], last, source.fps)
            if self._real_time and not source.live:
                clock = now - seconds if clock < 0 or clock + seconds > now + _LEAP else clock
                with self._change:
                    self._change.wait_for(lambda: self._stopped, clock + seconds - now)
            last = seconds
            self._put((self.read, seconds, got[1]) if wanted else None, newest=source.live or self._real_time)

    def _put(self, frame: tuple[int, float, Picture] | None, *, newest: bool) -> None:
        """Count a frame and hand it over: at once in place of those not taken yet, or as soon as there is room."""
        with self._change:
            self.read += 1
            if frame is None:
                return
            if newest:
                self.skipped += len(self._queue)
                self._queue.clear()
            else:
                self._change.wait_for(lambda: len(self._queue) < _AHEAD or self._stopped)
            if not self._stopped:
                self._queue.append(frame)
            self._change.notify_all()

    def _end(self, source: Source, *, waited: float) -> None:
        """Say why there are no more frames, if that is not as it should be."""
        self.note = source.note
        if waited > self._timeout * _GIVEN_UP:
            self._error = InputError(f"{self.name} has sent no frame for {self._timeout:g} s")
        elif self.note is None and source.live:
            self.note = f"{self.name} sends no more frames"
        elif self.note is None and source.total is not None and self.read < min(source.total - 2, source.total * 0.98):
            self.note = f"{self.name} ends after {self.read} of {source.total} frames; it is damaged or cut off"


def _time(told: float | None, last: float, fps: float) -> float:
    """Return the time of a frame: as told if that is later than the last one's, else one frame later."""
    if told is not None and told > last:
        return told
    return last + 1 / fps if last >= 0 else 0.0
