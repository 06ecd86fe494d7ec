"""Many things at once, answers in the order of the questions, and never more of either than are being worked on.

Threads, not processes: decoding, resizing and onnxruntime let go of Python's lock, and every process would hold its own
runtime and model.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 4  # results per worker that may wait for a slow one before them


def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Generator[Result, None, None]:
    """Yield function(item) for every item, in order, `workers` of them at a time.

    Items are drawn as they are needed. An exception of the function comes up in its place. When the caller stops early
    (an exception, Ctrl-C), what is under way is finished and nothing else is begun.
    """
    if workers == 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
