"""A study of networks that are really cut and rounded, inside a search that takes seconds."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from searching import DATA, GOAL, seeker, trained
from slimfer.compress.search import Plan
from slimfer.errors import InputError
from slimfer.export.beside import sizes
from slimfer.export.sample import Sampled
from slimfer.export.seek import Seeker
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.evaluate import predict_logits, softmax

STUDY = replace(GOAL, trials=1, samples=12, cut_loss=1.0)


@pytest.fixture(scope="module")
def dense() -> Checkpoint:
    return trained()


@pytest.fixture(scope="module")
def limit(dense: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> int:
    one = seeker(dense, tmp_path_factory.mktemp("whole"), replace(GOAL, max_size=10**6))
    one.prepare()
    return one.probe(one.whole()).bytes - 3000


def run(one: Seeker) -> Plan:
    return one.run({"sampled": Sampled(one, [one.bounds])})


@pytest.fixture(scope="module")
def straight(dense: Checkpoint, limit: int, tmp_path_factory: pytest.TempPathFactory) -> tuple[Seeker, Plan]:
    """A search that nothing disturbs."""
    one = seeker(dense, tmp_path_factory.mktemp("straight"), replace(STUDY, max_size=limit))
    return one, run(one)


def untimed(one: Seeker) -> list[dict[str, object]]:
    return [{key: value for key, value in row.items() if key != "ms"} for row in one.table.rows]


def nll(network: Checkpoint) -> float:
    frames = DATA["validation"]
    right = softmax(predict_logits(network.build(), frames))[np.arange(len(frames)), frames.labels]
    return float(-np.log(right).mean())


def test_it_is_one_more_trial_within_the_limits_and_one_seed_gives_one_plan(
    dense: Checkpoint, limit: int, straight: tuple[Seeker, Plan], tmp_path: Path
) -> None:
    one = straight[0]
    other = seeker(dense, tmp_path, one.goal)
    assert run(other) == straight[1]
    assert untimed(one) == untimed(other)
    row = next(row for row in one.table.rows if row["name"] == "sampled")
    assert row["parameter"] == {"cut_loss": 1.0}
    files = [(each.tools.folder / "sampled" / "model.onnx").read_bytes() for each in (one, other)]
    assert files[0] == files[1]
    assert len(files[0]) == row["bytes"] <= limit


def test_the_plan_reads_at_least_as_well_as_that_of_single_parts(dense: Checkpoint, limit: int, tmp_path: Path) -> None:
    """By networks that are made and read here: cut, with new statistics, and rounded."""
    told: list[tuple[int, int]] = []
    one = seeker(dense, tmp_path, replace(STUDY, max_size=limit), sampled=lambda *now: told.append(now))
    one.prepare()
    sampled = Sampled(one, [one.bounds])
    plan, single = sampled(1.0, one.bounds), one.propose(1.0)
    assert plan is not None
    assert single is not None
    losses = [sampled._loss(each, 1.0, 0) for each in (plan, single)]
    assert losses[0] <= losses[1]
    assert one.probe(plan).bytes <= limit
    assert [done for done, _ in told] == list(range(13))
    assert {total for _, total in told} == {12}


def test_losses_are_those_of_the_network(dense: Checkpoint, tmp_path: Path) -> None:
    one = seeker(dense, tmp_path, replace(STUDY, max_size=10**6))
    one.prepare()
    sampled, whole = Sampled(one, [one.bounds]), one.whole()
    plan = Plan({name: size // 2 for name, size in one.sizes.items()}, dict.fromkeys(whole.bits, 2))
    cut, rounded = sampled._make(plan)
    cut_only, _ = sampled._make(Plan(plan.keep, whole.bits))
    untouched, _ = sampled._make(Plan(whole.keep, plan.bits))
    assert cut == cut_only != untouched == pytest.approx(nll(dense), abs=1e-4)
    assert sampled._loss(plan, 1.0, 0) == pytest.approx(rounded - untouched)
    assert sampled._loss(plan, 0.25, 0) == pytest.approx(rounded - cut + 0.25 * (cut - untouched))


def test_what_fits_as_it_is_needs_no_samples(dense: Checkpoint, tmp_path: Path) -> None:
    def never(done: int, total: int) -> None:
        raise AssertionError

    one = seeker(dense, tmp_path, replace(STUDY, max_size=10**6), sampled=never)
    one.prepare()
    assert Sampled(one, [one.bounds])(1.0, one.bounds) == one.whole()


def test_killed_again_and_again_it_ends_in_the_same(
    dense: Checkpoint, straight: tuple[Seeker, Plan], tmp_path: Path
) -> None:
    goal = straight[0].goal
    for after in (1, 7):
        child = os.fork()
        if child == 0:

            def stop(done: int, total: int, after: int = after) -> None:
                if done == after:
                    os.kill(os.getpid(), signal.SIGKILL)

            run(seeker(dense, tmp_path, goal, sampled=stop))
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    told: list[int] = []
    again = seeker(dense, tmp_path, goal, sampled=lambda done, total: told.append(done))
    assert run(again) == straight[1]
    assert untimed(again) == untimed(straight[0])
    assert told == list(range(7, 13))  # nothing is measured twice


def test_a_front_is_no_worse_than_that_of_single_parts_and_within_its_sizes(dense: Checkpoint, tmp_path: Path) -> None:
    one = seeker(dense, tmp_path, replace(STUDY, max_size=10**6, samples=16))
    one.prepare()
    limits = [row for row in sizes(one)[1:] if one.propose(1.0, row) is not None]
    assert len(limits) >= 1
    sampled = Sampled(one, limits)
    plans = [sampled(1.0, row) for row in limits]
    for row, plan in zip(limits, plans, strict=True):
        single = one.propose(1.0, row)
        assert plan is not None
        assert single is not None
        assert one.probe(plan).bytes <= row[0]
        assert sampled._loss(plan, 1.0, 0) <= sampled._loss(single, 1.0, 0)
    losses = [sampled._loss(plan, 1.0, 0) for plan in plans if plan]
    assert all(larger <= smaller for larger, smaller in pairwise(losses))


def test_nothing_imports_optuna_by_itself() -> None:
    code = (
        "import sys, pkgutil, importlib, slimfer\n"
        "rooms = ('compress', 'export', 'cli')\n"
        "for room in rooms:\n"
        "    for found in pkgutil.iter_modules([f'{slimfer.__path__[0]}/{room}']):\n"
        "        importlib.import_module(f'slimfer.{room}.{found.name}')\n"
        "assert 'slimfer.compress.study' in sys.modules\n"
        "sys.exit('optuna' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_optuna_only_a_study_is_refused(
    dense: Checkpoint, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    one = seeker(dense, tmp_path, replace(STUDY, max_size=limit))
    assert one.run()
    with pytest.raises(InputError, match=r"pip install 'slimfer\[search\]'"):
        Sampled(one, [one.bounds])(1.0, one.bounds)
