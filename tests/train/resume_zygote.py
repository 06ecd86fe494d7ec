"""Trains in forked children that may be killed, or kill themselves in the middle of a save (see test_resume.py).

torch is imported once; each line on standard input is one run, as JSON: `run` (folder), `optimizer`, and `die`: null,
or [call, n] to die by SIGKILL at the n-th use of that call. The answers are `started PID` and `ended STATUS`.
"""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from helpers import CLASSES, TINY, patterns
from slimfer import files
from slimfer.compress.slim import SlimmingPenalty
from slimfer.train.config import AugmentConfig, TrainConfig
from slimfer.train.loop import fit, initial

CALLS = ("open", "write", "fsync", "replace", "replaced")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Trap:
    """Count the calls of one kind, and die at the n-th."""

    def __init__(self, n: int) -> None:
        self.left = n

    def step(self) -> bool:
        self.left -= 1
        return self.left == 0


def set_trap(call: str, n: int) -> None:
    trap = Trap(n)
    if call in ("open", "write"):

        class Stream:
            def __init__(self, path: Path, mode: str) -> None:
                self.stream = open(path, mode)  # noqa: SIM115
                self.flush, self.fileno = self.stream.flush, self.stream.fileno
                if call == "open" and trap.step():
                    die()

            def __enter__(self) -> "Stream":
                return self

            def __exit__(self, *_: object) -> None:
                self.stream.close()

            def write(self, data: bytes) -> None:
                if call == "write" and trap.step():
                    self.stream.write(data[: len(data) // 2])
                    self.stream.flush()
                    die()
                self.stream.write(data)

        files.open = Stream  # type: ignore[attr-defined]
        return
    name = call.removesuffix("d")
    original = getattr(os, name)

    def trapped(*args: Any) -> None:
        now = trap.step()
        if now and call != "replaced":
            die()
        original(*args)
        if now:
            die()

    setattr(os, name, trapped)


def train(order: dict[str, Any]) -> None:
    if order["die"]:
        set_trap(*order["die"])
    augment = AugmentConfig(mixup=0.4 if order["optimizer"] == "adamw" else 0.0)
    config = TrainConfig(
        epochs=3,
        batch_size=32,
        optimizer=order["optimizer"],
        lr=0.02,
        save_seconds=0,
        precision="fp32",
        augment=augment,
    )
    fit(
        initial(TINY, CLASSES, seed=0), patterns(256, seed=1), patterns(40, seed=2), config,
        run=Path(order["run"]), resume=True, hooks=[SlimmingPenalty(1e-3)],
    )  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:  # what torch loads at the first use takes longer than a run
        train({"run": folder, "optimizer": "sgd", "die": None})
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                train(json.loads(line))
                status = 0
            finally:
                os._exit(status)
        print("started", pid, flush=True)  # noqa: T201
        print("ended", os.waitpid(pid, 0)[1], flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
