from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copytrace.report.time_axis import TimeAxis, assign_lanes, format_clock, media_link
from copytrace.storage import resolve_path

PAGE = Path("/shared/run/report.html")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "00:00.0"), (12.34, "00:12.3"), (59.96, "01:00.0"), (3599.96, "1:00:00.0"), (7325.5, "2:02:05.5")],
)
def test_seconds_read_as_a_clock_that_never_shows_sixty(seconds, text):
    assert format_clock(seconds) == text


def test_a_clock_may_do_without_tenths():
    assert format_clock(75.4, decimals=0) == "01:15"


def test_places_are_percent_of_the_axis_and_never_outside_of_it():
    axis = TimeAxis(10.0, 50.0)
    assert [axis.place(second) for second in (10, 20, 50, 0, 99)] == [0, 25, 100, 0, 100]


def test_ticks_are_round_seconds_within_the_axis():
    assert TimeAxis(2.5, 42.0).ticks(5) == [(18.99, "00:10"), (44.3, "00:20"), (69.62, "00:30"), (94.94, "00:40")]
    assert [label for _, label in TimeAxis(0.0, 0.45).ticks(5)] == [
        "00:00.0",
        "00:00.1",
        "00:00.2",
        "00:00.3",
        "00:00.4",
    ]


@given(st.floats(0, 1e4), st.floats(0.2, 2.8e4), st.integers(2, 12))
def test_ticks_are_never_more_than_asked_for(start, length, most):
    assert len(TimeAxis(start, start + length).ticks(most)) <= most + 1  # rounding may let one more in


def test_overlapping_stretches_get_lanes_of_their_own_and_free_lanes_are_used_again():
    assert assign_lanes([(5, 9), (0, 4), (3, 6), (4, 5)]) == [0, 0, 1, 0]


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 20)).map(lambda pair: (pair[0], pair[0] + pair[1]))))
def test_no_two_stretches_of_a_lane_overlap(spans):
    chosen = assign_lanes(spans)
    for lane in set(chosen):
        own = sorted(span for span, its in zip(spans, chosen, strict=True) if its == lane)
        assert all(first[1] <= second[0] for first, second in pairwise(own))


def test_a_file_is_linked_by_its_way_from_the_page_with_odd_characters_escaped():
    assert media_link("/shared/videos/a b#1?.mp4", PAGE) == "../videos/a%20b%231%3F.mp4"
    assert media_link("/shared/run/javascript:alert(1)", PAGE) == "javascript%3Aalert%281%29"
    assert media_link("file:///shared/videos/a.mp4", PAGE) == "../videos/a.mp4"


def test_web_addresses_are_linked_without_what_gives_access():
    assert media_link("https://me:secret@host/a.mp4?X-Signature=secret", PAGE) == "https://host/a.mp4"


@pytest.mark.parametrize("address", ["s3://bucket/a.mp4", "gs://bucket/a.mp4", "javascript://%0aalert(1)"])
def test_what_browsers_cannot_or_must_not_open_is_not_linked(address):
    assert media_link(address, PAGE) is None


def test_a_page_in_a_store_links_no_local_file():
    page = resolve_path("s3://bucket/run/report.html")
    assert media_link("/shared/videos/a.mp4", page) is None
    assert media_link("s3://bucket/a.mp4", page) is None
    assert media_link("https://host/a.mp4", page) == "https://host/a.mp4"
