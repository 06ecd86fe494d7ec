"""Plans from a study of networks that are really cut and rounded, all parts at once, and read; nothing is trained.

The losses of single parts do not say how parts depend on each other; see `slimfer.compress.study`. Every network is
read on the whole validation split: on few pictures the best of a hundred is the luckiest one (docs/methods/search.md).
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count, product

import numpy as np

from slimfer.compress.cut import cut_groups
from slimfer.compress.quantize import quantize
from slimfer.compress.search import Plan, levels_of, plan_of, search
from slimfer.compress.study import study
from slimfer.export.estimate import Values
from slimfer.export.onnx import to_onnx
from slimfer.export.seek import Seeker, plan_digest
from slimfer.metrics import score
from slimfer.runtime.session import Session
from slimfer.train.checkpoint import Checkpoint

# The plans of the additive model that a study starts from: shares of the limits, factors on the losses of cuts.
SHARES = (1.0, 0.9, 0.8)
FACTORS = (1.0, 4.0, 0.25)
DOUBTFUL = 1.05  # what the model puts this far above a limit is not written to see


class Sampled:
    """Proposes the best plan of a study; a `slimfer.export.seek.Propose`. The study runs at the first question."""

    def __init__(self, seeker: Seeker, limits: Sequence[Values]) -> None:
        """Take what to study.

        Args:
            seeker: the search; after `prepare` when the first question comes.
            limits: bytes, milliseconds and multiply-adds; several rows for a front.
        """
        self._seeker, self._limits = seeker, limits
        self._ranked: list[Plan] | None = None

    def __call__(self, cut_loss: float, limits: Values) -> Plan | None:
        """Return the plan with the least loss whose file, written without training, is within the limits."""
        seeker = self._seeker
        if seeker.fits(whole := seeker.whole(), limits):
            return whole
        if self._ranked is None:
            self._ranked = self._study(cut_loss)
        costs = seeker.costs(cut_loss)
        near = (plan for plan in self._ranked if (costs.of_plan(plan) <= DOUBTFUL * limits).all())
        return next((plan for plan in near if seeker.fits(plan, limits)), None)

    def _study(self, cut_loss: float) -> list[Plan]:
        """Return all plans of the study, the best first."""
        seeker = self._seeker
        found = [(row, plan) for row in self._limits if (plan := seeker.propose(cut_loss, row))]
        if not found:
            return []
        costs = seeker.costs(cut_loss)
        # What the model gets wrong near a limit, it gets wrong for all plans there.
        wrong = [np.where(np.isfinite(row), costs.of_plan(plan) / seeker.needs(plan), 1.0) for row, plan in found]
        limits = [row * (1 - seeker.goal.margin) * factor for (row, _), factor in zip(found, wrong, strict=True)]
        first = [plan for _, plan in found]
        for share, factor in product(SHARES, FACTORS):
            other = seeker.costs(factor * cut_loss)
            first += [plan for row in limits if (plan := search(other.knobs, other, share * row))]
        total, numbers = seeker.goal.samples, count()
        samples = study(
            costs.knobs,
            costs,
            limits,
            list(dict.fromkeys(levels_of(costs.knobs, plan) for plan in first)),
            lambda state: self._loss(plan_of(costs.knobs, state), cut_loss, next(numbers)),
            samples=total,
            seed=seeker.config.train.seed,
        )
        seeker.tools.sampled(len(samples), total)
        return [plan_of(costs.knobs, one.state) for one in sorted(samples, key=lambda one: (one.loss, one.state))]

    def _loss(self, plan: Plan, cut_loss: float, number: int) -> float:
        """Return what a plan loses: of its cut the share that fine-tuning leaves, and all that rounding adds to it."""
        seeker = self._seeker

        def now() -> tuple[float, float]:
            seeker.tools.sampled(number, seeker.goal.samples)
            return self._make(plan)

        dense = seeker.once("read dense", lambda: self._read(seeker.dense))
        cut, rounded = seeker.once(f"read {plan_digest(plan)}", now)
        return cut_loss * (cut - dense) + rounded - cut

    def _make(self, plan: Plan) -> tuple[float, float]:
        """Cut and round the network; return its cross-entropy after each."""
        seeker = self._seeker
        steps = {step.kind: step.config for step in seeker.tools.resolve(seeker.steps(plan))[0]}
        network, seed = seeker.dense, seeker.config.train.seed
        if "cut" in steps:  # in the order of the layer-wise trials, which need no gradients
            network = cut_groups(network, seeker.calibration, replace(steps["cut"].cut, criterion="gamma"), seed=seed)
        cut = self._read(network)
        rounded = quantize(network, seeker.calibration, steps["quantize"].quantize, seed=seed)
        return cut, self._read(rounded)

    def _read(self, network: Checkpoint) -> float:
        """Return the mean cross-entropy of a network's file, nats."""
        frames = self._seeker.tools.dataset["validation"]
        probabilities = Session(to_onnx(network)).run_all(frames.images)
        return float(score(probabilities, frames.labels, frames.classes)["nll"])
