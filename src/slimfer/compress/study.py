"""Plans that the sum of single losses cannot find: a study of networks that are really made and read, with Optuna.

`slimfer.compress.search` adds up what each knob loses alone. Here the loss of a whole state is measured, and NSGA-II
(Deb et al. 2002, DOI 10.1109/4235.996017) proposes the next state, by loss and by each cost that is limited. Optuna is
an extra, `slimfer[search]`.

A child of two good states seldom has the right size: taken as they are, 200 of them hardly find anything better
(docs/methods/search.md). So each proposal is brought within the limits, by the sum of single losses; and since the
study is there because that sum is wrong, each loss counts for it by a random factor.

Nothing of Optuna is stored: with the same seed and the same measurements a study proposes the same states again.
"""

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from slimfer.compress.search import CostModel, Costs, Knob, within
from slimfer.errors import InputError

State = tuple[int, ...]  # the level of each knob

POPULATION = 8
SWAPPED = 0.1  # share of the knobs that a child has from its second parent
DOUBT = 1.0  # standard deviation of the natural logarithm of the factors on losses
PATIENCE = 50  # proposals in a row that bring nothing new; a small problem has no more states


@dataclass(frozen=True)
class Sample:
    """A state that was measured; its loss counts from the untouched network, nats."""

    state: State
    loss: float


def study(
    knobs: Sequence[Knob],
    costs: CostModel,
    limits: Sequence[Costs],
    starts: Sequence[State],
    measure: Callable[[State], float],
    *,
    samples: int,
    seed: int,
) -> tuple[Sample, ...]:
    """Measure `samples` different states and return them in that order.

    Args:
        knobs: what can be turned, with the losses of each one alone.
        costs: what a state costs.
        limits: one row, or several for a front; each proposal is brought within the nearest one.
        starts: good states, which are measured first.
        measure: gives the loss of a state, nats.
        samples: how many states, at most: fewer where no more are found.
        seed: of all choices.

    Raises:
        InputError: if Optuna is not installed.
    """
    rows = np.array(limits, dtype=np.float64)
    kinds = np.flatnonzero(np.isfinite(rows).any(0))
    genes = _Genes(knobs, objectives=1 + len(kinds), seed=seed)
    rng = np.random.default_rng(seed)
    waiting, found = list(starts), dict[State, float]()
    vain = 0
    while len(found) < samples and vain < PATIENCE:
        if waiting:
            state: State | None = waiting.pop(0)
        else:
            child = np.array(genes.propose(), dtype=np.int64)
            state = within(_doubted(knobs, rng), costs, rows[_nearest(costs(child[None])[0], rows)], child)
        if state is None or state in found:
            vain += 1
            continue
        vain = 0
        found[state] = measure(state)
        genes.learn(state, [found[state], *costs(np.array([state]))[0, kinds].tolist()])
    return tuple(Sample(state, loss) for state, loss in found.items())


def load() -> Any:
    """Return the module optuna.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return importlib.import_module("optuna")
    except ImportError as error:
        raise InputError(f"samples needs Optuna ({error}); pip install 'slimfer[search]', or samples = 0") from None


class _Genes:
    """NSGA-II, asked for states and told what they are worth."""

    def __init__(self, knobs: Sequence[Knob], *, objectives: int, seed: int) -> None:
        self._optuna = load()
        levels = self._optuna.distributions.IntDistribution
        self._levels = {f"{knob.kind} {knob.name}": levels(0, len(knob.levels) - 1) for knob in knobs}
        with _silent():
            sampler = self._optuna.samplers.NSGAIISampler(population_size=POPULATION, swapping_prob=SWAPPED, seed=seed)
            self._study = self._optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)

    def propose(self) -> State:
        with _silent():
            trial = self._study.ask(self._levels)
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)  # what is measured is another state
        return tuple(trial.params[name] for name in self._levels)

    def learn(self, state: State, values: Sequence[float]) -> None:
        with _silent():
            self._study.enqueue_trial(dict(zip(self._levels, state, strict=True)))
            trial = self._study.ask(self._levels)
            _ = trial.relative_params  # without this look Optuna 5 leaves what was enqueued out of the population
            self._study.tell(trial, list(values))


def _doubted(knobs: Sequence[Knob], rng: np.random.Generator) -> tuple[Knob, ...]:
    """Return the knobs with losses that count by random factors."""
    factors = np.exp(rng.normal(0, DOUBT, len(knobs)))
    return tuple(
        replace(knob, losses=tuple(float(factor * loss) for loss in knob.losses))
        for knob, factor in zip(knobs, factors, strict=True)
    )


def _nearest(cost: Costs, limits: Costs) -> int:
    """Return which row of limits is nearest to the costs of a state, by ratios."""
    known = np.isfinite(limits)
    ratios = np.log(np.where(known, limits, 1.0) / cost)
    return int(np.argmin(np.abs(np.where(known, ratios, 0.0)).sum(1)))


@contextmanager
def _silent() -> Iterator[None]:
    """Keep Optuna's lines, and its warnings of things that are experimental, off the terminal."""
    logger = logging.getLogger("optuna")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
