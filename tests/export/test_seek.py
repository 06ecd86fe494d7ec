"""A whole search on a network that trains in a second."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from searching import GOAL, seeker, trained
from slimfer.compress.search import Plan
from slimfer.errors import InputError, VerificationError
from slimfer.export.probe import Measured, measure
from slimfer.train.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def dense() -> Checkpoint:
    return trained()


@pytest.fixture(scope="module")
def whole_bytes(dense: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> int:
    one = seeker(dense, tmp_path_factory.mktemp("whole"), replace(GOAL, max_size=10**6))
    one.prepare()
    return one.probe(one.whole()).bytes


def test_what_fits_already_is_only_rounded(dense: Checkpoint, tmp_path: Path) -> None:
    one = seeker(dense, tmp_path, replace(GOAL, max_size=10**6))
    plan = one.run()
    assert one.steps(plan) == ({"do": "quantize", "bits": 8, "per_layer": {}},)
    assert [row["why"] for row in one.table.rows] == [
        "within the budget", "kept: reads best", "dropped: the same plan as trial-1",
    ]  # fmt: skip


def test_the_file_is_within_the_limits_and_two_searches_end_in_the_same(
    dense: Checkpoint, whole_bytes: int, tmp_path: Path
) -> None:
    goal = replace(GOAL, max_size=whole_bytes - 3000, max_mac=2_000_000)
    searches = [seeker(dense, tmp_path / name, goal) for name in ("one", "two")]
    plans = [one.run() for one in searches]
    assert plans[0] == plans[1]
    trials = [row for row in searches[0].table.rows if row["kind"] == "trial" and row["bytes"]]
    assert trials
    for row in trials:
        files = [(tmp_path / name / row["name"] / "model.onnx").read_bytes() for name in ("one", "two")]
        assert files[0] == files[1]
        assert len(files[0]) == row["bytes"] <= goal.max_size
        assert row["macs"] <= goal.max_mac
    assert sum(row["kept"] for row in searches[0].table.rows) == 1
    kept = next(row for row in trials if row["kept"])
    assert kept["accuracy"] == max(row["accuracy"] for row in trials)
    dense_row = searches[0].table.rows[0]
    accuracy = dense_row["accuracy"] + dense_row["drop"] / 100
    assert kept["drop"] == pytest.approx(100 * (accuracy - kept["accuracy"]))


@pytest.mark.parametrize(
    ("limits", "binds"),
    [
        ({"max_size": 1000}, "max-size binds"),
        ({"max_mac": 1000}, "max-mac binds"),
        ({"max_latency": 1e-6, "max_size": 10**6}, "max-latency binds"),
        ({"max_size": 1000, "max_mac": 1000}, "max-size and max-mac bind"),
    ],
)
def test_what_is_impossible_is_said_before_any_training(
    dense: Checkpoint, tmp_path: Path, limits: dict[str, float], binds: str
) -> None:
    one = seeker(dense, tmp_path, replace(GOAL, **limits))
    with pytest.raises(VerificationError, match=f"{binds}; nearest: .* bytes, .* ms, .* multiply-adds") as caught:
        one.run()
    assert caught.value.exit_code == 3
    assert not list(tmp_path.glob("trial-*"))
    assert not (tmp_path / "sensitivity.json").exists()
    assert {row["name"] for row in one.table.rows} == {"dense", "smallest"}


def test_a_limit_of_time_is_met_by_files_that_are_timed(
    dense: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without noise: 10 us for every file and 1 us for every million multiply-adds."""
    change(monkeypatch, lambda found: replace(found, ms=0.01 + 1e-9 * found.macs))
    start = seeker(dense, tmp_path, replace(GOAL, max_latency=1.0))
    start.prepare()
    whole = start.probe(start.whole())
    limit = 0.01 + 0.4e-9 * whole.macs
    one = seeker(dense, tmp_path / "one", replace(GOAL, max_latency=limit))
    one.run()
    kept = next(row for row in one.table.rows if row["kept"])
    assert 0.9 * limit < kept["ms"] <= limit
    assert "8.0 bits" in kept["step"]  # fewer bits make no file faster
    # Times are kept, so that one that goes on does not measure again and decide otherwise.
    change(monkeypatch, lambda found: replace(found, ms=99.0))
    again = seeker(dense, tmp_path / "one", replace(GOAL, max_latency=limit))
    again.run()
    assert again.table.rows == one.table.rows


