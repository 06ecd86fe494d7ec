"""`slimfer watch`."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.table import Table

from slimfer.cli.classifier import Runtime
from slimfer.cli.common import Answer, Common, note, table
from slimfer.cli.opening import open_recognizer
from slimfer.cli.progress import Pace, showing
from slimfer.cli.sinks import printable
from slimfer.errors import InputError
from slimfer.report.numbers import percent

if TYPE_CHECKING:
    from slimfer.runtime.predict import Recognizer
    from slimfer.runtime.reader import Frame, Reader
    from slimfer.runtime.video import Moment, Watcher

    Taker = Callable[[Frame, Moment], None]  # what is done with each frame and its answer

PORT = 8650
_WAIT = 30.0  # seconds for which a file waits for its first viewer
_INTERRUPTED = 130


def watch(
    source: str,
    /,
    *,
    model: Annotated[str | None, Parameter(alias="-m")] = None,
    out: Annotated[Path | None, Parameter(alias="-o", allow_leading_hyphen=True)] = None,
    annotate: Path | None = None,
    force: bool = False,
    no_page: bool = False,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65535))] = PORT,
    smoothing: Annotated[float, Parameter(validator=Number(gte=0, lte=3600))] = 0.5,
    stride: Annotated[int, Parameter(validator=Number(gte=1))] = 1,
    seconds: Annotated[float | None, Parameter(validator=Number(gt=0))] = None,
    fps: Annotated[float | None, Parameter(validator=Number(gt=0, lte=1000))] = None,
    timeout: Annotated[float, Parameter(validator=Number(gt=0, lte=3600))] = 10.0,
    no_detect: bool = False,
    detector: Path | None = None,
    threshold: Annotated[float | None, Parameter(validator=Number(gte=0, lte=1))] = None,
    runtime: Runtime = "onnxruntime",
    common: Common = Common(),
) -> Answer:
    """Follow faces and their expressions in a camera, a video or a stream: a page on this machine, or files.

    Args:
        source: number of a camera (0), a video file, an animated picture, a folder of frames, or the address of a
            stream (rtsp://..., http://...).
        model: a model that ships (slimfer models), an .onnx artifact, a run folder or a checkpoint; without it, the
            first that ships.
        out: write the answers to this file (.jsonl, .csv), one row per face and frame; - is stdout.
        annotate: write the video with boxes and labels to this file (.mp4, .mov, .mkv, .avi), without sound.
        force: write over files that are there.
        no_page: show nothing; a file is read as fast as it goes.
        host: address that the page is at; any other than that of this machine alone lets others watch.
        port: port of the page; 0 takes any that is free.
        smoothing: seconds after which an answer has half of its weight in the average of its face; 0 is no average.
        stride: read every n-th frame.
        seconds: stop after so many seconds of video.
        fps: frames per second of a folder of frames; 25 without it.
        timeout: seconds that opening, and every frame, may take.
        no_detect: every frame is one face, cropped and upright.
        detector: the face detector's file; without it SLIMFER_DETECTOR, then the cache.
        threshold: faces whose confidence is below it are marked uncertain; without it, the model's own.
        runtime: see flags.
        common: see `Common`.
    """
    from slimfer.runtime.video import Watcher, open_video

    if common.json and str(out) == "-":
        raise InputError("--json and --out - both write to stdout; give one of them")
    for file in (out, annotate):
        _check(file, source, force)
    settings = {"threshold": threshold, "detect": not no_detect, "detector": detector}
    recognizer = open_recognizer(model, runtime, threads=common.thread_count(), **settings)
    _try(recognizer)
    watcher = Watcher(recognizer, smoothing=smoothing)
    tally = _Tally(smoothing)
    with ExitStack() as stack:
        stack.enter_context(_terminated_as_interrupted())
        real_time = not no_page
        video = stack.enter_context(open_video(source, stride=stride, real_time=real_time, fps=fps, timeout=timeout))
        takers: list[Taker] = [tally.add]
        if out is not None:
            takers.append(stack.enter_context(_rows(out, recognizer.labels)))
        if annotate is not None:
            takers.append(stack.enter_context(_marked(annotate, video.fps / stride)))
        try:
            if not no_page:
                takers.append(stack.enter_context(_page(host, port, video)))
            elif video.total and not common.quiet:
                takers.append(stack.enter_context(_progress(common, -(-video.total // stride))))
            _follow(video, watcher, takers, seconds)
        except KeyboardInterrupt:
            tally.interrupted = True
        except InputError as error:
            if not tally.answered:
                raise
            tally.failure = error
    files = [str(file) for file in (out, annotate) if file is not None]
    return tally.answer(video, files, common, to_stdout=str(out) == "-")


def _follow(video: "Reader", watcher: "Watcher", takers: "list[Taker]", seconds: float | None) -> None:
    """Answer for every frame and hand it to all takers.

    Raises:
        InputError: if the video fails.
    """
    for frame in video:
        if seconds is not None and frame.seconds >= seconds:
            return
        moment = watcher.read(frame)
        for take in takers:
            take(frame, moment)


@dataclass
class _Tally:
    """What has been seen: numbers alone, however long it goes on."""

    smoothing: float
    answered: int = 0
    faces: int = 0
    tracks: int = 0
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    expressions: Counter[str] = field(default_factory=Counter)
    interrupted: bool = False
    failure: InputError | None = None
    begun: float = field(default_factory=time.monotonic)
    ended: float = 0.0

    def add(self, frame: "Frame", moment: "Moment") -> None:
        """Count a frame."""
        faces = moment.smoothed.faces
        if not self.answered:
            self.begun = time.monotonic()  # a page may have waited for its viewer
        self.answered += 1
        self.faces += len(faces)
        self.tracks = max(self.tracks, *(face.track or 0 for face in faces), 0)
        self.seconds = frame.seconds
        self.statuses[moment.smoothed.status] += 1
        self.expressions.update(face.label for face in faces)
        self.ended = time.monotonic()

    def answer(self, video: "Reader", files: list[str], common: Common, *, to_stdout: bool) -> Answer:
        """Return the answer of the verb, and say on stderr how it ended."""
        passed = self.ended - self.begun
        rate = (self.answered - 1) / passed if passed > 0 else 0.0
        document = {
            "source": video.name,
            "frames": video.read,
            "answered": self.answered,
            "skipped": video.skipped,
            "seconds": round(self.seconds, 3),
            "fps": round(rate, 2),
            "tracks": self.tracks,
            "faces": self.faces,
            "statuses": dict(self.statuses),
            "expressions": dict(self.expressions),
            "smoothing": self.smoothing,
            "files": files,
            "note": video.note,
            "interrupted": self.interrupted,
        }
        if not common.quiet:
            skipped = f", {video.skipped:,} skipped to keep up" if video.skipped else ""
            counts = f"{video.read:,} frames, {self.answered:,} answered{skipped}; {rate:.3g} frames/s"
            note(f"{printable(video.name)}: {counts}")
        if video.note:
            note(printable(video.note))
        if self.interrupted:
            note("interrupted")
        shown = () if to_stdout or not self.answered else (self._view(),)
        code = _INTERRUPTED if self.interrupted else 0
        if to_stdout and not common.json:
            return Answer(None, (), exit_code=code, failure=self.failure)
        return Answer(document, shown, exit_code=code, failure=self.failure)

    def _view(self) -> Table:
        """Return how often which expression was seen."""
        counted = [(label, f"{n:,}", percent(n / self.faces)) for label, n in self.expressions.most_common()]
        how = f"half-life {self.smoothing:g} s" if self.smoothing else "not smoothed"
        return table((f"expression ({how})", "faces", "share %"), counted)


@contextmanager
def _rows(out: Path, labels: tuple[str, ...]) -> "Iterator[Taker]":
    """Open a file of answers."""
    from slimfer.runtime.moments import MomentFile

    with MomentFile(out, labels) as file:
        yield lambda frame, moment: file.write(moment)


@contextmanager
def _marked(path: Path, fps: float) -> "Iterator[Taker]":
    """Open a video to write."""
    from slimfer.runtime.annotate import annotate
    from slimfer.runtime.capture import VideoFile

    with closing(VideoFile(path, fps)) as file:
        yield lambda frame, moment: file.write(annotate(frame.picture, moment.smoothed, enlarge=False), frame.seconds)


@contextmanager
def _page(host: str, port: int, video: "Reader") -> "Iterator[Taker]":
    """Open the page, and wait a little for its first viewer where the video would wait, too."""
    from slimfer.web.live import Live
    from slimfer.web.page import page_routes
    from slimfer.web.server import Server, is_loopback

    live = Live()
    with Server(page_routes(live, video.name), host=host, port=port) as server:
        note(f"watch at {server.url} (Ctrl-C ends)")
        if not is_loopback(host):
            note(f"warning: --host {host} lets everybody who reaches this machine watch; there is no password")
        if not video.live:
            note(f"the video begins when somebody looks, or in {_WAIT:.0f} s; --no-page reads it at once")
            live.wait_for_viewer(_WAIT)
        try:
            yield lambda frame, moment: live.show(
                frame.picture, moment, smoothing=moment.smoothing, read=video.read, skipped=video.skipped
            )
        finally:
            live.end(line=video.note or "slimfer watch has ended")


@contextmanager
def _progress(common: Common, total: int) -> "Iterator[Taker]":
    """Show how far a file has been read."""
    with showing(common) as show:
        pace = Pace(show, total, "frames")
        yield lambda frame, moment: pace.step()


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Make what service managers send (SIGTERM) a Ctrl-C, so that files are closed whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _try(recognizer: "Recognizer") -> None:
    """Read a black picture: every frame would be without an answer, and a camera need not be opened for that.

    Raises:
        InputError: if there is nothing that finds faces.
    """
    from PIL import Image

    prediction = recognizer.read(Image.new("RGB", (64, 64)))
    if prediction.status == "no_detector":
        raise InputError(f"{prediction.error}; or --no-detect, if the frames are faces")


def _check(file: Path | None, source: str, force: bool) -> None:
    """Refuse to write over what is there.

    Raises:
        InputError: if the file is there and not to be replaced, or is what is watched.
    """
    if file is None or not file.exists():
        return
    if Path(source).exists() and file.samefile(source):
        raise InputError(f"{file} is the video that is read")
    if not force:
        raise InputError(f"{file} exists; --force writes over it")
