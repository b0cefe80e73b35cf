"""Items made in the background, in order, a few ahead of who takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetch(
    make: Callable[[int], T], start: int, stop: int, *, ahead: int = 2, workers: int = 1
) -> Generator[T, None, None]:
    """``make(start)``, ``make(start + 1)``, ... ``make(stop - 1)``, made by threads while the taker works.

    At most ``ahead`` items beside the one in the taker's hands are running or waiting: a slow taker stops the threads,
    and memory holds a few items whatever the range.

    Args:
        make: makes one item from its number; called by several threads at once where there are several workers.
        start: the first number.
        stop: the number after the last.
        ahead: items running or waiting at most; at least 1.
        workers: threads; more than ``ahead`` would idle.

    Returns:
        An iterator. What ``make`` raises is raised when its item is asked for, after the items before it. Closing the
        iterator, or leaving it to be collected, waits for the items that are being made and ends the threads.

    Raises:
        ValueError: ``ahead`` or ``workers`` is below 1.

    >>> list(prefetch(lambda number: number**2, 2, 5))
    [4, 9, 16]
    """
    if ahead < 1 or workers < 1:
        raise ValueError(f"ahead {ahead}, workers {workers}; expected at least 1")
    return _items(make, start, stop, ahead, workers)


def _items(make: Callable[[int], T], start: int, stop: int, ahead: int, workers: int) -> Generator[T, None, None]:
    waiting: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(min(workers, ahead), thread_name_prefix="teva-prefetch")
    try:
        waiting.extend(pool.submit(make, number) for number in range(start, min(start + ahead, stop)))
        for number in range(start, stop):
            item = waiting.popleft().result()
            # Begun before the item is handed over: its place is free now, and the taker may be slow.
            if number + ahead < stop:
                waiting.append(pool.submit(make, number + ahead))
            yield item
            del item  # not kept while the next one is waited for
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
