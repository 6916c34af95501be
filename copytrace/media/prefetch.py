"""Prefetching: worker threads load the next items while the consumer works on the current one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from queue import Empty, Queue
from typing import Generic, TypeVar

from copytrace.errors import MediaError

T = TypeVar("T")
R = TypeVar("R")


def prefetch(
    items: Iterable[T], load: Callable[[T], R], *, threads: int, ahead: int
) -> Iterator[tuple[T, R | MediaError]]:
    """Yield each item with the result of `load(item)`, in the order of `items`; `threads` threads load.

    At most `ahead` results are loaded or being loaded besides the consumer's, which bounds memory. A `MediaError` is
    yielded in place of the result; any other exception of `load` is raised when its item is due. Closing the iterator
    cancels loads that have not begun, and waits for the others.

    Raises `ValueError` if `threads` or `ahead` is below 1.
    """
    if threads < 1 or ahead < 1:
        raise ValueError(f"threads and ahead must be at least 1, not {threads} and {ahead}")
    return _prefetch(iter(items), load, threads, ahead)


def prefetch_parts(
    items: Iterable[T], load: Callable[[T], Iterator[R]], *, threads: int, ahead: int
) -> Iterator[tuple[T, Iterator[R]]]:
    """Yield each item with an iterator over the parts that `load(item)` yields, in the order of `items`.

    Each item is loaded by one thread; `threads` items besides the consumer's are loaded or wait at a time. At most
    `ahead` parts of an item wait, besides the one being loaded, so memory is bounded however many parts an item has. An
    exception of `load` is raised when its part is due; later items are not affected. When the consumer takes the next
    item, the iterator of the one before ends. Closing waits for the parts being loaded, and closes the generators.

    Raises `ValueError` if `threads` or `ahead` is below 1.
    """
    if threads < 1 or ahead < 1:
        raise ValueError(f"threads and ahead must be at least 1, not {threads} and {ahead}")
    return _prefetch_parts(iter(items), load, threads, ahead)


def _prefetch_parts(
    items: Iterator[T], load: Callable[[T], Iterator[R]], threads: int, ahead: int
) -> Iterator[tuple[T, Iterator[R]]]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    pending: deque[tuple[T, _Parts[R]]] = deque()

    def begin(item: T) -> tuple[T, _Parts[R]]:
        parts: _Parts[R] = _Parts(ahead)
        pool.submit(parts.fill, load, item)
        return item, parts

    try:
        # One item more than threads, which a thread loads while the consumer works on the last parts of the first.
        # There is no deadlock: threads take items in order, so the first item always has one.
        pending.extend(map(begin, islice(items, threads + 1)))
        while pending:
            item, parts = pending[0]
            yield item, iter(parts)
            parts.abandon()
            pending.popleft()
            pending.extend(map(begin, islice(items, 1)))
    finally:
        for _, parts in pending:
            parts.abandon()
        pool.shutdown(cancel_futures=True)


class _Parts(Generic[R]):
    """A queue of one item's parts, from the thread that loads them to the consumer."""

    def __init__(self, ahead: int) -> None:
        self._queue: Queue[R | _End] = Queue(ahead)
        self._abandoned = threading.Event()

    def fill(self, load: Callable[[T], Iterator[R]], item: T) -> None:
        try:
            for part in load(item):
                self._queue.put(part)
                if self._abandoned.is_set():
                    return
                del part  # frees its memory while the next one is loaded
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer's thread
            self._queue.put(_End(error))
        else:
            self._queue.put(_End(None))

    def abandon(self) -> None:
        """Stop the thread: make room in the queue, so that it sees that its parts are not wanted any more."""
        self._abandoned.set()
        with suppress(Empty):
            while True:
                self._queue.get_nowait()

    def __iter__(self) -> Iterator[R]:
        while not self._abandoned.is_set():
            part = self._queue.get()
            if isinstance(part, _End):
                self._abandoned.set()
                if part.error is None:
                    return
                try:
                    raise part.error
                finally:
                    del part  # breaks the cycle of error and frame, which would keep all that `load` holds in memory
            yield part
            del part  # frees its memory while waiting for the next one


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


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
            # Submitted before the yield, so that the threads work while the consumer does.
            pending.extend((item, pool.submit(load, item)) for item in islice(items, 1))
            yield item, outcome
    finally:
        pool.shutdown(cancel_futures=True)


def _outcome(future: Future[R]) -> R | MediaError:
    try:
        return future.result()
    except MediaError as error:
        return error
