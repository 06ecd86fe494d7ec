"""A run that is killed at any moment ends with the same bytes as one that was left alone."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import slimfer.train.loop as loop
from helpers import CLASSES, TINY, patterns
from slimfer.compress.slim import SlimmingPenalty
from slimfer.errors import InputError
from slimfer.train.checkpoint import save_tensors
from slimfer.train.config import AugmentConfig, TrainConfig
from slimfer.train.loop import Hook, Progress, fit, initial
from train.resume_zygote import CALLS

HERE = Path(__file__).parent
WRITES = 3 * 8 + 3 + 3  # 8 steps (the last one's state belongs to the epoch's end) and a table in 3 epochs; the end


def result(run: Path) -> dict[str, object]:
    """Everything that a run leaves, but for the time it took."""
    with open(run / "results.csv", newline="") as stream:
        table = [{k: v for k, v in row.items() if k != "time"} for row in csv.DictReader(stream)]
    weights = {name: (run / "weights" / name).read_bytes() for name in ("best.safetensors", "last.safetensors")}
    return {"table": table, **weights, "names": sorted(p.name for p in run.rglob("*"))}


# --- SIGKILL ----------------------------------------------------------------------------------------------------------


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it may have come to its end just now
        os.kill(pid, signal.SIGKILL)


class Runner:
    """Trains in children of one process that has torch imported already."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "resume_zygote.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def __call__(
        self, run: Path, *, optimizer: str = "sgd", die: tuple[str, int] | None = None, after: float | None = None
    ) -> bool:
        """Train, or go on; die at a call, or be killed after some seconds. Return whether the run came to its end."""
        self.process.stdin.write(json.dumps({"run": str(run), "optimizer": optimizer, "die": die}) + "\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline().split()[1])
        timer = threading.Timer(after, kill, (pid,)) if after is not None else None
        if timer:
            timer.start()
        status = int(self.process.stdout.readline().split()[1])
        if timer:
            timer.cancel()
        assert status in (0, signal.SIGKILL), "the run failed on its own"
        return status == 0


@pytest.fixture(scope="module")
def train() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.process.stdin.close()
    runner.process.wait(timeout=10)
    runner.process.stdout.close()


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory) -> dict[str, dict[str, object]]:
    """The results of runs that nobody disturbed, by optimizer."""
    found = {}
    for optimizer in ("sgd", "adamw"):
        run = tmp_path_factory.mktemp(optimizer)
        assert train(run, optimizer=optimizer)
        found[optimizer] = result(run)
    return found


@pytest.mark.parametrize("number", range(20))
def test_killed_inside_a_save_it_ends_with_the_same_bytes(train, whole, tmp_path, number):
    draw, optimizer = random.Random(number), ("sgd", "adamw")[number % 2]
    call = CALLS[number % len(CALLS)]
    calls = WRITES * (2 if call == "fsync" else 1)  # the file and its folder
    assert not train(tmp_path, optimizer=optimizer, die=(call, draw.randint(1, calls)))
    assert train(tmp_path, optimizer=optimizer)
    assert result(tmp_path) == whole[optimizer]


@pytest.mark.parametrize("number", range(5))
def test_killed_again_and_again_at_any_moment_it_ends_with_the_same_bytes(train, whole, tmp_path, number):
    draw, kills = random.Random(number), 0
    while kills < 4:
        kills += 1
        if train(tmp_path, after=draw.uniform(0.02, 0.25)):
            break
    assert train(tmp_path)
    assert result(tmp_path) == whole["sgd"]


@pytest.mark.long
@pytest.mark.parametrize("number", range(20, 320))
def test_three_hundred_kills_inside_a_save(train, whole, tmp_path, number):
    # 300 without a failure: less than 1 % at 95 % confidence (rule of three).
    test_killed_inside_a_save_it_ends_with_the_same_bytes(train, whole, tmp_path, number)


def test_the_kills_do_leave_something_to_sweep(train, tmp_path):
    assert not train(tmp_path, die=("write", 9))
    stale = [p.name for p in tmp_path.rglob("*.slimfer-tmp-*")]
    assert len(stale) == 1
    assert not (tmp_path / "weights" / "best.safetensors").exists()


# --- every step, in one process ---------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


class Freeze(Hook):
    """A hook with a memory: after each epoch it takes a mask, which it keeps applying (as DSD does)."""

    def __init__(self) -> None:
        self.mask: Tensor | None = None

    def after_epoch(self, net: nn.Module, epoch: int) -> None:
        self.mask = net[0][0].weight.detach().abs() > 0.05 * (1 + epoch)

    def after_step(self, net: nn.Module, progress: float) -> None:
        if self.mask is not None:
            net[0][0].weight.data.mul_(self.mask)

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.mask is None else {"mask": self.mask}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.mask = state.get("mask")


