import pytest

from slimfer.cli.budget import Budget

STAGES = [
    {"title": "Dense", "scores": {"accuracy": 0.70}, "bytes": 10_000_000, "latency_ms": {"median": 5.0}},
    {"title": "Cut", "scores": {"accuracy": 0.50}, "bytes": 500_000, "latency_ms": {"median": 1.0}},
    {"title": "Integers", "scores": {"accuracy": 0.69}, "bytes": 250_000, "latency_ms": {"median": 0.1}},
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
