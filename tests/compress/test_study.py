"""A study against every state of problems whose parts depend on each other, which a sum of single losses cannot see."""

import sys
from itertools import product

import numpy as np
import pytest

from slimfer.compress.search import Knob, levels_of, search
from slimfer.compress.study import POPULATION, _Genes, study
from slimfer.errors import InputError

WIDTHS = (32, 24, 16, 8)
LOSSES = ((0.0, 0.01, 0.03, 0.2), (0.0, 0.01, 0.03, 0.2), (0.0, 0.03, 0.07, 0.3), (0.0, 0.03, 0.07, 0.3))
KNOBS = tuple(Knob("cut", f"g{i}", WIDTHS, losses) for i, losses in enumerate(LOSSES))
STATES = np.array(list(product(range(4), repeat=4)))
LIMIT = np.array([1800.0])


def costs(states: np.ndarray) -> np.ndarray:
    """A chain of five layers on 4 inputs, with 7 outputs: bytes."""
    w = np.array(WIDTHS)[states]
    return (4 * w[:, 0] + (w[:, :-1] * w[:, 1:]).sum(1) + 7 * w[:, -1]).astype(float)[:, None]


def alone(state: tuple[int, ...]) -> float:
    return sum(losses[level] for losses, level in zip(LOSSES, state, strict=True))


def truth(state: tuple[int, ...]) -> float:
    """The first two groups stand in for each other: cutting one is harmless only as long as the other is whole."""
    return alone(state) + 0.1 * state[0] * state[1]


def run(**settings: object) -> tuple:
    given = {"samples": 25, "seed": 0, "measure": truth, "limits": [LIMIT], "starts": [start()], **settings}
    return study(KNOBS, costs, **given)


def start() -> tuple[int, ...]:
    plan = search(KNOBS, costs, LIMIT)
    assert plan is not None
    return levels_of(KNOBS, plan)


def test_the_best_of_all_states_is_found_where_the_sum_is_wrong() -> None:
    fits = STATES[(costs(STATES) <= LIMIT).all(1)]
    best = min(truth(tuple(state)) for state in fits)
    assert alone(start()) == min(alone(tuple(state)) for state in fits)  # the best there is, by what it knows
    assert truth(start()) > 5 * best
    for seed in range(5):
        assert min(one.loss for one in run(seed=seed)) == best  # 25 of the 192 that fit are looked at


def test_states_are_different_within_the_limits_and_the_starts_come_first() -> None:
    samples = run()
    states = [one.state for one in samples]
    assert states[0] == start()
    assert len(set(states)) == len(states) <= 25
    assert (costs(np.array(states)) <= LIMIT).all()
    assert all(one.loss == truth(one.state) for one in samples)


def test_a_longer_study_begins_with_the_shorter_one() -> None:
    assert run(samples=12) == run()[:12]


def test_one_seed_one_study() -> None:
    assert run() == run()
    assert run(seed=1) != run()


def test_it_ends_where_no_other_states_are_left() -> None:
    few = (LIMIT * 0 + costs(STATES).min() + 1,)
    assert len(run(limits=few, starts=[(3, 3, 3, 3)])) == 1


def test_a_front_has_states_near_each_limit() -> None:
    limits = [np.array([1000.0]), np.array([3000.0])]
    sizes = costs(np.array([one.state for one in run(limits=limits, samples=40)]))[:, 0]
    assert ((sizes > 700) & (sizes <= 1000)).sum() >= 5
    assert ((sizes > 2000) & (sizes <= 3000)).sum() >= 5


def test_children_have_the_genes_of_what_was_learnt() -> None:
    """Optuna 5 leaves states that were enqueued out of the population, unless one looks at their other parameters."""
    knobs = [Knob("bits", f"l{i}", (8, 6, 4, 3, 2), (0.0,) * 5) for i in range(40)]
    genes = _Genes(knobs, objectives=2, seed=0)
    for number in range(POPULATION):
        genes.learn([0] * number + [1] + [0] * (39 - number), [1.0 + number, 9.0 - number])
    for _ in range(5):
        assert sum(level > 0 for level in genes.propose()) < 10  # of 40; drawn at random it would be 32


def test_nothing_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    run()
    assert capfd.readouterr() == ("", "")


def test_without_optuna_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'slimfer\[search\]', or samples = 0"):
        run()