RUNS = {
    "sgd": (TrainConfig(average=0.9), list),
    "no momentum, no average": (TrainConfig(average=0, momentum=0), list),
    "adamw, mixup": (TrainConfig(optimizer="adamw", lr=0.01, augment=AugmentConfig(mixup=0.3)), list),
    "penalty, balanced": (TrainConfig(class_weights="balanced"), lambda: [SlimmingPenalty(1e-2)]),
    "hook with memory": (TrainConfig(), lambda: [Freeze()]),
    "early stop": (TrainConfig(early_stop=1, lr=1e-6), list),
}


def go(run: Path, name: str, *, stop: int | None = None, resume: bool = True, **changes: object) -> None:
    """Train 3 epochs of 3 steps, saving after each; `stop` ends it after so many steps, before their state is saved."""
    config, hooks = RUNS[name]
    values = {**vars(config), "epochs": 3, "batch_size": 16, "save_seconds": 0.0, "precision": "fp32", **changes}
    count = 0

    def watch(progress: Progress) -> None:
        nonlocal count
        count += progress.row is None
        if stop is not None and count > stop:
            raise Interrupted

    fit(
        initial(TINY, CLASSES, seed=0), patterns(50, seed=1), patterns(20, seed=2), TrainConfig(**values),
        run=run, resume=resume, hooks=hooks(), watch=watch,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["sgd", "hook with memory"])
def test_going_on_from_every_step_ends_with_the_same_bytes(tmp_path, name):
    go(tmp_path / "whole", name)
    for stop in range(9):
        run = tmp_path / str(stop)
        with pytest.raises(Interrupted):
            go(run, name, stop=stop)
        go(run, name)
        assert result(run) == result(tmp_path / "whole"), f"stopped after step {stop}"


@pytest.mark.parametrize("name", RUNS)
def test_stopped_after_each_step_in_turn_it_ends_with_the_same_bytes(tmp_path, name):
    go(tmp_path / "whole", name)
    whole = result(tmp_path / "whole")
    for _ in range(3 * len(whole["table"]) - 1):
        with pytest.raises(Interrupted):
            go(tmp_path / "often", name, stop=1)
    go(tmp_path / "often", name)
    assert result(tmp_path / "often") == whole
    go(tmp_path / "often", name)  # nothing is left to do
    assert result(tmp_path / "often") == whole


@pytest.mark.parametrize("lost", ["optimizer", "average", "hook0", "best", "net"])
def test_a_state_that_forgets_anything_is_found_out(tmp_path, monkeypatch, lost):
    """The control: these tests can fail."""
    name = "hook with memory"
    go(tmp_path / "whole", name)
    with pytest.raises(Interrupted):
        go(tmp_path / "broken", name, stop=7)
    load = loop.load_tensors

    def forgetful(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
        tensors, meta = load(path)
        keep = {k: v for k, v in tensors.items() if not k.startswith(f"{lost}.")}
        if lost in ("best", "net"):  # these must be there: forget what they were
            keep |= {k: torch.zeros_like(v) for k, v in tensors.items() if k not in keep}
        return keep, meta

    monkeypatch.setattr(loop, "load_tensors", forgetful)
    go(tmp_path / "broken", name)
    assert result(tmp_path / "broken") != result(tmp_path / "whole")


# --- what may not go on -----------------------------------------------------------------------------------------------


def test_other_settings_are_refused_by_name(tmp_path):
    with pytest.raises(Interrupted):
        go(tmp_path, "penalty, balanced", stop=4)
    for changes, words in (
        ({"lr": 0.05}, "config.lr"),
        ({"epochs": 4, "average": 0.5}, "config.average, config.epochs"),
        ({"augment": AugmentConfig(flip=False)}, "config.augment.flip"),
    ):
        with pytest.raises(InputError, match=f"last.state belongs to a run with another {words}; use another --out"):
            go(tmp_path, "penalty, balanced", **changes)
    with pytest.raises(InputError, match=r"another config\.class_weights, hooks;"):
        go(tmp_path, "sgd", average=0.999)
    go(tmp_path, "penalty, balanced", save_seconds=9.0)  # how often to save is no matter


def test_a_broken_or_foreign_state_is_refused_and_a_new_start_replaces_it(tmp_path):
    go(tmp_path, "sgd")
    whole = result(tmp_path)
    state = tmp_path / "weights" / "last.state"
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    with pytest.raises(InputError, match=r"last\.state: the content does not match its SHA-256"):
        go(tmp_path, "sgd")
    save_tensors(state, {}, {"kind": "checkpoint"})
    with pytest.raises(InputError, match=r"last\.state: a checkpoint, not the state of a training run"):
        go(tmp_path, "sgd")
    go(tmp_path, "sgd", resume=False)
    assert result(tmp_path) == whole


def test_there_may_be_nothing_to_resume(tmp_path):
    go(tmp_path / "a", "sgd", resume=True)
    go(tmp_path / "b", "sgd", resume=False)
    assert result(tmp_path / "a") == result(tmp_path / "b")
