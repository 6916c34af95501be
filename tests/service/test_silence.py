"""Whose silence counts, and when."""

from __future__ import annotations

from uuid import UUID, uuid4

from tasks.service.silence import Heard, Silence

RUN, OTHER = uuid4(), uuid4()


def seconds(silence: Silence, now: float, signs: dict[UUID, str]) -> list[float]:
    return [heard.seconds for heard in silence.look(now, signs).values()]


def test_silence_grows_from_look_to_look_until_there_is_a_new_sign() -> None:
    silence = Silence(longest_gap=15)
    assert seconds(silence, 100, {RUN: "a", OTHER: "x"}) == [0, 0]
    assert seconds(silence, 110, {RUN: "a", OTHER: "xy"}) == [10, 0]
    assert seconds(silence, 120, {RUN: "a", OTHER: "xy"}) == [20, 10]
    assert silence.look(130, {RUN: "ab", OTHER: "y"}) == {RUN: Heard(0, is_new=True), OTHER: Heard(20)}


def test_signs_that_the_server_no_longer_lists_are_no_new_sign() -> None:
    silence = Silence(longest_gap=15)
    silence.look(0, {RUN: "abc"})
    assert silence.look(10, {RUN: "c"}) == {RUN: Heard(10)}
    assert silence.look(20, {RUN: ""}) == {RUN: Heard(20)}


def test_after_a_look_that_failed_every_count_starts_anew() -> None:
    silence = Silence(longest_gap=15)
    for now in (0, 10, 20):
        silence.look(now, {RUN: "a"})
    silence.start_anew()
    assert seconds(silence, 25, {RUN: "a"}) == [0]
    assert seconds(silence, 35, {RUN: "a"}) == [10]


def test_time_in_which_the_watch_itself_was_paused_does_not_count() -> None:
    silence = Silence(longest_gap=15)
    silence.look(0, {RUN: "a"})
    assert seconds(silence, 600, {RUN: "a"}) == [0]
    assert seconds(silence, 610, {RUN: "a"}) == [10]


def test_a_sign_that_came_while_the_server_was_away_is_new() -> None:
    silence = Silence(longest_gap=15)
    silence.look(0, {RUN: "a"})
    silence.start_anew()
    assert silence.look(300, {RUN: "ab"}) == {RUN: Heard(0, is_new=True)}


def test_of_a_run_that_is_seen_for_the_first_time_no_sign_is_new() -> None:
    silence = Silence(longest_gap=15)
    silence.look(0, {})
    assert silence.look(10, {RUN: "ab"}) == {RUN: Heard(0, is_new=False)}
