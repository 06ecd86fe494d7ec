"""Videos and recognizers that the tests of video share."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from slimfer.calibration import Calibration
from slimfer.labels import EMOTIONS
from slimfer.runtime.answer import Box, Face, Prediction
from slimfer.runtime.opencv import load

SIZE = (96, 64)


def gray(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """A frame that knows its number: six stripes, black or white, as the bits of a number below 64."""
    bits = np.array([number >> bit & 1 for bit in range(6)], np.uint8) * 255
    return Image.fromarray(bits[None]).resize(size, Image.Resampling.NEAREST).convert("RGB")


def number_in(picture: Image.Image) -> int:
    bits = np.asarray(picture.convert("L").resize((6, 1), Image.Resampling.BOX))[0] > 128
    return sum(1 << bit for bit in range(6) if bits[bit])


def write_video(path: Path, frames: int, *, fps: float = 25, size: tuple[int, int] = SIZE) -> Path:
    cv2 = load()
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), fps, size)
    for number in range(frames):
        writer.write(np.asarray(gray(number, size)))
    writer.release()
    return path


def write_gif(path: Path, frames: int, *, duration: int = 40) -> Path:
    first, *others = (gray(number) for number in range(frames))
    first.save(path, save_all=True, append_images=others, duration=duration, disposal=1)
    return path


class Stub:
    """Answers without looking: one face that wanders, whose probabilities are those of `scores`."""

    threshold = 0.0
    calibration = Calibration()
    labels = EMOTIONS

    def __init__(self, scores: Callable[[int], list[float]] | None = None, *, seconds: float = 0, faces: int = 1):
        self.scores, self.seconds, self.faces, self.calls = scores, seconds, faces, 0

    def read(self, picture: Image.Image, path: str | None = None) -> Prediction:
        time.sleep(self.seconds)
        values = self.scores(self.calls) if self.scores else [0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
        self.calls += 1
        scores = dict(zip(EMOTIONS, values, strict=True))
        label = max(scores, key=scores.__getitem__)
        sure = float(self.calibration.confidence(np.array([values], np.float32))[0])
        boxes = [Box(20 * i, 10, 15, 15) for i in range(self.faces)]
        faces = tuple(Face(box, label, scores[label], scores, sure, detection_score=0.9) for box in boxes)
        status = "ok" if faces else "no_face"
        return Prediction(path, status, *picture.size, faces, {"detect": 1.0}, "stub", "1")


class FakeSource:
    """A source that does as it is told: a list of frames' times, and what happens instead of a frame."""

    def __init__(self, times: list[float | None], *, live: bool = False, total: int | None = None, fps: float = 25,
                 act: Callable[[int], None] = lambda number: None):  # fmt: skip
        self.times, self.live, self.total, self.fps, self.act = times, live, total, fps, act
        self.note: str | None = None
        self.given = 0
        self.unwanted = 0
        self.closed = False

    def read(self, wanted: bool):
        self.act(self.given)
        if self.given == len(self.times):
            return None
        number = self.given
        self.given += 1
        self.unwanted += not wanted
        return self.times[number], lambda: gray(number)

    def close(self) -> None:
        self.closed = True
