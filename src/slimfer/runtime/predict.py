"""From a picture to a frozen answer: what applications call."""

import stat
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, overload

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from slimfer.artifact import Artifact
from slimfer.errors import InputError
from slimfer.images import MAX_PIXELS, array_picture, check_size, plain, read_image, to_pixels
from slimfer.runtime.answer import Box, Face, Prediction
from slimfer.runtime.crop import box_of, face_pixels
from slimfer.runtime.detectors import open_detector
from slimfer.runtime.faces import Detector, Found
from slimfer.runtime.openvino import RUNTIMES
from slimfer.shipped import DEFAULT, model_file

Source = str | Path | bytes | bytearray | memoryview | BinaryIO | Image.Image | npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]

MAX_BYTES = 1 << 28  # of a picture file


class Recognizer:
    """Finds the faces of a picture and reads their expressions; several threads may share one.

    Example:
        >>> Recognizer()("photo.jpg").label  # doctest: +SKIP
        'happy'
    """

    def __init__(
        self,
        model: str | Path | bytes | Artifact | None = None,
        *,
        threads: int = 1,
        threshold: float | None = None,
        detect: bool = True,
        detector: str | Path | Detector | None = None,
        runtime: Literal["onnxruntime", "openvino"] = "onnxruntime",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Open a model; a detector of faces is looked for when the first picture comes.

        Args:
            model: name of a model that ships, path of an artifact or a run folder, or the bytes of an artifact; None is
                the first model that ships.
            threads: CPU threads.
            threshold: faces whose confidence is below are marked `uncertain`, in [0, 1]; None is the artifact's own.
            detect: whether to look for faces; without, every picture is taken as one face, cropped and upright.
            detector: what finds faces, or its file; None looks where `slimfer.runtime.detectors.open_detector` says.
            runtime: what runs the model; openvino is an extra.
            max_pixels: largest picture that is decoded.

        Raises:
            InputError: if the model or the detector named cannot be opened, or a number is out of range.
        """
        if threshold is not None and not 0 <= threshold <= 1:
            raise InputError(f"threshold must be between 0 and 1, not {threshold}")
        if max_pixels < 1:
            raise InputError(f"max_pixels must be at least 1, not {max_pixels}")
        if isinstance(model, str | Path) or model is None:
            model = model_file(model or DEFAULT, "artifact")
        self.session = RUNTIMES[runtime](model, threads=threads)
        self.calibration = self.session.artifact.calibration
        self.threshold = self.calibration.threshold if threshold is None else threshold
        self.max_pixels = max_pixels
        self.detect = detect
        self._finder = _Finder(detector, threads)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the class names in the order of the model's outputs."""
        return self.session.labels

    @overload
    def __call__(self, source: Source) -> Prediction: ...  # type: ignore[overload-overlap]  # open files iterate, too
    @overload
    def __call__(self, source: list[Source] | tuple[Source, ...]) -> list[Prediction]: ...
    @overload
    def __call__(self, source: Iterator[Source]) -> Iterator[Prediction]: ...
    def __call__(self, source: Any) -> Any:
        """Read one picture, or a list of them, or a stream of them (an iterator; answered one by one, as they come).

        Raises:
            InputError: if `source` is nothing that could be a picture; see `predict`.
        """
        if isinstance(source, list | tuple):
            return list(map(self.predict, source))
        return (
            self.predict_many(source) if isinstance(source, Iterator) and not _reads(source) else self.predict(source)
        )

    def predict(self, source: Source) -> Prediction:
        """Read one picture; whatever it is, the answer is a status and not an exception.

        Args:
            source: path, bytes or binary stream of a picture file, a PIL picture, or an array (H, W) gray, (H, W, 3)
                RGB or (H, W, 4) RGBA of uint8, uint16, bool or floats from 0 to 1.

        Raises:
            InputError: if `source` is none of these types.
        """
        return self.see(source)[0]

    def see(self, source: Source) -> tuple[Prediction, Image.Image | None]:
        """Read one picture as `predict`, and give the upright picture as well; None if it is unreadable.

        Raises:
            InputError: as `predict`.
        """
        start = time.perf_counter()
        path = str(source) if isinstance(source, str | Path) else None
        try:
            picture = self._picture(source)
        except _NotReadable as error:
            ms = {"preprocess": _ms(start)}
            return Prediction(**self._about(path), status="unreadable", ms=ms, error=str(error)), None
        return self._answer(picture, path, time.perf_counter() - start), picture

    def predict_many(self, sources: Iterable[Source]) -> Iterator[Prediction]:
        """Yield the answers for many pictures, one at a time, in order."""
        return map(self.predict, sources)

    def read(self, picture: Image.Image, path: str | None = None) -> Prediction:
        """Read one upright picture of mode L or RGB that is decoded already: what videos use for every frame."""
        return self._answer(picture, path, 0.0)

    def _answer(self, picture: Image.Image, path: str | None, decoding: float) -> Prediction:
        """Return the answer for an upright picture of mode L or RGB, whose reading took `decoding` seconds."""
        about = {**self._about(path), "width": picture.width, "height": picture.height}
        session, start = self.session, time.perf_counter()
        found: tuple[Found, ...] | None = None
        if self.detect:
            try:
                found = self._finder.get().find(picture)
            except InputError as error:
                return Prediction(**about, status="no_detector", ms={"preprocess": 1e3 * decoding}, error=str(error))
        detected = time.perf_counter()
        if found is None:
            boxes = [Box(0, 0, picture.width, picture.height)]
            pixels = to_pixels(picture, session.image, session.channels)[None]
        else:
            boxes = [box_of(face, picture.width, picture.height) for face in found]
            crops = [face_pixels(picture, face, session.image, session.channels) for face in found]
            pixels = np.stack(crops) if len(crops) > 1 else crops[0][None] if crops else np.empty((0,), np.uint8)
        ready = time.perf_counter()
        ms = {"detect": 1e3 * (detected - start)} if self.detect else {}
        ms["preprocess"] = 1e3 * (decoding + ready - detected)
        if not boxes:
            return Prediction(**about, status="no_face", ms=ms)
        probabilities = session.run(pixels)
        ms["inference"] = _ms(ready)
        confidences = self.calibration.confidence(probabilities)
        scores = [None] * len(boxes) if found is None else [face.score for face in found]
        faces = tuple(map(self._face, boxes, probabilities, confidences.tolist(), scores))
        return Prediction(**about, status="low_confidence" if faces[0].uncertain else "ok", faces=faces, ms=ms)

    def _face(self, box: Box, probabilities: npt.NDArray[np.float32], confidence: float, found: float | None) -> Face:
        best = int(probabilities.argmax())
        return Face(
            box=box,
            label=self.labels[best],
            score=float(probabilities[best]),
            scores=dict(zip(self.labels, probabilities.tolist(), strict=True)),
            confidence=confidence,
            uncertain=confidence < self.threshold,
            detection_score=found,
        )

    def _about(self, path: str | None) -> dict[str, Any]:
        artifact = self.session.artifact
        return {"path": path, "model": artifact.name, "version": artifact.metadata["version"]}

    def _picture(self, source: Source) -> Image.Image:
        """Return the upright picture of mode L or RGB."""
        if not isinstance(source, _TYPES) and not _reads(source):
            raise InputError(f"{type(source).__name__} is no picture; paths, bytes, PIL pictures and arrays are")
        try:
            if isinstance(source, np.ndarray):
                return array_picture(source)
            if isinstance(source, Image.Image):
                check_size(source, self.max_pixels)
                return plain(ImageOps.exif_transpose(source))
            if isinstance(source, str | Path):
                source = _contents(Path(source))
            elif not isinstance(source, bytes | bytearray | memoryview):
                source = source.read(MAX_BYTES + 1)
            data = bytes(source)
            if len(data) > MAX_BYTES:
                raise InputError(f"the file has more than {MAX_BYTES} bytes, the most that are read")
            return plain(read_image(data, max_pixels=self.max_pixels))
        except OSError as error:
            raise _NotReadable(error.strerror or str(error)) from None
        except Exception as error:  # decoders, and other people's streams, raise whatever they like
            raise _NotReadable(str(error) or type(error).__name__) from None


class _NotReadable(Exception):
    """The picture, not the call, is at fault."""


class _Finder:
    """The detector, opened when it is first needed, once for all threads; a failure stays one."""

    def __init__(self, detector: str | Path | Detector | None, threads: int) -> None:
        self._lock = threading.Lock()
        self._threads = threads
        self._failure = ""
        self._detector: Detector | None = None
        if isinstance(detector, str | Path):
            self._detector = open_detector(detector, threads=threads, say=_say)
        elif detector is not None:
            self._detector = detector

    def get(self) -> Detector:
        """Return the detector.

        Raises:
            InputError: if there is none; the sentence holds the remedy.
        """
        if self._detector is None:
            with self._lock:
                if self._failure:
                    raise InputError(self._failure)
                try:
                    self._detector = self._detector or open_detector(None, threads=self._threads, say=_say)
                except InputError as error:
                    self._failure = str(error)
                    raise
        return self._detector


_TYPES = (str, Path, bytes, bytearray, memoryview, Image.Image, np.ndarray)


def _reads(source: object) -> bool:
    """Whether `source` is a stream of bytes; open files are iterators as well."""
    return callable(getattr(source, "read", None))


def _contents(path: Path) -> bytes:
    """Return what is in a regular file: a pipe or a device might never end.

    Raises:
        OSError: if it cannot be read.
        InputError: if it is no regular file, or too large.
    """
    about = path.stat()
    if stat.S_ISDIR(about.st_mode):
        raise InputError("a folder, not a picture")
    if not stat.S_ISREG(about.st_mode):
        raise InputError("neither a file nor a folder (a pipe or a device?)")
    if about.st_size > MAX_BYTES:
        raise InputError(f"the file has {about.st_size} bytes, and {MAX_BYTES} are the most that are read")
    return path.read_bytes()


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _ms(start: float) -> float:
    return 1e3 * (time.perf_counter() - start)