def test_a_file_that_training_made_too_large_is_tried_again_smaller(
    dense: Checkpoint, whole_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = whole_bytes - 2000
    more = lambda found: found if found.accuracy is None else replace(found, bytes=found.bytes + 3000)  # noqa: E731
    change(monkeypatch, more)
    one = seeker(dense, tmp_path, replace(GOAL, max_size=limit, trials=1))
    one.run()
    rows = {row["name"]: row for row in one.table.rows}
    assert rows["trial-1"]["bytes"] > limit >= rows["trial-1-again"]["bytes"]
    assert rows["trial-1"]["why"].startswith("over the budget: ")
    assert rows["trial-1-again"]["kept"]


def change(monkeypatch: pytest.MonkeyPatch, rule: Callable[[Measured], Measured]) -> None:
    """Let every measurement pass through `rule`."""
    for module in ("probe", "seek"):
        name = f"slimfer.export.{module}.measure"
        monkeypatch.setattr(name, lambda *args, **kwargs: rule(measure(*args, **kwargs)))


def test_killed_again_and_again_it_ends_in_the_same(dense: Checkpoint, whole_bytes: int, tmp_path: Path) -> None:
    goal = replace(GOAL, max_size=whole_bytes - 3000)
    straight = seeker(dense, tmp_path / "straight", goal)
    plan = straight.run()
    kills = 0
    # In the layer-wise trials, in the trainings of trials, after each row of the table.
    for kind, after in (("count", 5), ("count", 9), ("watch", 2), ("tell", 2), ("watch", 5), ("watch", 3), ("tell", 3)):
        child = os.fork()
        if child == 0:
            left = [after]

            def stop(*told: object, left: list[int] = left) -> None:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            tools = {"watch": {"watch": lambda name: stop}}.get(kind, {kind: stop})
            seeker(dense, tmp_path / "killed", goal, **tools).run()
            os._exit(0)
        kills += os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert kills >= 5
    again = seeker(dense, tmp_path / "killed", goal)
    assert again.run() == plan
    for row in (row for row in straight.table.rows if row["kind"] == "trial" and row["bytes"]):
        files = [(tmp_path / name / row["name"] / "model.onnx").read_bytes() for name in ("straight", "killed")]
        assert files[0] == files[1]
    told = [[{k: v for k, v in row.items() if k != "ms"} for row in each.table.rows] for each in (straight, again)]
    assert told[0] == told[1]


def test_a_looser_budget_never_promises_less(dense: Checkpoint, whole_bytes: int, tmp_path: Path) -> None:
    """The law of the core, through real files: bytes more cannot cost accuracy by the model."""
    one = seeker(dense, tmp_path, replace(GOAL, max_size=whole_bytes - 500))
    one.prepare()
    losses = []
    for size in (whole_bytes - 4000, whole_bytes - 3000, whole_bytes - 1500, whole_bytes + 500):
        plan = one.propose(0.25, [size, float("inf"), float("inf")])
        assert plan is not None
        assert one.probe(plan).bytes <= size
        losses.append(plan.loss)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == 0


def test_the_loss_of_a_plan_is_that_of_its_knobs(dense: Checkpoint, tmp_path: Path) -> None:
    one = seeker(dense, tmp_path, replace(GOAL, max_size=10**6))
    one.prepare()
    assert one.loss(one.whole()) == 0
    keep = {name: max(1, size // 2) for name, size in one.sizes.items()}
    plan = Plan(keep, dict.fromkeys(one.whole().bits, 4))
    knobs = {(knob.kind, knob.name): dict(zip(knob.levels, knob.losses, strict=True)) for knob in one.knobs(0.25)}
    known = sum(knobs["cut", name][width] for name, width in keep.items())
    known += sum(knobs["bits", name][4] for name in plan.bits)
    assert one.loss(plan) == pytest.approx(known)


def test_another_search_in_the_same_folder_is_refused(dense: Checkpoint, tmp_path: Path) -> None:
    seeker(dense, tmp_path, replace(GOAL, max_size=10**6))
    seeker(dense, tmp_path, replace(GOAL, max_size=10**6, max_drop=1.0, controls=True))  # decides nothing
    seeker(dense, tmp_path / "drop", replace(GOAL, max_drop=1.0))
    with pytest.raises(InputError, match="holds another search"):
        seeker(dense, tmp_path / "drop", replace(GOAL, max_drop=2.0))  # decides everything
    with pytest.raises(InputError, match="holds another search"):
        seeker(dense, tmp_path, replace(GOAL, max_size=10**5))
