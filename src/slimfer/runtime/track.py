"""Which face of this frame is which face of the last one, and answers that do not flicker.

Faces are followed by their boxes alone: where a face would be if it went on as before, against what was found, by
overlap and by distance. Nothing is recognized: a person who leaves and comes back later is a new track.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slimfer.errors import InputError
from slimfer.runtime.answer import Box

MEMORY = 1.0  # seconds that a face may be missing and keep its number
_REACH = 1.0  # how far from the expected place, in sizes of the face
_RATIO = 2.0  # how much larger or smaller it may be than when last seen
_COAST = 0.5  # seconds for which a motion is believed to go on
_INSTANT = 0.001  # seconds; in less than that nothing moves, clocks do

Floats = npt.NDArray[np.float64]


@dataclass
class _Track:
    """One face that is followed: its number, when and where it was last seen, pixels per second."""

    number: int
    seen: float
    box: Floats
    velocity: Floats


class Tracker:
    """Gives every face the number of its track; numbers begin at 1 and are never used again.

    Example:
        >>> tracker = Tracker()
        >>> tracker.update(0.0, [Box(10, 10, 50, 50)]), tracker.update(0.04, [Box(12, 10, 50, 50)])
        ((1,), (1,))
    """

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._given = 0

    def update(self, seconds: float, boxes: Sequence[Box]) -> tuple[int, ...]:
        """Return the track of each box, in their order; all differ, and the order changes none of them.

        Args:
            seconds: time of the frame; never smaller than that of the frame before.
            boxes: where the faces are, in pixels.
        """
        self._tracks = [track for track in self._tracks if seconds - track.seen <= MEMORY]
        # Among equals the order decides, so it must be one that the caller's order does not change.
        order = sorted(range(len(boxes)), key=lambda i: (-boxes[i].area, boxes[i].x, boxes[i].y, boxes[i].w))
        found = np.array([_middle_and_size(boxes[i]) for i in order]).reshape(-1, 4)
        likeness = _likeness(np.array([_expected(t, seconds) for t in self._tracks]).reshape(-1, 4), found)
        numbers = [0] * len(boxes)
        while likeness.size and (best := int(likeness.argmax())) >= 0:
            row, column = divmod(best, likeness.shape[1])
            if likeness[row, column] <= 0:
                break
            likeness[row], likeness[:, column] = 0, 0
            _move(self._tracks[row], seconds, found[column])
            numbers[order[column]] = self._tracks[row].number
        for column, index in enumerate(order):
            if not numbers[index]:
                self._given += 1
                self._tracks.append(_Track(self._given, seconds, found[column], np.zeros(2)))
                numbers[index] = self._given
        return tuple(numbers)


class Smoother:
    """Averages the probabilities of each track over time: an answer of age t weighs 2^(-t / half_life).

    That is an exponential moving average, without the usual fault that the first answer of all weighs most for long.
    Age is counted in seconds and not in frames, so frames that are skipped do not stretch it.
    """

    def __init__(self, half_life: float) -> None:
        """Begin; `half_life` in seconds, 0 smooths nothing.

        Raises:
            InputError: if it is negative or not a number.
        """
        if not 0 <= half_life < float("inf"):
            raise InputError(f"smoothing must be 0 or more seconds, not {half_life}")
        self.half_life = half_life
        self._kept: dict[int, tuple[float, float, Floats]] = {}  # time, sum of weights, average

    def update(self, seconds: float, tracks: Sequence[int], probabilities: Sequence[Floats]) -> list[Floats]:
        """Return the smoothed probabilities of each track, in their order.

        Args:
            seconds: time of the frame; never smaller than that of the frame before.
            tracks: of this frame, all different.
            probabilities: (K,) of each, which sum to 1; so do the results.
        """
        self._kept = {number: kept for number, kept in self._kept.items() if seconds - kept[0] <= MEMORY}
        return [self._smooth(seconds, *pair) for pair in zip(tracks, probabilities, strict=True)]

    def _smooth(self, seconds: float, track: int, new: Floats) -> Floats:
        if not self.half_life:
            return new
        then, weight, old = self._kept.get(track, (seconds, 0.0, new))
        weight = weight * 2 ** ((then - seconds) / self.half_life) + 1
        average = old + (new - old) / weight
        self._kept[track] = (seconds, weight, average)
        return average


def _middle_and_size(box: Box) -> tuple[float, float, float, float]:
    return box.x + box.w / 2, box.y + box.h / 2, box.w, box.h


def _expected(track: _Track, seconds: float) -> Floats:
    """Return middle and size where the face is by now if it went on as before."""
    box = track.box.copy()
    box[:2] += track.velocity * min(seconds - track.seen, _COAST)
    return box


def _likeness(expected: Floats, found: Floats) -> Floats:
    """Return (T, N): overlap (IoU) plus nearness, 0..2; 0 where it cannot be the same face.

    Args:
        expected: (T, 4) middle and size.
        found: (N, 4) likewise.
    """
    a, b = expected[:, None], found[None]
    distance = np.hypot(*np.moveaxis(a[..., :2] - b[..., :2], -1, 0))
    overlap = np.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    overlap -= np.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    shared = overlap.clip(0).prod(-1)
    areas = a[..., 2:].prod(-1), b[..., 2:].prod(-1)
    sizes = np.sqrt(areas[0]).clip(1), np.sqrt(areas[1]).clip(1)
    nearness = 1 - distance / (_REACH * (sizes[0] + sizes[1]) / 2)
    alike = np.maximum(sizes[0] / sizes[1], sizes[1] / sizes[0]) <= _RATIO
    likeness: Floats = np.where(alike & (nearness > 0), nearness + shared / (areas[0] + areas[1] - shared).clip(1), 0)
    return likeness


def _move(track: _Track, seconds: float, found: Floats) -> None:
    """Take note that the face was found there; its velocity is the mean of the old one and the new one."""
    if (passed := seconds - track.seen) > _INSTANT:
        track.velocity = (track.velocity + (found[:2] - track.box[:2]) / passed) / 2
    track.seen, track.box = seconds, found
