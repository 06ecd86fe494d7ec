"""In order, lazily, and no longer than the caller wants."""

import threading
import time
from collections.abc import Iterator

import pytest

from slimfer.runtime.parallel import in_order


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_order_is_that_of_the_items(workers: int) -> None:
    def slow_at_first(n: int) -> int:
        time.sleep(0.02 if n % 5 == 0 else 0)
        return n * n

    assert list(in_order(slow_at_first, range(40), workers)) == [n * n for n in range(40)]


def test_they_are_worked_on_at_the_same_time() -> None:
    both = threading.Barrier(3, timeout=10)
    assert list(in_order(lambda _: both.wait() >= 0, range(3), 3)) == [True] * 3


@pytest.mark.parametrize("workers", [1, 3])
def test_items_are_drawn_as_they_are_needed(workers: int) -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        while drawn < 10_000:
            drawn += 1
            yield drawn

    for answered, _ in enumerate(in_order(str, items(), workers)):
        assert drawn - answered <= 4 * workers
        if answered == 200:
            break


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_comes_in_its_place(workers: int) -> None:
    answers = in_order(lambda n: 1 // (5 - n), range(10), workers)
    assert [next(answers) for _ in range(5)] == [0, 0, 0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(answers)


def test_nothing_is_begun_after_the_caller_has_left() -> None:
    begun: list[int] = []
    answers = in_order(begun.append, range(1000), 2)
    next(answers)
    answers.close()
    number = len(begun)
    time.sleep(0.05)
    assert number == len(begun) <= 20
