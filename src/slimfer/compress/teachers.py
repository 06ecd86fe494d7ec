"""Networks that teach: checkpoints in torch, artifacts in onnxruntime.

Shapes: N pictures, K classes, D features. x (N, C, H, W) normalized pixels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from slimfer.errors import InputError
from slimfer.preprocess import SCALE, ZERO_POINT
from slimfer.runtime.session import Session
from slimfer.shipped import model_file
from slimfer.train.checkpoint import Checkpoint

_SMALLEST = torch.finfo(torch.float32).tiny


class Teacher(Protocol):
    """What gives soft targets.

    Attributes:
        name: how the user called it, for messages.
        digest: tells teachers apart: equal exactly for equal networks.
        labels: class names in the order of the answers.
        channels: 1 (gray) or 3 (RGB).
        image: height and width in pixels.
    """

    name: str
    digest: str
    labels: tuple[str, ...]
    channels: int
    image: int

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits, up to a constant per picture, (N, K) for normalized pixels, without gradients."""

    def show_features(self) -> Callable[[], Tensor]:
        """Return a function that gives the penultimate features (N, D) of the last call.

        Raises:
            InputError: if the teacher shows none.
        """


class Network:
    """A checkpoint as a teacher; within autocast it computes in that precision."""

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu", name: str = "") -> None:
        """Build the network on `device`."""
        self.name = name or checkpoint.spec.builder
        self.digest = checkpoint.digest()
        self.labels, self.channels, self.image = checkpoint.labels, checkpoint.spec.channels, checkpoint.spec.image
        self._net = checkpoint.build().to(device)
        self._net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits."""
        with torch.no_grad():
            answer: Tensor = self._net(x.contiguous(memory_format=torch.channels_last))
        return answer

    def show_features(self) -> Callable[[], Tensor]:
        """Keep penultimate features from now on; see `watch_features`."""
        return watch_features(self._net, self.name)


class Sealed:
    """An artifact as a teacher: it runs on the CPU, as it would on a device, with as many threads as torch."""

    def __init__(self, path: Path, name: str = "") -> None:
        """Open the artifact.

        Raises:
            InputError: if the file is not a sound artifact.
        """
        self._session = Session(path, threads=torch.get_num_threads())
        self.name = name or str(path)
        self.digest = self._session.artifact.sha256
        self.labels, self.channels, self.image = self._session.labels, self._session.channels, self._session.image

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logarithms of the probabilities, which are logits up to a constant.

        A probability that float32 rounds to 0 counts as the smallest number above it, so that every answer is finite.
        """
        answer = torch.from_numpy(self._session.run(to_pixels(x).cpu().numpy()))
        return answer.clamp(min=_SMALLEST).log().to(x.device)

    def show_features(self) -> Callable[[], Tensor]:
        """Refuse: an artifact gives probabilities alone."""
        raise InputError(
            f"{self.name} is an artifact, which shows no features; name the run or checkpoint it came from, or "
            "use features = 0"
        )


def open_teacher(path: str, device: str = "cpu") -> Teacher:
    """Return the teacher that `path` names: a run folder, a checkpoint, or an artifact (which runs on the CPU).

    Raises:
        InputError: if there is no such file, or it is damaged.
    """
    found = model_file(path)
    if found.suffix == ".onnx":
        return Sealed(found, path)
    return Network(Checkpoint.load(found), device, path)


def to_pixels(x: Tensor) -> Tensor:
    """Return the uint8 pixels nearest to normalized ones: what an artifact reads.

    Exact for pictures as they are; augmented ones lose what lies between two gray values, or outside 0 to 255.
    """
    return (x / SCALE + ZERO_POINT).round().clamp(0, 255).to(torch.uint8)


def watch_features(net: nn.Module, name: str) -> Callable[[], Tensor]:
    """Keep what the last linear layer of `net` reads, and return a function that gives it: (N, D), of the last batch.

    Raises:
        InputError: if the network has no linear layer.
    """
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise InputError(f"{name} has no linear layer, so no features to compare; use features = 0")
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        kept[:] = [inputs[0]]

    linear[-1].register_forward_pre_hook(keep)
    return lambda: kept[0].flatten(1)
