"""Where the faces are in a picture: what a detector is."""

from dataclasses import dataclass
from typing import Protocol

from PIL import Image

Point = tuple[float, float]


@dataclass(frozen=True)
class Found:
    """A face that a detector found, in pixels of the picture; it may reach over the edge.

    Attributes:
        x: left edge.
        y: top edge.
        w: width.
        h: height.
        score: of the detector, in [0, 1].
        landmarks: right eye, left eye, tip of the nose, right and left corner of the mouth, as the viewed person has
            them; empty where the detector gives none.
    """

    x: float
    y: float
    w: float
    h: float
    score: float
    landmarks: tuple[Point, ...] = ()


class Detector(Protocol):
    """Finds faces."""

    name: str

    def find(self, picture: Image.Image) -> tuple[Found, ...]:
        """Return the faces of an upright picture of mode L or RGB, the largest first."""
        ...
