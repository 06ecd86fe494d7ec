import pytest

from slimfer.cli.budget import Budget
from slimfer.compress.goal import SearchConfig
from slimfer.errors import InputError

STAGES = [
    {
        "title": "Dense",
        "scores": {"accuracy": 0.70},
        "bytes": 10_000_000,
        "macs": 9_000_000,
        "latency_ms": {"median": 5.0},
    },
    {"title": "Cut", "scores": {"accuracy": 0.50}, "bytes": 500_000, "macs": 3_000_000, "latency_ms": {"median": 1.0}},
    {
        "title": "Integers",
        "scores": {"accuracy": 0.69},
        "bytes": 250_000,
        "macs": 3_000_000,
        "latency_ms": {"median": 0.1},
    },
]


def test_without_limits_nothing_is_checked() -> None:
    assert Budget().checks(STAGES) == ()


@pytest.mark.parametrize(
    ("budget", "passed"),
    [
        (Budget(max_size=250_000), True),
        (Budget(max_size=249_999), False),
        (Budget(max_latency=0.1), True),
        (Budget(max_latency=0.099), False),
        (Budget(max_mac=3_000_000), True),
        (Budget(max_mac=2_999_999), False),
        (Budget(max_drop=1.01), True),
        (Budget(max_drop=0.99), False),
    ],
)
def test_the_last_stage_is_held_to_each_limit(budget: Budget, passed: bool) -> None:
    (check,) = budget.checks(STAGES)
    assert check.passed is passed


def test_all_limits_together() -> None:
    checks = Budget(max_size=1, max_latency=1.0, max_drop=5.0).checks(STAGES)
    assert [(check.name, check.passed) for check in checks] == [
        ("size", False), ("latency", True), ("accuracy lost", True),
    ]  # fmt: skip


@pytest.mark.parametrize("budget", [{"max_size": 0}, {"max_latency": 0.0}, {"max_mac": 0}])
def test_a_limit_of_nothing_is_refused(budget: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must be above 0, not 0"):
        Budget(**budget)


def test_limits_go_into_a_search_and_come_back() -> None:
    budget = Budget(max_size=1000, max_mac=20, max_drop=0.5)
    goal = budget.over(SearchConfig(max_latency=0.1, max_size=5))
    assert goal == SearchConfig(max_size=1000, max_latency=0.1, max_mac=20, max_drop=0.5)
    assert Budget.of(goal) == Budget(1000, 0.1, 20, 0.5)
    assert Budget.of(SearchConfig()) == Budget()
