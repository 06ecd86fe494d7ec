"""Accuracy against bytes: slimming alone, integers alone, both, both with teachers, and both in other orders.

Every way starts from the same network and trains for as many epochs in float, the dense control as well, so that none
gains by training alone; below 8 bits some epochs with integers follow. Sizes are those of the files that are written,
accuracies are those files' own, in onnxruntime. A run that is killed goes on where it stopped: every chain is a folder
under `--work`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from slimfer.compress.config import (
    CompressConfig,
    DistillConfig,
    Limits,
    PruneConfig,
    QatConfig,
    QuantizeConfig,
    SlimConfig,
)
from slimfer.compress.pipeline import run_steps
from slimfer.compress.plan import PlannedStep
from slimfer.data.frames import Dataset
from slimfer.export.onnx import to_onnx
from slimfer.metrics import score
from slimfer.report.results import parse_results
from slimfer.report.tables import Table, trade_off_table
from slimfer.runtime.session import Session
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.config import TrainConfig

SLIM, INTEGERS, BOTH, TAUGHT = "slimming alone", "integers alone", "both", "both, with a teacher"
ORDERS = "both, in other orders"
DENSE = "dense"  # the chain that only trains on


@dataclass(frozen=True)
class Settings:
    """What is compared.

    Attributes:
        ratios: shares of channels that slimming cuts; each for the first seed.
        chosen: the ratios that get all seeds.
        seeds: of order, augmentation and calibration.
        bits: of the weights after slimming.
        alone: of the weights without slimming.
        finetune: the training in float after a cut.
        qat: the training with integers, below 8 bits.
        limits: of every cut.
        weight: of the teachers, where there are any.
        orders: whether to run the cut after the integers, and at once with them, as well.
    """

    ratios: tuple[float, ...] = (0.5, 0.3, 0.65)
    chosen: tuple[float, ...] = (0.5,)
    seeds: tuple[int, ...] = (0, 1, 2)
    bits: tuple[int, ...] = (8, 4)
    alone: tuple[int, ...] = (8, 4)
    finetune: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=2, lr=0.04))
    qat: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=1, lr=0.005))
    limits: Limits = field(default_factory=lambda: Limits(round_to=4, max_layer_ratio=0.85))
    weight: float = 0.7
    orders: bool = True


_SHORT = TrainConfig(epochs=1, lr=0.01, batch_size=32)
SMOKE = Settings((0.5,), (0.5,), (0, 1), (8, 4), (8, 2), _SHORT, _SHORT)


@dataclass(frozen=True)
class Chain:
    """One chain of steps, and the point that its end is.

    Attributes:
        series: of the point; empty for none.
        label: of the point.
        name: of its folder.
        steps: what is done.
        after: name of the chain whose end it starts from; empty for the dense network.
    """

    series: str
    label: str
    name: str
    steps: tuple[PlannedStep, ...]
    after: str = ""


def run(
    settings: Settings, start: Checkpoint, teachers: Sequence[str], dataset: Dataset, work: Path, command: str
) -> dict[str, Any]:
    """Run all chains and return results of kind `study`, the dense network, trained as long as the others, first.

    Args:
        settings: what is compared.
        start: the dense network.
        teachers: of the ways that have some.
        dataset: has `train` and `validation`.
        work: folder for the chains.
        command: how to run it again.
    """
    validation = dataset["validation"]
    points: dict[tuple[str, str], dict[str, Any]] = {}
    stages: list[dict[str, Any]] = []

    def scored(checkpoint: Checkpoint) -> tuple[int, dict[str, Any]]:
        model = to_onnx(checkpoint)
        answers = Session(model).run_all(validation.images)
        return len(model), score(answers, validation.labels, validation.classes)

    for seed in settings.seeds:
        ends = {"": start}
        for chain in chains(settings, seed, teachers, work):
            folder = work / f"seed{seed}" / chain.name
            ends[chain.name] = run_steps(ends[chain.after], dataset, chain.steps, folder)[-1].checkpoint
            if not chain.series:
                continue
            size, scores = scored(ends[chain.name])
            if chain.name == DENSE and seed == settings.seeds[0]:
                stages = [{"name": "dense", "title": "Dense, fp32, onnxruntime", "bytes": size, "scores": scores}]
            point = {"series": chain.series, "label": chain.label, "bytes": [], "accuracies": [], "seeds": []}
            point = points.setdefault((chain.series, chain.label), point)
            for key, value in (("bytes", size), ("accuracies", scores["accuracy"]), ("seeds", seed)):
                point[key].append(value)
            told = f"{size:,} bytes, {100 * scores['accuracy']:.2f} %"
            print(f"{chain.series}: {chain.label}, seed {seed}: {told}", flush=True)
    return {
        "format": 1,
        "kind": "study",
        "model": start.spec.builder,
        "labels": list(start.labels),
        "data": {"split": "validation", **{name: len(frames) for name, frames in dataset.items()}},
        "command": command,
        "recipe": asdict(settings),
        "stages": stages,
        "trade_offs": [{**point, "bytes": round(float(np.mean(point["bytes"])))} for point in points.values()],
    }


def chains(settings: Settings, seed: int, teachers: Sequence[str], work: Path) -> Iterator[Chain]:
    """Give the chains of one seed; all of them for the first, only the chosen ratios for the others."""
    first = seed == settings.seeds[0]

    def steps(*kinds: str, taught: bool = False, ratio: float = 0.0, bits: int = 8, epochs: int = 0) -> Any:
        finetune, qat = (replace(training, seed=seed) for training in (settings.finetune, settings.qat))
        # Teachers' answers are the same for all chains of a seed, since they see the same pictures.
        lessons = DistillConfig(
            weight=settings.weight if taught else 0.0, teachers=tuple(teachers), cache=str(work / "answers")
        )
        config = CompressConfig(
            train=finetune,
            slim=SlimConfig(ratio=ratio, limits=settings.limits),
            prune=PruneConfig(ratio=ratio, limits=settings.limits),
            finetune=finetune,
            distill=lessons,
            quantize=QuantizeConfig(bits=bits),
            qat=QatConfig(train=replace(qat, epochs=epochs or qat.epochs)),
        )
        return tuple(PlannedStep(kind, config) for kind in kinds)

    yield Chain(SLIM, "0 % cut", DENSE, steps("finetune"))
    for ratio in settings.ratios if first else settings.chosen:
        cut = f"{100 * ratio:.0f} % cut"
        for taught, series in ((False, BOTH), (True, TAUGHT)):
            name = f"{100 * ratio:.0f}-{'taught' if taught else 'plain'}"
            yield Chain("" if taught else SLIM, cut, name, steps("slim", "finetune", taught=taught, ratio=ratio))
            for bits in settings.bits:
                kinds = ("quantize",) if bits == 8 else ("quantize", "qat")
                yield Chain(
                    series, f"{cut}, {bits} bits", f"{name}-{bits}", steps(*kinds, taught=taught, bits=bits), name
                )
    if first:
        for bits in settings.alone:
            kinds = ("quantize",) if bits > 4 else ("quantize", "qat")
            yield Chain(INTEGERS, f"{bits} bits", f"alone-{bits}", steps(*kinds, bits=bits), DENSE)
        if settings.orders:
            yield from _orders(settings, steps)


def _orders(settings: Settings, steps: Callable[..., tuple[PlannedStep, ...]]) -> Iterator[Chain]:
    """Give a cut by L1 norm, which networks of integers have as well, before, with and after the integers.

    All train for as many epochs in sum.
    """
    ratio, bits = settings.chosen[0], settings.bits[1]
    cut, values = f"{100 * ratio:.0f} % cut by L1, {bits} bits", {"ratio": ratio, "bits": bits}
    long, short = settings.finetune.epochs, settings.qat.epochs
    before = steps("prune", "finetune", "quantize", "qat", **values)
    yield Chain(ORDERS, f"{cut}: prune, then quantize", "order-prune-first", before)
    yield Chain(
        ORDERS, f"{cut}: at once", "order-joint", steps("prune", "quantize", "qat", **values, epochs=long + short)
    )
    after = (*steps("quantize", "qat", **values), *steps("prune", "qat", **values, epochs=long))
    yield Chain(ORDERS, f"{cut}: quantize, then prune", "order-quantize-first", after)


def table(result: Mapping[str, Any]) -> Table:
    """Return every point as a row."""
    found = trade_off_table(parse_results(result))
    assert found is not None
    return found
