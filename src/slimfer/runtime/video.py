"""Expressions in cameras, video files and streams: every face followed, every answer smoothed.

Example:
    >>> for moment in watch("clip.mp4", Recognizer()):  # doctest: +SKIP
    ...     print(moment.seconds, [(face.track, face.label) for face in moment.smoothed.faces])

Whoever needs the pictures, too, opens the video: `with open_video(source) as video: for frame in video:
Watcher(recognizer).read(frame)`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from slimfer.calibration import Calibration
from slimfer.errors import InputError
from slimfer.images import MAX_PIXELS
from slimfer.runtime.answer import Face, Prediction
from slimfer.runtime.capture import Capture
from slimfer.runtime.pictures import ANIMATED, Animation, FrameFolder
from slimfer.runtime.reader import Frame, Reader, Source
from slimfer.runtime.track import Floats, Smoother, Tracker

SMOOTHING = 0.5  # seconds; the half-life of an answer unless told otherwise
TIMEOUT = 10.0  # seconds; how long opening and each frame may take unless told otherwise


class Reads(Protocol):
    """What answers for one upright picture; `Recognizer` does."""

    threshold: float
    calibration: Calibration

    def read(self, picture: Image.Image, path: str | None = None) -> Prediction:
        """Return what the faces of a picture show."""
        ...


@dataclass(frozen=True)
class Moment:
    """The answer for one frame.

    Attributes:
        frame: how many frames of the source came before it, those not read included.
        seconds: its time in the video; of a live source since the first frame.
        prediction: as the model answers for this frame alone; faces have their tracks.
        smoothed: the same with label, score, scores, confidence and uncertain of every face averaged over its track.
        smoothing: half-life of that average in seconds; 0 if it is none.
    """

    frame: int
    seconds: float
    prediction: Prediction
    smoothed: Prediction
    smoothing: float


class Watcher:
    """Reads one frame after the other of one video, and remembers its faces."""

    def __init__(self, recognizer: Reads, *, smoothing: float = SMOOTHING) -> None:
        """Begin.

        Args:
            recognizer: what answers for one frame.
            smoothing: seconds after which an answer has half of its weight; 0 for none.

        Raises:
            InputError: if `smoothing` is negative.
        """
        self._recognizer, self._tracker, self._smoother = recognizer, Tracker(), Smoother(smoothing)

    def read(self, frame: Frame) -> Moment:
        """Return the answer for the next frame."""
        raw = self._recognizer.read(frame.picture)
        tracks = self._tracker.update(frame.seconds, [face.box for face in raw.faces])
        faces = tuple(replace(face, track=track) for face, track in zip(raw.faces, tracks, strict=True))
        smooth = self._smoother.update(frame.seconds, tracks, [np.array([*face.scores.values()]) for face in faces])
        averaged = tuple(map(self._averaged, faces, smooth))
        status = ("low_confidence" if averaged[0].uncertain else "ok") if averaged else raw.status
        return Moment(
            frame.number,
            frame.seconds,
            replace(raw, faces=faces),
            replace(raw, faces=averaged, status=status),
            self._smoother.half_life,
        )

    def _averaged(self, face: Face, probabilities: Floats) -> Face:
        """Return the face with these probabilities."""
        scores = dict(zip(face.scores, probabilities.tolist(), strict=True))
        label = max(scores, key=scores.__getitem__)
        confidence = float(self._recognizer.calibration.confidence(probabilities[None].astype(np.float32))[0])
        return replace(
            face,
            label=label,
            score=scores[label],
            scores=scores,
            confidence=confidence,
            uncertain=confidence < self._recognizer.threshold,
        )


def watch(
    source: int | str | Path,
    recognizer: Reads,
    *,
    smoothing: float = SMOOTHING,
    stride: int = 1,
    real_time: bool = False,
    fps: float | None = None,
    timeout: float = TIMEOUT,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Moment]:
    """Give the answer for every frame of a video, or for those of a live source that there is time for.

    Args:
        source: see `open_video`, as for all that follows.
        recognizer: what answers for one frame.
        smoothing: seconds after which an answer has half of its weight; 0 for none.
        stride: read every n-th frame.
        real_time: read a file at the speed of the video, and skip what there is no time for.
        fps: frames per second of a folder of frames.
        timeout: seconds that opening, and every frame, may take.
        max_pixels: most pixels of a frame.

    Raises:
        InputError: with the first moment if the source cannot be opened or an argument is out of range; later if it
            stalls.
    """
    watcher = Watcher(recognizer, smoothing=smoothing)
    with open_video(
        source, stride=stride, real_time=real_time, fps=fps, timeout=timeout, max_pixels=max_pixels
    ) as video:
        for frame in video:
            yield watcher.read(frame)


def open_video(
    source: int | str | Path,
    *,
    stride: int = 1,
    real_time: bool = False,
    fps: float | None = None,
    timeout: float = TIMEOUT,
    max_pixels: int = MAX_PIXELS,
) -> Reader:
    """Open the frames of a camera, a file, a folder or a stream.

    Animated pictures (GIF, WebP, APNG) and folders of pictures need nothing; all else needs `slimfer[video]`.

    Args:
        source: number of a camera or its device, path of a video file, an animated picture or a folder of frames, or
            the address of a stream (`rtsp://...`, `http://...`).
        stride: give every n-th frame.
        real_time: give a file's frames at the speed of the video; those that nobody takes in time are skipped.
        fps: frames per second of a folder of frames; 25 unless told otherwise.
        timeout: seconds that opening, and every frame, may take.
        max_pixels: most pixels of a frame.

    Raises:
        InputError: if it cannot be opened, or an argument is out of range.
    """
    if stride < 1:
        raise InputError(f"stride must be 1 or more, not {stride}")
    if not 0 < timeout < float("inf"):
        raise InputError(f"timeout must be more than 0 seconds, not {timeout}")
    name = _name(source)
    if fps is not None and not 0 < fps <= 1000:
        raise InputError(f"fps must be above 0 and at most 1000, not {fps}")
    if fps is not None and not Path(str(source)).is_dir():
        raise InputError(f"fps is for a folder of frames; {name} has a rate of its own")

    def opened() -> Source:
        if str(source).isdecimal():
            return Capture(int(str(source)), name=name, max_pixels=max_pixels, timeout=timeout)
        path = Path(str(source))
        if "://" not in str(source):
            if path.is_dir():
                return FrameFolder(path, fps=fps or 25.0, max_pixels=max_pixels)
            if not path.exists():
                raise InputError(f"{source}: no such camera, file, folder or stream")
            if path.suffix.lower() in ANIMATED:
                return Animation(path, max_pixels=max_pixels)
        return Capture(str(source), name=name, max_pixels=max_pixels, timeout=timeout)

    return Reader(opened, name=name, stride=stride, real_time=real_time, timeout=timeout)


def _name(source: int | str | Path) -> str:
    """Return what messages call a source: a stream without the password in its address."""
    text = str(source)
    if text.isdecimal():
        return f"camera {text}"
    scheme, mark, rest = text.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}" if mark else text
