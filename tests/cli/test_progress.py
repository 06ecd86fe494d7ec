"""How far a work is, without a terminal."""

import pytest

from slimfer.cli import progress


class Heard:
    def __init__(self) -> None:
        self.shares: list[float] = []
        self.lines: list[str] = []

    def step(self, title: str, done: float) -> None:
        self.shares.append(done)

    def epoch(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def follow(clock: list[float], total: int, seconds: float, done: int = 0) -> Heard:
    heard = Heard()
    pace = progress.Pace(heard, total, "pictures", done=done)
    for _ in range(total - done):
        clock[0] += seconds
        pace.step()
    assert pace.done == total
    return heard


def test_short_work_has_no_line(clock: list[float]) -> None:
    assert follow(clock, 400, 0.01).lines == []


def test_long_work_has_a_line_for_each_tenth(clock: list[float]) -> None:
    heard = follow(clock, 1000, 0.1)
    assert len(heard.lines) == 9
    assert heard.lines[4] == "500 of 1,000 pictures  50 s  left 50 s"


def test_very_long_work_has_a_line_each_minute(clock: list[float]) -> None:
    heard = follow(clock, 100_000, 0.1)
    assert len(heard.lines) == pytest.approx(100_000 * 0.1 / 60, abs=12)


def test_the_time_left_is_judged_by_this_process_alone(clock: list[float]) -> None:
    heard = follow(clock, 1000, 0.1, done=500)
    assert heard.lines[0] == "600 of 1,000 pictures  10 s  left 40 s"


def test_a_bar_moves_ten_times_a_second_and_never_too_far(clock: list[float]) -> None:
    heard = follow(clock, 10_000, 0.001)
    assert 90 <= len(heard.shares) <= 101
    assert max(heard.shares) <= 1
