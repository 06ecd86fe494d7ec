"""From a picture to a frozen answer: what applications call.

There is no face detector here yet: the picture given is the face, cropped and upright, and its box is the whole
picture.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from slimfer.artifact import Artifact
from slimfer.errors import InputError
from slimfer.images import read_image, to_pixels
from slimfer.runtime.openvino import RUNTIMES

Source = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]

# What may follow (H, W) in the shape of an array: gray, RGB, RGBA.
ENDINGS: tuple[tuple[int, ...], ...] = ((), (3,), (4,))


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the picture: left, top, width, height."""

    x: int
    y: int
    w: int
    h: int


@dataclass(frozen=True)
class Face:
    """One face and what it shows.

    Attributes:
        box: where it is.
        label: the most probable class.
        score: its probability.
        scores: all probabilities by class; they sum to 1.
        uncertain: whether the score is below the threshold of the recognizer.
        detection_score: of the face detector; None when the picture was given as a face.
        track: number of the person in a video; None otherwise.
    """

    box: Box
    label: str
    score: float
    scores: Mapping[str, float]
    uncertain: bool = False
    detection_score: float | None = None
    track: int | None = None


@dataclass(frozen=True)
class Prediction:
    """The answer for one picture; never an exception, whatever the picture is.

    Attributes:
        path: where the picture came from; None if not from a file.
        status: `ok`, or `unreadable`.
        width: of the picture in pixels; 0 if it is unreadable.
        height: likewise.
        faces: what was found.
        ms: milliseconds of `preprocess` (reading included) and `inference`.
        model: name of the artifact.
        version: of the artifact.
        error: why the picture is unreadable, one sentence; None otherwise.
    """

    path: str | None
    status: Literal["ok", "unreadable"]
    width: int = 0
    height: int = 0
    faces: tuple[Face, ...] = ()
    ms: Mapping[str, float] = field(default_factory=dict)
    model: str = ""
    version: str = ""
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; `error` is there only for unreadable pictures."""
        value = asdict(self)
        value["faces"] = list(value["faces"])
        if self.error is None:
            del value["error"]
        return value


class Recognizer:
    """Reads the expression of faces.

    Example:
        >>> Recognizer("model.onnx").predict("face.png").faces[0].label  # doctest: +SKIP
        'happy'
    """

    def __init__(
        self,
        model: str | Path | bytes | Artifact,
        *,
        threads: int = 1,
        threshold: float = 0.0,
        runtime: Literal["onnxruntime", "openvino"] = "onnxruntime",
    ) -> None:
        """Open a model.

        Args:
            model: path or bytes of an artifact.
            threads: CPU threads.
            threshold: faces whose best score is below are marked `uncertain`; in [0, 1].
            runtime: what runs the model; openvino is an extra.

        Raises:
            InputError: if the model cannot be opened, or threads or threshold are out of range.
        """
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold must be between 0 and 1, not {threshold}")
        self.session = RUNTIMES[runtime](model, threads=threads)
        self.threshold = threshold

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the class names in the order of the model's outputs."""
        return self.session.labels

    def predict(self, face: Source) -> Prediction:
        """Read one cropped face.

        Args:
            face: path or bytes of a picture file, a PIL picture, or a uint8 array (H, W), (H, W, 3) RGB or
                (H, W, 4) RGBA.

        Raises:
            InputError: if an array has another shape or type; a bad picture is no exception but a status.
        """
        path = str(face) if isinstance(face, (str, Path)) else None
        artifact = self.session.artifact
        about: dict[str, Any] = {"path": path, "model": artifact.name, "version": artifact.metadata["version"]}
        start = time.perf_counter()
        try:
            picture, pixels = _read(face, self.session.image, self.session.channels)
        except _Unreadable as error:
            return Prediction(**about, status="unreadable", ms={"preprocess": _ms(start)}, error=str(error))
        ready = time.perf_counter()
        probabilities = self.session.run(pixels[None])[0]
        ms = {"preprocess": 1e3 * (ready - start), "inference": _ms(ready)}
        return Prediction(
            **about,
            status="ok",
            width=picture.width,
            height=picture.height,
            faces=(self._face(picture, probabilities),),
            ms=ms,
        )

    def predict_many(self, faces: Iterable[Source]) -> Iterator[Prediction]:
        """Yield the answers for many faces, one at a time, in order."""
        return map(self.predict, faces)

    def _face(self, picture: Image.Image, probabilities: npt.NDArray[np.float32]) -> Face:
        best = int(probabilities.argmax())
        score = float(probabilities[best])
        return Face(
            box=Box(0, 0, picture.width, picture.height),
            label=self.labels[best],
            score=score,
            scores=dict(zip(self.labels, probabilities.tolist(), strict=True)),
            uncertain=score < self.threshold,
        )


class _Unreadable(Exception):
    """The picture, not the call, is at fault."""


def _read(face: Source, side: int, channels: int) -> tuple[Image.Image, npt.NDArray[np.uint8]]:
    """Return the decoded, upright picture and the pixels that the network reads."""
    if isinstance(face, np.ndarray):
        _check_array(face)
    try:
        if isinstance(face, np.ndarray):
            picture = Image.fromarray(np.ascontiguousarray(face))
        elif isinstance(face, Image.Image):
            picture = ImageOps.exif_transpose(face)
        else:
            picture = read_image(face if isinstance(face, bytes) else Path(face).read_bytes())
        return picture, to_pixels(picture, side, channels)
    except OSError as error:
        raise _Unreadable(error.strerror or str(error)) from None
    except Exception as error:  # decoders raise whatever they like for damaged input
        raise _Unreadable(str(error)) from None


def _check_array(array: npt.NDArray[np.uint8]) -> None:
    if array.dtype != np.uint8 or array.ndim < 2 or array.shape[2:] not in ENDINGS or array.size == 0:
        raise InputError(f"a face must be uint8 (H, W), (H, W, 3) or (H, W, 4), not {array.dtype} {array.shape}")


def _ms(start: float) -> float:
    return 1e3 * (time.perf_counter() - start)
