"""Time jobs against each other in one interleaved run, so that noise of the machine hits all of them alike.

Absolute times move from machine to machine and from minute to minute; ratios from one interleaved run hardly do.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from slimfer.errors import InputError

Job = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """How long one call of a job took.

    Attributes:
        median_ms: median over all calls, milliseconds.
        p95_ms: 95th percentile over all calls (nearest rank), milliseconds.
        best_ms: fastest call, milliseconds.
        rounds: turns that the job had.
    """

    median_ms: float
    p95_ms: float
    best_ms: float
    rounds: int

    def to_dict(self) -> dict[str, float]:
        """Return the `latency_ms` value of results.json."""
        return {"median": self.median_ms, "p95": self.p95_ms, "best": self.best_ms}


def interleave(
    jobs: Mapping[str, Job],
    *,
    rounds: int = 20,
    min_time: float = 0.02,
    warmup: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Run the jobs in turn and return the time of one call of each, in the order given.

    In every round each job has one turn, in which it is called until `min_time` has passed, at least once; every
    call is timed. The order rotates from round to round, so that no job always follows the same pause.

    Args:
        jobs: functions without arguments, by name.
        rounds: turns per job, at least 1.
        min_time: seconds per turn; 0 means one call per turn.
        warmup: calls of each job before the clock starts.
        clock: a monotonic clock in seconds (tests pass their own).

    Raises:
        InputError: if there is no job, or `rounds` is below 1.
    """
    if not jobs:
        raise InputError("nothing to time: no jobs")
    if rounds < 1:
        raise InputError(f"rounds must be at least 1, not {rounds}")
    names = list(jobs)
    for name in names:
        for _ in range(warmup):
            jobs[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            seconds[name] += _turn(jobs[name], min_time, clock)
    return {name: summarize(seconds[name], rounds) for name in names}


def summarize(seconds: Sequence[float], rounds: int) -> Timing:
    """Return the `Timing` of single calls given in seconds (at least one)."""
    ordered = sorted(seconds)
    count = len(ordered)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    # Nearest rank, in integers: ceil(0.95 n) - 1 counted from 0.
    p95 = ordered[-(-95 * count // 100) - 1]
    return Timing(1e3 * middle, 1e3 * p95, 1e3 * ordered[0], rounds)


def rate(timing: Timing, items: int = 1) -> float:
    """Return the throughput, items per second, of a job that handles `items` per call (from the median)."""
    return 1e3 * items / timing.median_ms


def _turn(job: Job, min_time: float, clock: Callable[[], float]) -> list[float]:
    calls = []
    begun = clock()
    while True:
        start = clock()
        job()
        end = clock()
        calls.append(end - start)
        if end - begun >= min_time:
            return calls
