"""onnxruntime behind one door: the artifact is checked first, and errors are one sentence."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from slimfer.artifact import INPUT, OUTPUT, Artifact, open_artifact
from slimfer.errors import InputError

Pixels = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]

SILENT = 4  # onnxruntime's log level "fatal": what is wrong comes as an exception, not as text on the user's terminal


class Session:
    """A model, ready to run on the CPU.

    Attributes:
        artifact: the checked file.
        labels: class names in the order of the outputs.
        channels: 1 (gray) or 3 (RGB).
        image: height and width of the input in pixels.
    """

    runtime = "onnxruntime"

    def __init__(self, model: str | Path | bytes | Artifact, *, threads: int = 1, optimize: bool = True) -> None:
        """Open `model`.

        Args:
            model: path or bytes of an .onnx artifact, or an artifact that is open already.
            threads: CPU threads within one operator.
            optimize: let the runtime fuse operators; off only to check that this does not change the answers.

        Raises:
            InputError: if the file does not pass `slimfer.artifact.open_artifact`, or the runtime refuses it.
        """
        if threads < 1:
            raise InputError(f"threads must be at least 1, not {threads}")
        self.artifact = model if isinstance(model, Artifact) else open_artifact(model)
        self.labels = self.artifact.labels
        self.channels = self.artifact.channels
        self.image = self.artifact.image
        face = [self.channels, self.image, self.image]
        try:
            self._answer, takes, gives = self._open(threads, optimize)
            if takes != face or gives != [len(self.labels)]:
                raise InputError(f"{self.where}: the metadata does not fit the graph {takes} -> {gives}")
            self._answer(np.zeros((1, *face), np.uint8))  # some faults show only when it runs
        except InputError:
            raise
        except Exception as error:  # the exceptions of runtimes have no common type below Exception
            raise InputError(f"{self.where}: {self.runtime} refuses it ({' '.join(str(error).split())})") from None

    @property
    def where(self) -> str:
        """Return what messages call the model: its path, if it has one."""
        return str(self.artifact.path or "model")

    def run(self, images: Pixels) -> Probabilities:
        """Return (N, K) probabilities of faces (N, C, H, W).

        Raises:
            InputError: if the array is not uint8 of that shape.
        """
        expected = (self.channels, self.image, self.image)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
            raise InputError(f"faces must be uint8 {('N', *expected)}, not {images.dtype} {images.shape}")
        return self._answer(np.ascontiguousarray(images))

    def run_all(self, images: Pixels, *, batch: int = 256) -> Probabilities:
        """Return (N, K) probabilities of any number of faces (N, C, H, W), `batch` at a time; N may be 0."""
        rows = [self.run(images[start : start + batch]) for start in range(0, len(images), batch)]
        return np.concatenate(rows) if rows else np.zeros((0, len(self.labels)), np.float32)

    def _open(self, threads: int, optimize: bool) -> tuple[Callable[[Pixels], Probabilities], list[int], list[int]]:
        """Return what answers, and the shapes of one picture and of its answer as the runtime knows them."""
        levels = ort.GraphOptimizationLevel
        options = ort.SessionOptions()
        options.log_severity_level = SILENT
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
        session = ort.InferenceSession(self.artifact.data, options, providers=["CPUExecutionProvider"])
        takes, gives = session.get_inputs()[0].shape[1:], session.get_outputs()[0].shape[1:]
        return lambda images: session.run([OUTPUT], {INPUT: images})[0], takes, gives
