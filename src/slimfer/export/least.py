"""The smallest file that loses no more than so much: sizes are halved until one loses too much, then narrowed down."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, sqrt

from slimfer.compress.search import Plan
from slimfer.errors import VerificationError
from slimfer.export.probe import Measured
from slimfer.export.seek import Seeker

HALVINGS = 8  # of the whole network with 8 bits, at most


@dataclass(frozen=True)
class Trained:
    """A plan that was trained in full.

    Attributes:
        name: of the folder of the search that holds the trained chain.
        plan: widths and bits.
        measured: its file.
    """

    name: str
    plan: Plan
    measured: Measured


def smallest(seeker: Seeker) -> Trained:
    """Return the smallest network found that loses no more than `max_drop`; each size is trained in full.

    The loss is taken to grow as sizes fall. That holds but for chance, so what is found is a size that was seen to fit,
    and the next smaller one that was tried was seen not to.

    Args:
        seeker: a new search without limits of cost.

    Raises:
        VerificationError: if already rounding the whole network to 8 bits loses too much.
    """
    seeker.prepare()
    whole = seeker.whole()
    best = Trained("whole", whole, seeker.attempt("whole", seeker.steps(whole)))
    rows = [seeker.table.add("size", "whole", seeker.describe(whole), best.measured, cut_loss=seeker.goal.cut_loss)]
    if _too_much(rows[0]["drop"], seeker):
        raise VerificationError(f"no network fits the budget: max-drop binds; {seeker.table.nearest()}")
    for target in (sizes := _Sizes(best.measured.bytes, seeker.goal.trials)):
        plan = seeker.propose(seeker.goal.cut_loss, [target, inf, inf])
        name = f"size-{len(rows)}"
        if plan is None or plan == best.plan:
            seeker.table.skip(name, f"dropped: no plan found within {target:,.0f} bytes")
            sizes.told(target, fits=False)
            continue
        measured = seeker.attempt(name, seeker.steps(plan))
        rows.append(seeker.table.add("size", name, seeker.describe(plan), measured, cut_loss=seeker.goal.cut_loss))
        fits = not _too_much(rows[-1]["drop"], seeker)
        sizes.told(measured.bytes if fits else target, fits=fits)
        if fits:
            best = Trained(name, plan, measured)
    kept = next(row for row in rows if row["name"] == best.name)
    kept.update(kept=True, why="kept: the smallest within the budget")
    return best


class _Sizes:
    """Bytes to try: halves of the last that fits until one does not, then the geometric mean of both, a few times."""

    def __init__(self, fits: float, means: int) -> None:
        self._fits, self._breaks = fits, 0.0
        self._halvings, self._means = HALVINGS, means

    def __iter__(self) -> Iterator[float]:
        while self._halvings and not self._breaks:
            self._halvings -= 1
            yield self._fits / 2
        while self._means and self._breaks:
            self._means -= 1
            yield sqrt(self._fits * self._breaks)

    def told(self, size: float, *, fits: bool) -> None:
        """Take note of what became of the size that was given last."""
        if fits:
            self._fits = size
        else:
            self._breaks = size


def _too_much(drop: float, seeker: Seeker) -> bool:
    return drop > seeker.goal.max_drop
