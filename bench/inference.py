"""Latency and throughput: a float network in torch, the control, against artifacts in onnxruntime, on the same threads.

Everyone gets uint8 pixels and gives probabilities, so that normalization and softmax are in every figure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from slimfer.preprocess import normalize
from slimfer.report.numbers import milliseconds, size, times, whole
from slimfer.report.tables import Table
from slimfer.runtime.session import Session
from slimfer.timing import Job, interleave, rate
from slimfer.train.checkpoint import Checkpoint


@dataclass(frozen=True)
class Settings:
    """How long and how large; the defaults are those of the published figures.

    Attributes:
        rounds: turns of each contestant.
        min_time: seconds per turn.
        batch_size: pictures per call for the throughput.
        threads: of torch and of onnxruntime.
    """

    rounds: int = 40
    min_time: float = 0.05
    batch_size: int = 32
    threads: int = 1


SMOKE = Settings(rounds=2, min_time=0.0, batch_size=2)


def run(settings: Settings, control: Checkpoint, artifacts: Sequence[Path | bytes]) -> dict[str, Any]:
    """Measure the control and every artifact in one interleaved run; return JSON values, the control first."""
    torch.set_num_threads(settings.threads)
    sessions = [Session(artifact, threads=settings.threads) for artifact in artifacts]
    net, spec = control.build(), control.spec
    single = {"control: float, torch": _torch_job(net, _noise(1, spec.channels, spec.image))}
    many = {"control: float, torch": _torch_job(net, _noise(settings.batch_size, spec.channels, spec.image))}
    bytes_ = [sum(tensor.numel() * tensor.element_size() for tensor in control.weights.values())]
    for index, session in enumerate(sessions, 1):
        name = f"{index}: {session.artifact.name}"
        single[name] = partial(session.run, _noise(1, session.channels, session.image))
        many[name] = partial(session.run, _noise(settings.batch_size, session.channels, session.image))
        bytes_.append(len(session.artifact.data))
    latency = interleave(single, rounds=settings.rounds, min_time=settings.min_time)
    bulk = interleave(many, rounds=settings.rounds, min_time=settings.min_time)
    control_ms = next(iter(latency.values())).median_ms
    rows = [
        {
            "contestant": name,
            "bytes": number,
            "latency_ms": latency[name].to_dict(),
            "throughput": rate(bulk[name], settings.batch_size),
            "smaller": bytes_[0] / number,
            "faster": control_ms / latency[name].median_ms,
        }
        for name, number in zip(single, bytes_, strict=True)
    ]
    return {"bench": "inference", "settings": asdict(settings), "rows": rows}


def table(result: Mapping[str, Any]) -> Table:
    """Return the rows for people."""
    rows = tuple(
        (
            row["contestant"],
            size(row["bytes"]),
            times(row["smaller"]),
            milliseconds(row["latency_ms"]["median"]),
            milliseconds(row["latency_ms"]["p95"]),
            times(row["faster"]),
            whole(row["throughput"]),
        )
        for row in result["rows"]
    )
    header = ("contestant", "size", "smaller", "ms, batch 1", "p95 ms", "faster", "images/s")
    return Table(header, rows, (False, *(True,) * 6))


def _torch_job(net: torch.nn.Module, images: npt.NDArray[np.uint8]) -> Job:
    def job() -> object:
        with torch.inference_mode():
            return torch.softmax(net(torch.from_numpy(normalize(images))), 1)

    return job


def _noise(count: int, channels: int, side: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, channels, side, side), np.uint8)
