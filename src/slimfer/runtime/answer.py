"""What the runtime answers: frozen values with a status, the same for pictures, folders, video and the page."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Status = Literal["ok", "low_confidence", "no_face", "no_detector", "unreadable"]
NO_SCORES: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the upright picture, inside it: left, top, width, height."""

    x: int
    y: int
    w: int
    h: int

    @property
    def area(self) -> int:
        """Return the number of pixels inside."""
        return self.w * self.h


@dataclass(frozen=True)
class Face:
    """One face and what it shows.

    Attributes:
        box: where it is.
        label: the most probable class.
        score: its probability as the network gives it, in [0, 1].
        scores: all probabilities by class, in the order of the model's labels; they sum to 1.
        confidence: probability that `label` is right, calibrated as the artifact says; `score` where it says nothing.
        uncertain: whether the confidence is below the threshold of the recognizer.
        detection_score: of the face detector, in [0, 1]; None when the picture was given as a face.
        track: number of the person in a video; None otherwise.
    """

    box: Box
    label: str
    score: float
    scores: Mapping[str, float]
    confidence: float
    uncertain: bool = False
    detection_score: float | None = None
    track: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; `track` is there only in videos."""
        value = {**vars(self), "box": asdict(self.box), "scores": dict(self.scores)}
        if self.track is None:
            del value["track"]
        return value


@dataclass(frozen=True)
class Prediction:
    """The answer for one picture; never an exception, whatever the picture is.

    `label`, `score`, `scores`, `confidence` and `box` are those of the first face.

    Attributes:
        path: where the picture came from; None if not from a file.
        status: `ok`; `low_confidence` if the first face is uncertain; `no_face`; `no_detector` if there is nothing that
            could find faces; `unreadable`.
        width: of the upright picture in pixels; 0 if it is unreadable.
        height: likewise.
        faces: what was found, the largest first.
        ms: milliseconds of `detect`, `preprocess` (reading the file included) and `inference`.
        model: name of the artifact.
        version: of the artifact.
        error: what is wrong and what to do, one sentence, where the status is `no_detector` or `unreadable`.
    """

    path: str | None
    status: Status
    width: int = 0
    height: int = 0
    faces: tuple[Face, ...] = ()
    ms: Mapping[str, float] = field(default_factory=dict)
    model: str = ""
    version: str = ""
    error: str | None = None

    @property
    def label(self) -> str | None:
        """Return the most probable class of the first face; None without one."""
        return self.faces[0].label if self.faces else None

    @property
    def score(self) -> float | None:
        """Return the probability of `label`."""
        return self.faces[0].score if self.faces else None

    @property
    def scores(self) -> Mapping[str, float]:
        """Return all probabilities of the first face; empty without one."""
        return self.faces[0].scores if self.faces else NO_SCORES

    @property
    def confidence(self) -> float | None:
        """Return the calibrated probability that `label` is right."""
        return self.faces[0].confidence if self.faces else None

    @property
    def box(self) -> Box | None:
        """Return where the first face is."""
        return self.faces[0].box if self.faces else None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; `error` is there only where something is wrong."""
        value = {**vars(self), "faces": [face.to_dict() for face in self.faces], "ms": dict(self.ms)}
        if self.error is None:
            del value["error"]
        return value
