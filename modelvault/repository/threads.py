"""Work spread over threads, results in order, with a bound on what is under way."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_THREADS = 16


def thread_count() -> int:
    """Return how many threads to use: the processors this process may run on, at most `MAX_THREADS`."""
    return max(1, min(MAX_THREADS, len(os.sched_getaffinity(0))))


def in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """Yield `function(item)` for each item, in order, computed a little ahead by several threads.

    At most two items a thread are under way or waiting to be yielded, which bounds memory.
    """
    threads = thread_count()
    if threads == 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(threads)
    try:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # Not waited for: a generator that was dropped half-way may be finalised by the garbage collector in the middle
        # of starting a thread, and joining one there never ends. What still runs has nobody to report to.
        pool.shutdown(wait=False, cancel_futures=True)
