"""Images per second of a training: slimfer against a plain loop, same net, batch, optimizer and threads.

All contestants run in turns of one interleaved run. A turn is a short training with the public function of each; its
first steps (allocation, the start of workers) are not timed. Batches that the control's workers prepare meanwhile are
a present to it. Validation, which slimfer does once per epoch, is outside the timed steps on both sides.
"""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from bench.control import train_steps
from slimfer.data.frames import Frames
from slimfer.labels import EMOTIONS
from slimfer.model.complexity import complexity
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import build
from slimfer.report.tables import Table
from slimfer.timing import interleave
from slimfer.train.config import TrainConfig
from slimfer.train.loop import Progress, fit, initial, uses_bf16

# A training step multiplies and adds three times what a forward pass does: forward, gradients of the activations,
# gradients of the weights. One multiply-add is two operations.
OPERATIONS_PER_MAC = 6

NETS: Mapping[str, NetSpec] = {
    "resnet18, stem stride 2": NetSpec("resnet18"),
    "resnet18, stem stride 1": NetSpec("resnet18", args={"stem_stride": 1}),
}
SMOKE_NETS: Mapping[str, NetSpec] = {"mobile, width 0.25": NetSpec("mobile", args={"width": 0.25})}


@dataclass(frozen=True)
class Settings:
    """How long and how large; the defaults are those of the published figures.

    Attributes:
        batch_size: pictures per step.
        steps: timed steps per turn.
        warmup: steps before them.
        rounds: turns of each contestant.
        threads: of torch, for every contestant.
        workers: numbers of DataLoader workers of the controls.
        matrix: side of the bf16 matrix product that gives the machine's rate.
    """

    batch_size: int = 128
    steps: int = 6
    warmup: int = 2
    rounds: int = 3
    threads: int = 2
    workers: tuple[int, ...] = (0, 2)
    matrix: int = 2048


SMOKE = Settings(batch_size=8, steps=2, warmup=1, rounds=2, threads=1, workers=(0,), matrix=64)

# One turn: from a number of steps to the moments at which they were done.
Turn = Callable[[], list[float]]


def run(settings: Settings, nets: Mapping[str, NetSpec]) -> dict[str, Any]:
    """Measure every net; return JSON values."""
    torch.set_num_threads(settings.threads)
    rows = [row for name, spec in nets.items() for row in _compare(name, spec, settings)]
    return {"bench": "train_speed", "settings": asdict(settings), "bf16": uses_bf16("auto", "cpu"), "rows": rows}


def table(result: Mapping[str, Any]) -> Table:
    """Return the rows for people."""
    rows = tuple(
        (
            row["net"],
            row["contestant"],
            f"{row['images_per_s']:,.0f}",
            f"{row['lowest']:,.0f}–{row['highest']:,.0f}",
            f"{row['ratio']:.2f}×",
            f"{100 * row['matrix_share']:.1f}",
        )
        for row in result["rows"]
    )
    header = ("net", "contestant", "images/s", "range", "ratio to the fastest control", "% of bf16 matrix rate")
    return Table(header, rows, (False, False, True, True, True, True))


def _compare(name: str, spec: NetSpec, settings: Settings) -> list[dict[str, Any]]:
    config = TrainConfig(epochs=1, batch_size=settings.batch_size, warmup=0.0, lr=0.01)
    frames = _noise(settings.batch_size * (settings.warmup + settings.steps), spec)
    turns: dict[str, Turn] = {
        f"control, {workers} workers": _control(spec, frames, config, workers) for workers in settings.workers
    }
    controls = tuple(turns)
    turns["slimfer, fp32"] = _slimfer(spec, frames, replace(config, precision="fp32"))
    turns["slimfer"] = _slimfer(spec, frames, config)
    speeds, operations = _take_turns(turns, settings)
    middle = {contestant: statistics.median(values) for contestant, values in speeds.items()}
    best_control = max(middle[contestant] for contestant in controls)
    macs = complexity(build(spec), spec.channels, spec.image).macs
    return [
        {
            "net": name,
            "contestant": contestant,
            "macs": macs,
            "images_per_s": middle[contestant],
            "lowest": min(speeds[contestant]),
            "highest": max(speeds[contestant]),
            "ratio": middle[contestant] / best_control,
            "matrix_share": OPERATIONS_PER_MAC * macs * middle[contestant] / operations,
            "matrix_gflops": operations / 1e9,
        }
        for contestant in turns
    ]


def _take_turns(turns: Mapping[str, Turn], settings: Settings) -> tuple[dict[str, list[float]], float]:
    """Return images per second of every turn, and the machine's bf16 operations per second in the same minutes."""
    names = list(turns)
    speeds: dict[str, list[float]] = {name: [] for name in names}
    rates = []
    for round_ in range(settings.rounds):
        first = round_ % len(names)
        for name in (*names[first:], *names[:first]):
            moments = turns[name]()
            speeds[name].append(settings.steps * settings.batch_size / (moments[-1] - moments[settings.warmup - 1]))
        rates.append(_matrix_rate(settings.matrix))
    return speeds, statistics.median(rates)


def _matrix_rate(side: int) -> float:
    """Return bf16 operations per second of a matrix product of `side` cubed (two per multiply-add)."""
    a, b = (torch.randn(side, side).bfloat16() for _ in range(2))
    timing = interleave({"product": lambda: torch.mm(a, b)}, rounds=5, min_time=0.05)["product"]
    return 2 * side**3 / (timing.median_ms / 1e3)


def _control(spec: NetSpec, frames: Frames, config: TrainConfig, workers: int) -> Turn:
    def turn() -> list[float]:
        random.seed(0)
        return train_steps(build(spec), frames, config, workers)

    return turn


def _slimfer(spec: NetSpec, frames: Frames, config: TrainConfig) -> Turn:
    start = initial(spec, EMOTIONS, seed=0)
    validation = frames.take(np.arange(2))

    def turn() -> list[float]:
        moments: list[float] = []

        def note(progress: Progress) -> None:
            if progress.row is None:
                moments.append(time.monotonic())

        fit(start, frames, validation, config, watch=note)
        return moments

    return turn


def _noise(count: int, spec: NetSpec) -> Frames:
    """Return pictures of noise: speed does not depend on what they show."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, spec.channels, spec.image, spec.image), np.uint8)
    return Frames(images, generator.integers(0, len(EMOTIONS), count), EMOTIONS)
