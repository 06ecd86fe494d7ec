"""The smallest file within a loss: sizes against every other one that was tried, on networks that answer at once."""

import re
from dataclasses import dataclass, field
from math import inf
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimfer.compress.search import Plan
from slimfer.errors import VerificationError
from slimfer.export.least import HALVINGS, smallest
from slimfer.export.probe import Measured
from slimfer.export.trials import Trials

WHOLE = 1_000_000


@dataclass
class Pretend:
    """A search whose networks lose `drop(bytes)` points, and whose files have multiples of `step` bytes."""

    drop: object
    limit: float = 1.0
    means: int = 3
    step: int = 1000
    least: int = 0
    tried: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.goal = SimpleNamespace(max_drop=self.limit, trials=self.means, cut_loss=0.25)
        self.table = Trials((inf, inf, inf), 0.9, lambda row: None, max_drop=self.limit)

    def prepare(self) -> None: ...

    def whole(self) -> Plan:
        return Plan({"group": WHOLE}, {})

    def propose(self, cut_loss: float, bounds: list[float]) -> Plan | None:
        size = int(bounds[0] // self.step) * self.step
        return Plan({"group": size}, {}) if size > self.least else None

    def steps(self, plan: Plan) -> tuple[Plan]:
        return (plan,)

    def attempt(self, name: str, steps: tuple[Plan]) -> Measured:
        size = steps[0].keep["group"]
        self.tried.append(size)
        return Measured(size, 1.0, size, size, 0.9 - self.drop(size) / 100)

    def describe(self, plan: Plan) -> str:
        return f"{plan.keep['group']} channels"


@given(st.integers(1, WHOLE), st.integers(0, 6), st.sampled_from([1, 500, 20_000]), st.integers(0, WHOLE // 2))
def test_the_smallest_that_fits_is_closed_in_on(threshold: int, means: int, step: int, least: int) -> None:
    """Where the loss falls with the size, all from `threshold` bytes fit."""
    one = Pretend(lambda size: 2.0 if size < threshold else 0.5, means=means, step=step, least=least)
    best = smallest(one)  # type: ignore[arg-type]
    fitting = [size for size in one.tried if size >= threshold]
    assert best.measured.bytes == min(fitting) == best.plan.keep["group"]
    assert len(one.tried) <= 1 + HALVINGS + means
    kept = [row for row in one.table.rows if row["kept"]]
    assert [row["name"] for row in kept] == [best.name]
    breaks = [size for size in one.tried if size < threshold]
    assert all(row["why"].startswith("over the budget: 2.00 points of 1") for row in one.table.rows
               if row["bytes"] is not None and row["bytes"] < threshold)  # fmt: skip
    if breaks and step == 1 and not least:  # every size can be had
        assert best.measured.bytes <= threshold * 2 ** (0.5**means) + 2


def test_rounding_alone_loses_too_much() -> None:
    with pytest.raises(VerificationError, match=r"max-drop binds; nearest: whole \(1,000,000 bytes") as caught:
        smallest(Pretend(lambda size: 1.5))  # type: ignore[arg-type]
    assert caught.value.exit_code == 3


def test_no_smaller_plan_ends_it() -> None:
    one = Pretend(lambda size: 0.0, least=WHOLE // 3)
    best = smallest(one)  # type: ignore[arg-type]
    assert best.measured.bytes < WHOLE
    skipped = [row["why"] for row in one.table.rows if row["bytes"] is None]
    assert skipped
    assert all(re.match(r"dropped: no plan found within [\d,]+ bytes", why) for why in skipped)
