"""Reading ahead: worker threads load the next items while the consumer works on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from copytrace.errors import MediaError

T = TypeVar("T")
R = TypeVar("R")


def prefetch(
    items: Iterable[T], load: Callable[[T], R], *, threads: int, ahead: int
) -> Iterator[tuple[T, R | MediaError]]:
    """Yield each item with `load(item)`, in the order of `items`, loaded by `threads` threads.

    At most `ahead` results are loaded or loading beyond the one that the consumer holds, which bounds memory.
    A `MediaError` is yielded in place of the result; any other exception of `load` is raised where its item
    is due. Closing the iterator drops what has not begun, and waits for what has.

    Raises `ValueError` if `threads` or `ahead` is below 1.
    """
    if threads < 1 or ahead < 1:
        raise ValueError(f"threads and ahead must be at least 1, not {threads} and {ahead}")
    return _prefetch(iter(items), load, threads, ahead)


def _prefetch(
    items: Iterator[T], load: Callable[[T], R], threads: int, ahead: int
) -> Iterator[tuple[T, R | MediaError]]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    pending: deque[tuple[T, Future[R]]] = deque()
    try:
        pending.extend((item, pool.submit(load, item)) for item in islice(items, ahead))
        while pending:
            item, future = pending.popleft()
            outcome = _outcome(future)
            # Before the yield, so that the threads have work while the consumer is busy.
            pending.extend((item, pool.submit(load, item)) for item in islice(items, 1))
            yield item, outcome
    finally:
        pool.shutdown(cancel_futures=True)


def _outcome(future: Future[R]) -> R | MediaError:
    try:
        return future.result()
    except MediaError as error:
        return error
