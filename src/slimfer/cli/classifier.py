"""One face for everything that classifies: checkpoints and untrained networks in torch, artifacts in their runtimes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from slimfer.cli.common import Common, torch_device
from slimfer.cli.resolve import ArtifactFile, CheckpointFile, Network, resolve
from slimfer.errors import InputError
from slimfer.labels import EMOTIONS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from slimfer.data.frames import Frames
    from slimfer.train.checkpoint import Checkpoint

RuntimeName = Literal["onnxruntime", "openvino"]
Runtime = Annotated[RuntimeName, Parameter(help="What runs an artifact; openvino is an extra, slimfer[openvino].")]


@dataclass(frozen=True)
class Classifier:
    """A network ready to run, and what it costs.

    Attributes:
        name: as the user called it.
        runtime: `torch`, `onnxruntime` or `openvino`.
        labels: class names in the order of the outputs.
        channels: 1 (gray) or 3 (RGB).
        image: height and width in pixels.
        cost: `params`, `macs`, `activations` and `bytes`, as far as they are known.
        run: from (N, channels, image, image) uint8 to (N, K) float32 probabilities.
    """

    name: str
    runtime: str
    labels: tuple[str, ...]
    channels: int
    image: int
    cost: dict[str, int]
    run: "Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]"

    def probabilities(self, frames: "Frames", batch_size: int = 256) -> "npt.NDArray[np.float32]":
        """Return (N, K) probabilities of a whole split."""
        import numpy as np

        starts = range(0, len(frames), batch_size)
        rows = [self.run(np.ascontiguousarray(frames.images[i : i + batch_size])) for i in starts]
        return np.concatenate(rows) if rows else np.zeros((0, len(self.labels)), np.float32)

    def stage(self, **measured: Any) -> dict[str, Any]:
        """Return a row of results.json's `stages` with what was measured."""
        title = f"{self.name}, {self.runtime}"
        return {"name": self.name, "title": title, "runtime": self.runtime, **self.cost, **measured}


def open_classifier(
    text: str, common: Common, *, trained: bool = True, runtime: RuntimeName = "onnxruntime"
) -> Classifier:
    """Open whatever MODEL names, on one thread unless the flags say otherwise.

    Args:
        text: MODEL.
        common: the flags.
        trained: refuse networks without trained weights.
        runtime: of artifacts; checkpoints run in torch.

    Raises:
        InputError: if it names nothing, the file is damaged, or it is untrained and must not be.
    """
    model = resolve(text)
    if isinstance(model, ArtifactFile):
        return _artifact(text, model, common.thread_count(), runtime)
    if isinstance(model, Network) and trained:
        raise InputError(f"{text} is an untrained network; first: slimfer train --model {text}")
    return from_checkpoint(text, _checkpoint(model), torch_device(common, threads=1))


def from_checkpoint(name: str, checkpoint: "Checkpoint", device: str = "cpu") -> Classifier:
    """Return a classifier that runs the checkpoint in torch."""
    import torch

    from slimfer.preprocess import normalize
    from slimfer.train.evaluate import softmax

    spec = checkpoint.spec
    net = checkpoint.build().to(device)

    def run(images: "npt.NDArray[np.uint8]") -> "npt.NDArray[np.float32]":
        with torch.inference_mode():
            return softmax(net(torch.from_numpy(normalize(images)).to(device)).float().cpu().numpy())

    return Classifier(name, "torch", checkpoint.labels, spec.channels, spec.image, _cost(checkpoint), run)


@dataclass(frozen=True)
class Judged:
    """What a network costs and how well it reads (`row`, of results.json's `stages`), and its probabilities."""

    row: dict[str, Any]
    probabilities: "npt.NDArray[np.float32]"


def judge(name: str, checkpoint: "Checkpoint", frames: "Frames", device: str) -> Judged:
    """Return what the network costs and what it answers to `frames`."""
    from slimfer.metrics import reliability, score

    classifier = from_checkpoint(name, checkpoint, device)
    probabilities = classifier.probabilities(frames)
    row = classifier.stage(
        scores=score(probabilities, frames.labels, frames.classes),
        reliability=[list(point) for point in reliability(probabilities, frames.labels)],
    )
    return Judged(row, probabilities)


def judged_parts(judged: Sequence[Judged], frames: "Frames", folder: Path) -> dict[str, Any]:
    """Return `stages` of results.json and what `slimfer.answers.examine` adds; no pictures are kept.

    Args:
        judged: the first is the control, the last is what the run made.
        frames: the pictures that they were judged on.
        folder: of the run; answers are written into it.
    """
    from slimfer.answers import examine
    from slimfer.calibration import fit

    parts = examine(
        folder,
        {one.row["name"]: one.probabilities for one in judged},
        frames.labels,
        frames.classes,
        images=frames.images,
        names=frames.names,
        calibration=fit(judged[-1].probabilities, frames.labels),
        pictures=False,
    )
    return {"stages": [one.row for one in judged], **parts}


def require_split(dataset: Any, split: str, classifier: Classifier) -> "Frames":
    """Return a split that the classifier can be judged on.

    Raises:
        InputError: if the dataset lacks it, or its classes are not the classifier's.
    """
    if split not in dataset:
        raise InputError(f"the data has no {split} split; it has {', '.join(dataset)}")
    frames: Frames = dataset[split]
    if frames.classes != classifier.labels:
        raise InputError(
            f"{classifier.name} reads {', '.join(classifier.labels)}, but the data has {', '.join(frames.classes)}"
        )
    return frames


def _cost(checkpoint: "Checkpoint") -> dict[str, int]:
    """Return what the network costs; quantizers change only the bytes, which are then those of the artifact."""
    from slimfer.export.onnx import to_onnx
    from slimfer.model.complexity import complexity
    from slimfer.model.zoo import build

    counted = complexity(build(checkpoint.spec), checkpoint.spec.channels, checkpoint.spec.image)
    cost = {key: getattr(counted, key) for key in ("params", "macs", "activations", "bytes")}
    return {**cost, "bytes": len(to_onnx(checkpoint))} if checkpoint.quant else cost


def _checkpoint(model: CheckpointFile | Network) -> "Checkpoint":
    from slimfer.model.spec import NetSpec
    from slimfer.train.checkpoint import Checkpoint
    from slimfer.train.loop import initial

    if isinstance(model, CheckpointFile):
        return Checkpoint.load(model.path)
    return initial(NetSpec(model.name), EMOTIONS, seed=0)


def _artifact(name: str, model: ArtifactFile, threads: int, runtime: RuntimeName) -> Classifier:
    from slimfer.runtime.openvino import RUNTIMES

    session = RUNTIMES[runtime](model.path, threads=threads)
    cost = {"bytes": len(session.artifact.data)}
    return Classifier(name, runtime, session.labels, session.channels, session.image, cost, session.run)
