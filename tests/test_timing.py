import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimfer.errors import InputError
from slimfer.timing import Timing, interleave, rate, summarize


class Clock:
    """Time that passes only when a job says so."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def job(self, name, *seconds):
        durations = iter(seconds) if len(seconds) > 1 else None

        def run():
            self.calls.append(name)
            self.now += next(durations) if durations else seconds[0]

        return run


def test_jobs_run_in_turn_in_rotating_order():
    clock = Clock()
    jobs = {name: clock.job(name, 1.0) for name in "abc"}
    interleave(jobs, rounds=4, min_time=0, warmup=0, clock=clock)
    assert "".join(clock.calls) == "abcbcacababc"


def test_times_are_those_of_the_jobs():
    clock = Clock()
    jobs = {"slow": clock.job("slow", 0.010), "fast": clock.job("fast", 0.002)}
    timings = interleave(jobs, rounds=5, min_time=0, warmup=2, clock=clock)
    assert list(timings) == ["slow", "fast"]
    assert timings["slow"].median_ms == pytest.approx(10)
    assert timings["fast"].p95_ms == pytest.approx(2)
    assert timings["fast"].rounds == 5


def test_warm_up_is_not_timed():
    clock = Clock()
    timing = interleave({"job": clock.job("job", 9.0, 9.0, 1.0)}, rounds=1, min_time=0, warmup=2, clock=clock)["job"]
    assert timing == Timing(1000.0, 1000.0, 1000.0, 1)


def test_a_turn_lasts_at_least_min_time():
    clock = Clock()
    interleave({"job": clock.job("job", 0.25)}, rounds=2, min_time=1.0, warmup=0, clock=clock)
    assert len(clock.calls) == 8


def test_a_slow_job_has_one_call_per_turn():
    clock = Clock()
    interleave({"job": clock.job("job", 5.0)}, rounds=3, min_time=1.0, warmup=0, clock=clock)
    assert len(clock.calls) == 3


def test_p95_is_the_nearest_rank():
    assert summarize([0.001 * i for i in range(100, 0, -1)], 1).p95_ms == pytest.approx(95)
    assert summarize([0.001 * i for i in range(1, 21)], 1).p95_ms == pytest.approx(19)


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=200))
def test_best_median_and_p95_are_in_order_and_within_the_calls(seconds):
    timing = summarize(seconds, 1)
    assert timing.best_ms == 1e3 * min(seconds)
    assert timing.best_ms <= timing.median_ms <= 1e3 * max(seconds) * (1 + 1e-12)
    assert timing.median_ms <= timing.p95_ms * (1 + 1e-12)
    # At least 95 % of the calls were no slower.
    assert sum(1e3 * s <= timing.p95_ms for s in seconds) >= 0.95 * len(seconds)


@given(st.permutations([0.1, 0.2, 0.3, 0.4, 0.7]))
def test_order_of_the_calls_does_not_matter(seconds):
    assert summarize(seconds, 1) == summarize(sorted(seconds), 1)


def test_rate_is_items_over_the_median():
    assert rate(Timing(4.0, 5.0, 3.0, 1), items=32) == pytest.approx(8000)


def test_to_dict_has_the_names_of_results_json():
    assert Timing(2.0, 3.0, 1.0, 7).to_dict() == {"median": 2.0, "p95": 3.0, "best": 1.0}


def test_nothing_to_time_is_refused():
    with pytest.raises(InputError, match="no jobs"):
        interleave({})
    with pytest.raises(InputError, match="rounds must be at least 1, not 0"):
        interleave({"job": lambda: None}, rounds=0)
