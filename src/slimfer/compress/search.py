"""The search for the plan that loses least within limits: how far to turn each of many knobs.

A knob is the width of one group of channels, or the bits of one layer's weights. Each of its levels has a loss that was
measured with all else untouched (`slimfer.compress.sensitivity`), and losses are added up: the usual first-order model
of layer-wise compression (e.g. Dong et al. 2019, HAWQ, arXiv 1905.03696). Costs (bytes, milliseconds, multiply-adds)
are those of the whole network, as a function of all levels.

From the untouched network the search goes down: always the turn, over any number of levels of one knob, with the least
loss per relative saving, summed over the costs that count. There is one such path for every choice of the costs that
are limited, and no path looks at the limits. What is chosen is the best within the limits of all states on the paths
and of all that differ from one of these by turning a single knob back. So a looser budget never gives a larger loss: it
only adds states to choose from.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt

Levels = npt.NDArray[np.int64]
Costs = npt.NDArray[np.float64]
# Levels (N, knobs), 0 = untouched -> costs (N, kinds of costs), each above 0 and falling with every level.
CostModel = Callable[[Levels], Costs]


@dataclass(frozen=True)
class Knob:
    """What can be turned: the channels of a group (`cut`), or the bits of a layer (`bits`).

    Attributes:
        kind: which of both.
        name: of the group or the layer.
        levels: channels or bits, falling; the first is untouched.
        losses: at each level, nats; 0 at first, never falling.
    """

    kind: Literal["cut", "bits"]
    name: str
    levels: tuple[int, ...]
    losses: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what the search relies on not to happen."""
        assert len(self.levels) == len(self.losses) > 0, self
        assert all(a > b for a, b in zip(self.levels, self.levels[1:], strict=False)), self
        assert self.losses[0] == 0, self
        assert all(a <= b for a, b in zip(self.losses, self.losses[1:], strict=False)), self


@dataclass(frozen=True)
class Plan:
    """What to make of a network: channels that each group keeps, and bits of each layer's weights.

    Attributes:
        keep: group -> channels, of all groups.
        bits: layer -> bits, of all layers whose bits were open.
        loss: predicted, nats.
    """

    keep: Mapping[str, int]
    bits: Mapping[str, int]
    loss: float = 0.0


def plan_of(knobs: Sequence[Knob], levels: Sequence[int]) -> Plan:
    """Return the plan that the levels of all knobs stand for."""
    chosen: dict[str, dict[str, int]] = {"cut": {}, "bits": {}}
    for knob, level in zip(knobs, levels, strict=True):
        chosen[knob.kind][knob.name] = knob.levels[level]
    loss = sum(knob.losses[level] for knob, level in zip(knobs, levels, strict=True))
    return Plan(chosen["cut"], chosen["bits"], loss)


def levels_of(knobs: Sequence[Knob], plan: Plan) -> tuple[int, ...]:
    """Return the levels of a plan; the inverse of `plan_of`."""
    values = {"cut": plan.keep, "bits": plan.bits}
    return tuple(knob.levels.index(values[knob.kind][knob.name]) for knob in knobs)


def search(knobs: Sequence[Knob], costs: CostModel, limits: Sequence[float] | Costs) -> Plan | None:
    """Return the plan with the least predicted loss that the search finds within the limits; None if it finds none.

    Args:
        knobs: what can be turned.
        costs: what the network costs.
        limits: of each kind of cost; infinity where there is none.
    """
    bounds = np.asarray(limits, dtype=np.float64)
    limited = [index for index, bound in enumerate(bounds) if np.isfinite(bound)]
    choices = [kinds for count in range(1, len(limited) + 1) for kinds in combinations(limited, count)]
    best: tuple[float, tuple[int, ...]] | None = None
    for kinds in choices or [()]:
        for state in descend(knobs, costs, kinds):
            if not _fits(costs(state[None]), bounds)[0]:
                continue
            losses = _losses(knobs, state[None])[0]
            # No single knob turned back can give more than the largest loss that a knob has now.
            largest = max((knob.losses[level] for knob, level in zip(knobs, state, strict=True)), default=0.0)
            if best is not None and losses - largest >= best[0]:
                continue
            tried = np.concatenate([state[None], _turned(knobs, state, back=True)])
            fitting = tried[_fits(costs(tried), bounds)]
            values = _losses(knobs, fitting)
            first = int(np.argmin(values))
            found = (float(values[first]), tuple(int(level) for level in fitting[first]))
            if best is None or found[0] < best[0]:
                best = found
    return None if best is None else plan_of(knobs, best[1])


