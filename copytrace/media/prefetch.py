"""Reading ahead: worker threads load the next items while the consumer works on this one."""

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
    """Yield each item with `load(item)`, in the order of `items`, loaded by `threads` threads.

    At most `ahead` results are loaded or loading beyond the one that the consumer holds, which bounds memory.
    A `MediaError` is yielded in place of the result; any other exception of `load` is raised where its item
    is due. Closing the iterator drops what has not begun, and waits for what has.

    Raises `ValueError` if `threads` or `ahead` is below 1.
    """
    if threads < 1 or ahead < 1:
        raise ValueError(f"threads and ahead must be at least 1, not {threads} and {ahead}")
    return _prefetch(iter(items), load, threads, ahead)


def prefetch_parts(
    items: Iterable[T], load: Callable[[T], Iterator[R]], *, threads: int, ahead: int
) -> Iterator[tuple[T, Iterator[R]]]:
    """Yield each item with an iterator over the parts that `load(item)` yields, in the order of `items`.

    `threads` items beyond the consumer's are loaded or wait at a time, each by one thread. Of each, at most `ahead`
    parts wait, beside the one that its thread is at: memory is bounded however many parts an item has. What `load`
    raises is raised where its part is due; the items after it are not affected. Whoever takes the next item leaves
    the iterator of the one before: it ends. Closing waits for the parts that threads are at, and closes generators.

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
        # One more than there are threads: they go on to it while the consumer is at the last parts of the first.
        # Nobody waits for ever, because threads take items in order, and so the first always has one.
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
    """The parts of one item on their way from the thread that loads them to the consumer."""

    def __init__(self, ahead: int) -> None:
        self._queue: Queue[R | _End] = Queue(ahead)
        self._abandoned = threading.Event()

    def fill(self, load: Callable[[T], Iterator[R]], item: T) -> None:
        try:
            for part in load(item):
                self._queue.put(part)
                if self._abandoned.is_set():
                    return
                del part  # so that memory does not hold it while the next one is made
        except BaseException as error:  # noqa: BLE001 - raised again where the consumer waits
            self._queue.put(_End(error))
        else:
            self._queue.put(_End(None))

    def abandon(self) -> None:
        """Let the thread go: a place in the queue, after which it looks whether it is still wanted."""
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
                    del part  # else error and frame hold one another, and all that the frames of `load` hold
            yield part
            del part  # so that memory does not hold it while the next one is waited for


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
