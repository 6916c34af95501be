import threading
import time
import weakref
from collections.abc import Iterator
from itertools import count

import pytest

from copytrace.errors import MediaError
from copytrace.media.prefetch import prefetch, prefetch_parts

PATIENCE = 60  # seconds, which only a failure takes: a busy machine may leave a thread waiting for some


def threads_left() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_results_come_in_the_order_of_the_items_although_the_first_is_the_slowest():
    def load(number: int) -> int:
        time.sleep(0.05 if number == 0 else 0)
        return number * 10

    assert list(prefetch(range(6), load, threads=3, ahead=4)) == [(n, n * 10) for n in range(6)]


def test_no_items_give_no_results():
    assert list(prefetch([], str, threads=2, ahead=2)) == []


def test_a_media_error_is_yielded_and_the_next_items_still_come():
    def load(name: str) -> str:
        if name == "b":
            raise MediaError("empty file")
        return name.upper()

    outcomes = [outcome for _, outcome in prefetch("abc", load, threads=2, ahead=2)]
    assert outcomes[0] == "A"
    assert isinstance(outcomes[1], MediaError)
    assert str(outcomes[1]) == "empty file"
    assert outcomes[2] == "C"


def test_another_exception_is_raised_where_its_item_is_due():
    results = prefetch([2, 1, 0], lambda number: 2 // number, threads=2, ahead=3)
    assert next(results) == (2, 1)
    assert next(results) == (1, 2)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_exception_of_the_source_is_raised():
    def items():
        yield 1
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        list(prefetch(items(), str, threads=1, ahead=1))


def test_never_more_than_ahead_items_are_loaded_beyond_the_one_in_hand():
    loaded = []
    results = prefetch(range(100), loaded.append, threads=4, ahead=5)
    for taken in range(1, 11):
        next(results)
        time.sleep(0.01)
        assert taken <= len(loaded) <= taken + 5
    results.close()


def test_threads_load_while_the_consumer_is_busy():
    second_began = threading.Event()

    def load(number: int) -> int:
        if number == 1:
            second_began.set()
        return number

    results = prefetch([0, 1], load, threads=1, ahead=1)
    next(results)
    assert second_began.wait(PATIENCE)
    results.close()


def test_closing_early_drops_what_has_not_begun_and_leaves_no_thread():
    loaded = []

    def load(number: int) -> None:
        time.sleep(0.02)
        loaded.append(number)

    results = prefetch(range(1000), load, threads=1, ahead=500)
    next(results)
    results.close()
    assert len(loaded) < 400, "without dropping any, all 501 that wait would be loaded, in ten seconds"
    assert threads_left() == []


@pytest.mark.parametrize(("threads", "ahead"), [(0, 1), (1, 0)])
def test_fewer_than_one_thread_or_item_ahead_is_refused_at_the_call(threads, ahead):
    with pytest.raises(ValueError, match="at least 1"):
        prefetch([1], str, threads=threads, ahead=ahead)


def test_the_parts_of_each_item_come_in_order_and_items_in_theirs():
    def load(name: str) -> Iterator[str]:
        time.sleep(0.05 if name == "a" else 0)
        yield from (f"{name}{number}" for number in range(3))

    found = [(item, list(parts)) for item, parts in prefetch_parts("abcd", load, threads=2, ahead=1)]
    assert found == [(name, [f"{name}0", f"{name}1", f"{name}2"]) for name in "abcd"]


def test_no_items_and_items_without_parts_are_fine():
    assert list(prefetch_parts([], iter, threads=2, ahead=1)) == []
    assert [(item, list(parts)) for item, parts in prefetch_parts(["", ""], iter, threads=1, ahead=1)] == [("", [])] * 2


def test_an_exception_comes_after_the_parts_before_it_and_spares_the_next_items():
    def load(name: str) -> Iterator[str]:
        yield name
        if name == "b":
            raise MediaError("cut short")

    came: list[str] = []
    failed: list[str] = []
    for item, parts in prefetch_parts("abc", load, threads=2, ahead=1):
        try:
            came.extend(parts)
        except MediaError as error:
            failed.append(f"{item}: {error}")
    assert came == ["a", "b", "c"]
    assert failed == ["b: cut short"]


def test_a_load_that_raises_at_once_raises_where_its_first_part_is_due():
    def load(number: int) -> Iterator[int]:
        return iter([1 // number])

    results = prefetch_parts([1, 0], load, threads=1, ahead=1)
    assert list(next(results)[1]) == [1]
    _, parts = next(results)
    with pytest.raises(ZeroDivisionError):
        next(parts)
    assert list(parts) == []


def test_an_exception_of_the_source_of_items_is_raised_and_leaves_no_thread():
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        for _ in prefetch_parts(items(), lambda _: count(), threads=1, ahead=1):
            pass
    assert threads_left() == []


def test_of_each_item_wait_no_more_parts_than_asked_for_beside_the_one_in_work():
    made: list[int] = []

    def load(item: int) -> Iterator[int]:
        for _ in range(1000):
            made.append(item)
            yield item

    results = prefetch_parts([0, 1, 2, 3, 4], load, threads=2, ahead=3)
    next(results)
    deadline = time.monotonic() + PATIENCE
    while len(made) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert {item: made.count(item) for item in set(made)} == {0: 4, 1: 4}
    results.close()


def test_one_thread_goes_on_to_the_next_item_while_the_consumer_is_at_the_last_part_of_this_one():
    second_began = threading.Event()

    def load(number: int) -> Iterator[int]:
        if number == 1:
            second_began.set()
        yield number

    results = prefetch_parts([0, 1], load, threads=1, ahead=1)
    _, parts = next(results)
    next(parts)
    assert second_began.wait(PATIENCE)
    results.close()


def test_parts_that_nobody_wants_are_passed_over_and_their_iterator_ends():
    results = prefetch_parts(range(20), lambda _: count(), threads=2, ahead=2)
    firsts = []
    for item, parts in results:
        firsts.append((item, next(parts)))
        left = parts
    assert firsts == [(item, 0) for item in range(20)]
    assert list(left) == []
    assert threads_left() == []


def test_closing_early_ends_endless_loads_closes_their_generators_and_leaves_no_thread():
    began, closed = threading.Semaphore(0), []

    def load(name: str) -> Iterator[int]:
        began.release()
        try:
            yield from count()
        finally:
            closed.append(name)

    results = prefetch_parts("abcdef", load, threads=3, ahead=1)
    next(results)
    assert all(began.acquire(timeout=PATIENCE) for _ in range(3))
    results.close()
    assert set(closed) == {"a", "b", "c"}
    assert threads_left() == []


def test_memory_lets_go_of_a_part_that_the_consumer_is_done_with():
    class Part:
        pass

    def load(_: int) -> Iterator[Part]:
        while True:
            yield Part()

    results = prefetch_parts([0], load, threads=1, ahead=1)
    _, parts = next(results)
    first = weakref.ref(next(parts))
    next(parts)
    assert first() is None
    results.close()


@pytest.mark.parametrize(("threads", "ahead"), [(0, 1), (1, 0)])
def test_fewer_than_one_thread_or_part_ahead_is_refused_at_the_call(threads, ahead):
    with pytest.raises(ValueError, match="at least 1"):
        prefetch_parts(["a"], iter, threads=threads, ahead=ahead)
