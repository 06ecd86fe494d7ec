"""The file that a chain of steps ends in: written as it will ship, and measured; once for real, once before training.

How well a network reads is known only after training, what its file needs is known before: structure and bits decide
it. So a probe cuts and quantizes without training, and puts records in the file that are as long as the real ones.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from slimfer.calibration import fit
from slimfer.compress.config import CompressConfig
from slimfer.compress.cut import cut_groups
from slimfer.compress.plan import PlannedStep
from slimfer.compress.quantize import quantize
from slimfer.data.frames import Dataset, Frames
from slimfer.export.deliver import final_file
from slimfer.export.onnx import to_onnx
from slimfer.metrics import score
from slimfer.model.complexity import complexity
from slimfer.model.zoo import build
from slimfer.runtime.session import Session
from slimfer.timing import interleave
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.config import TrainConfig

PROBE_IMAGES = 64


@dataclass(frozen=True)
class Measured:
    """What one file needs, and how well it reads.

    Attributes:
        bytes: of the file.
        ms: for one picture on one thread, median.
        macs: multiply-adds for one picture.
        params: of the network.
        accuracy: 0-1; None for a network that was not trained.
    """

    bytes: int
    ms: float
    macs: int
    params: int
    accuracy: float | None = None


def write_file(checkpoint: Checkpoint, validation: Frames, recipe: Mapping[str, Any]) -> tuple[bytes, float]:
    """Return the file as `deliver` writes it, and its accuracy."""
    probabilities = Session(to_onnx(checkpoint)).run_all(validation.images)
    scores = score(probabilities, validation.labels, validation.classes)
    file = final_file(checkpoint, scores, recipe, fit(probabilities, validation.labels))
    return file, float(scores["accuracy"])


def measure(model: bytes, checkpoint: Checkpoint, *, rounds: int, accuracy: float | None = None) -> Measured:
    """Return what a file needs; it is run on one thread."""
    spec, session = checkpoint.spec, Session(model)
    face = np.zeros((1, spec.channels, spec.image, spec.image), np.uint8)
    timing = interleave({"file": lambda: session.run(face)}, rounds=rounds)["file"]
    cost = complexity(build(spec), spec.channels, spec.image)
    return Measured(len(model), timing.median_ms, cost.macs, cost.params, accuracy)


def probe(
    dense: Checkpoint, dataset: Dataset, steps: tuple[PlannedStep, ...], recipe: Mapping[str, Any], *, rounds: int
) -> Measured:
    """Return what the file of a chain will need, without any training.

    Args:
        dense: where the chain starts.
        dataset: `train` and `validation`, of which a few pictures are looked at.
        steps: the chain: cut, finetune, quantize, qat, or some of these.
        recipe: that will stand in the file.
        rounds: of the timing.
    """
    current, train = dense, dataset["train"]
    for step in steps:
        config = step.config
        if step.kind == "cut":
            quick = replace(config.cut, criterion="gamma", recalibrate=min(1, config.cut.recalibrate))
            current = cut_groups(current, train, quick)
        elif step.kind == "quantize":
            quick_bits = replace(config.quantize, images=min(PROBE_IMAGES, config.quantize.images))
            current = quantize(current, train, quick_bits, seed=config.train.seed)
        else:
            current = replace(current, lineage=(*current.lineage, *_records(step.kind, config)))
    validation = dataset["validation"]
    some = validation.take(np.arange(min(PROBE_IMAGES, len(validation))))
    model, _ = write_file(current, some, recipe)
    return measure(model, current, rounds=rounds)


def _records(kind: str, config: CompressConfig) -> tuple[dict[str, Any], ...]:
    """Return records as a training leaves them in the lineage."""
    if kind == "qat":
        rules = {name: value for name, value in asdict(config.qat).items() if name != "train"}
        return {"step": "prepare-qat", **rules}, _training("qat", config.qat.train)
    return (_training(kind, config.finetune),)


def _training(kind: str, config: TrainConfig) -> dict[str, Any]:
    return {"step": kind, "config": asdict(config), "epoch": config.epochs, "val_accuracy": 2 / 3}
