import threading
import time

import pytest

from copytrace.errors import MediaError
from copytrace.media.prefetch import prefetch


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
    assert second_began.wait(5)
    results.close()


def test_closing_early_drops_what_has_not_begun_and_leaves_no_thread():
    loaded = []

    def load(number: int) -> None:
        time.sleep(0.02)
        loaded.append(number)

    results = prefetch(range(1000), load, threads=1, ahead=500)
    next(results)
    results.close()
    assert len(loaded) < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize(("threads", "ahead"), [(0, 1), (1, 0)])
def test_fewer_than_one_thread_or_item_ahead_is_refused_at_the_call(threads, ahead):
    with pytest.raises(ValueError, match="at least 1"):
        prefetch([1], str, threads=threads, ahead=ahead)