def within(
    knobs: Sequence[Knob], costs: CostModel, limits: Sequence[float] | Costs, state: Sequence[int] | Levels
) -> tuple[int, ...] | None:
    """Return a state near `state` that is within the limits and uses them; None if there is none below it.

    Knobs are turned further until it fits, then back, one at a time and always where most is predicted to be won, as
    long as it still fits.

    Args:
        knobs: what can be turned.
        costs: what the network costs.
        limits: of each kind of cost; infinity where there is none.
        state: levels (knobs,) to begin with.
    """
    bounds, start = np.asarray(limits, dtype=np.float64), np.asarray(state, dtype=np.int64)
    over = np.flatnonzero(costs(start[None])[0] > bounds).tolist()
    found = next((low for low in descend(knobs, costs, over, start) if _fits(costs(low[None]), bounds)[0]), None)
    if found is None:
        return None
    while len(tried := _turned(knobs, found, back=True)) and len(tried := tried[_fits(costs(tried), bounds)]):
        found = tried[int(np.argmin(_losses(knobs, tried)))]
    return tuple(int(level) for level in found)


def descend(
    knobs: Sequence[Knob], costs: CostModel, kinds: Sequence[int], start: Levels | None = None
) -> Iterator[Levels]:
    """Yield the states from `start` to the smallest network, each one turn of one knob from the one before.

    Of equal turns the one that saves more comes first, then the one of the earlier knob.

    Args:
        knobs: what can be turned.
        costs: what the network costs.
        kinds: which costs count.
        start: the first state; the untouched network by default.
    """
    state = np.zeros(len(knobs), dtype=np.int64) if start is None else start
    yield state
    while len(tried := _turned(knobs, state, back=False)):
        before, after = costs(state[None])[:, list(kinds)], costs(tried)[:, list(kinds)]
        saved = np.log(before / after).sum(1)
        lost = _losses(knobs, tried) - _losses(knobs, state[None])
        useful = saved > 1e-12
        if not useful.any():
            return
        tried, saved, lost = tried[useful], saved[useful], lost[useful]
        # lexsort sorts by its last key first; it is stable, so that knobs keep their order.
        state = tried[np.lexsort((-saved, lost / saved))[0]]
        yield state


def smallest(knobs: Sequence[Knob]) -> Plan:
    """Return the plan with every knob turned as far as it goes."""
    return plan_of(knobs, [len(knob.levels) - 1 for knob in knobs])


def loss_curve(measured: Mapping[int, float], levels: Sequence[int]) -> tuple[float, ...]:
    """Return the loss at each level, from measurements at some values of the knob.

    Losses are made to never fall, since less cannot be better but by chance; between two measurements they lie on a
    straight line, beyond the last one on that of its mean or its last slope, whichever is steeper.

    Args:
        measured: value of the knob -> loss, nats.
        levels: values, falling; at the first one the loss is 0.
    """
    points = [(float(levels[0]), 0.0)]
    for value in sorted((value for value in measured if value < levels[0]), reverse=True):
        points.append((float(value), max(points[-1][1], measured[value])))
    if len(points) == 1:
        return tuple(0.0 for _ in levels)
    (x0, y0), (x1, y1), (start, _) = points[-2], points[-1], points[0]
    slope = max((y1 - y0) / (x0 - x1), y1 / (start - x1))
    xs, ys = ([point[axis] for point in reversed(points)] for axis in (0, 1))
    inside = np.interp(levels, xs, ys)
    return tuple(float(y) if x >= x1 else y1 + slope * (x1 - x) for x, y in zip(levels, inside, strict=True))


def _turned(knobs: Sequence[Knob], state: Levels, *, back: bool) -> Levels:
    """Return all states (N, knobs) with one knob turned further, or back, over any number of levels."""
    rows = []
    for index, knob in enumerate(knobs):
        for level in range(state[index]) if back else range(state[index] + 1, len(knob.levels)):
            row = state.copy()
            row[index] = level
            rows.append(row)
    return np.array(rows, dtype=np.int64).reshape(len(rows), len(knobs))


def _losses(knobs: Sequence[Knob], states: Levels) -> Costs:
    """Return the predicted loss of each state."""
    total = np.zeros(len(states))
    for index, knob in enumerate(knobs):
        total += np.asarray(knob.losses)[states[:, index]]
    return total


def _fits(costs: Costs, bounds: Costs) -> npt.NDArray[np.bool_]:
    fits: npt.NDArray[np.bool_] = np.all(costs <= bounds, axis=1)
    return fits
