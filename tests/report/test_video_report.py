import base64
import hashlib
import json
import re

import av
import numpy as np
import pytest

from copytrace.alignment.segments import Segment, SimilarityMatrix
from copytrace.errors import ConfigError, InputError
from copytrace.report.video_matches import PaneSegment, VideoMatch
from copytrace.report.videos import VideoPageLimits, write_video_report

LIMITS = ("max_matches", "max_strips", "frame_side")
SUMMARY = {"queries": 3, "references": 2, "failures": 0, "preset": "cpu"}
FORWARDS = Segment(1.0, 5.0, 2.0, 6.0, 0.9)
FASTER = Segment(5.0, 9.0, 0.0, 6.0, 0.8)
BACKWARDS = Segment(1.0, 5.0, 4.0, 8.0, 0.7, reversed=True)


def seconds(count: int) -> np.ndarray:
    return np.stack([np.arange(count), np.arange(count) + 1.0], axis=1)


def match(query: str, reference: str, score: float, *segments: Segment | PaneSegment) -> VideoMatch:
    found = [item if isinstance(item, PaneSegment) else PaneSegment(item) for item in segments or (FORWARDS,)]
    values = np.random.default_rng(0).random((10, 8), np.float32)
    return VideoMatch(query, reference, score, found, SimilarityMatrix(values, seconds(10), seconds(8)))


FOUR_PAIRS = [match("Q2", "R1", 0.7), match("Q1", "R1", 0.99), match("Q3", "R2", 0.2), match("Q1", "R2", 0.8)]


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A video of ten seconds, 64 x 48 pixels, two pictures a second, that grows lighter."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=2, width=64, height=48, pix_fmt="yuv420p")
        for number in range(20):
            picture = np.full((48, 64, 3), 12 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path


@pytest.fixture
def report(clip, tmp_path):
    """Write a page of the given matches, every id showing the same clip, and return its text."""

    def write(matches, *, query_paths=None, reference_paths=None, out="report.html", **options):
        paths = {name: str(clip) for given in matches for name in (given.query_id, given.reference_id)}
        defaults = {"summary": SUMMARY, "threshold": 0.5}
        limits = VideoPageLimits(**{name: options.pop(name) for name in LIMITS if name in options})
        sides = {
            "query": paths if query_paths is None else query_paths,
            "reference": paths if reference_paths is None else reference_paths,
        }
        page = write_video_report(matches, tmp_path / out, paths=sides, limits=limits, **{**defaults, **options})
        return page.read_text(encoding="utf-8")

    return write


def films(page):
    return [json.loads(button["data-film"]) for button in page.all("button") if "data-film" in button]


def test_the_page_asks_nothing_of_any_other_host(report, parse):
    text = report(FOUR_PAIRS)
    assert "://" not in text
    assert not re.search(r"@import|url\(", text)
    policy = next(meta["content"] for meta in parse(text).all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_pairs_stand_best_first_and_those_above_the_threshold_are_copies(report, parse):
    page = parse(report(FOUR_PAIRS, threshold=0.7))
    assert page.cards() == [("Q1", "R1"), ("Q1", "R2"), ("Q2", "R1"), ("Q3", "R2")]
    assert [card["class"] for card in page.all("article")] == ["card copy", "card copy", "card copy", "card"]
    assert "3 copies found" in page.text
    assert "Below the threshold of 70%" in page.text


def test_equal_scores_are_ordered_by_query_and_then_by_reference(report, parse):
    page = parse(report([match("Q2", "R1", 0.9), match("Q1", "R2", 0.9), match("Q1", "R1", 0.9)]))
    assert page.cards() == [("Q1", "R1"), ("Q1", "R2"), ("Q2", "R1")]


def test_more_pairs_than_the_page_may_hold_leave_the_best_and_a_notice(report, parse):
    page = parse(report(FOUR_PAIRS, max_matches=2))
    assert page.cards() == [("Q1", "R1"), ("Q1", "R2")]
    assert "This page shows the best 2 of 4 pairs" in page.text
    assert "3 copies found" in page.text


def test_totals_of_the_summary_count_pairs_that_were_never_made_a_match(report, parse):
    page = parse(report(FOUR_PAIRS, summary={**SUMMARY, "pairs": 1200, "copies": 1000, "queries_with_copies": 800}))
    assert "This page shows the best 4 of 1,200 pairs" in page.text
    assert "1,000 copies found" in page.text
    assert "800 queries have a match" in page.text


def test_matches_may_come_one_by_one(tmp_path):
    paths = {"paths": {"query": {}, "reference": {}}, "summary": {}, "threshold": 0.5}
    first = write_video_report(iter(FOUR_PAIRS), tmp_path / "first.html", **paths)
    second = write_video_report(FOUR_PAIRS, tmp_path / "second.html", **paths)
    assert first.read_bytes() == second.read_bytes()


def test_the_same_inputs_give_the_same_bytes_whatever_their_order(report):
    assert report(FOUR_PAIRS, out="first.html") == report(FOUR_PAIRS[::-1], out="second.html")


def test_segments_are_listed_best_first_with_times_speed_and_how_they_play(report, parse):
    text = " ".join(parse(report([match("Q1", "R1", 0.9, BACKWARDS, FASTER, FORWARDS)])).text.split())
    rows = [
        "1 00:01.0 – 00:05.0 00:02.0 – 00:06.0 ×1.00 90.0%",
        "2 00:05.0 – 00:09.0 00:00.0 – 00:06.0 ×1.50 80.0%",
        "3 00:01.0 – 00:05.0 00:04.0 – 00:08.0 ×1.00 70.0% reversed",
    ]
    assert " ".join(rows) in text
    assert "8.0 s of Q1 from R1, in 3 segments" in text  # the first and the third are of the same seconds


def test_columns_of_both_strips_show_the_same_moment_of_the_copy(report, parse):
    film = films(parse(report([match("Q1", "R1", 0.9, FORWARDS)])))[0]
    assert film["query"]["seconds"] == [1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4.25, 4.75]
    assert film["reference"]["seconds"] == [2.25, 2.75, 3.25, 3.75, 4.25, 4.75, 5.25, 5.75]


def test_the_reference_of_a_reversed_segment_runs_backwards(report, parse):
    film = films(parse(report([match("Q1", "R1", 0.9, BACKWARDS)])))[0]
    assert film["query"]["times"][0] == "00:01.2"
    assert film["reference"]["seconds"] == [7.75, 7.25, 6.75, 6.25, 5.75, 5.25, 4.75, 4.25]


def test_segments_are_drawn_where_they_are_in_percent_of_both_videos(report, parse):
    page = parse(report([match("Q1", "R1", 0.9, FORWARDS, BACKWARDS)]))
    edges = [[line[end] for end in ("x1", "y1", "x2", "y2")] for line in page.all("line") if line["class"] == "edge"]
    assert edges == [["25.0", "10.0", "75.0", "50.0"], ["100.0", "10.0", "50.0", "50.0"]]
    bars = [bar["style"] for bar in page.all("i") if "data-n" in bar]
    assert bars[0] == "left:10.0%;width:40.0%;top:0.0%;height:50.0%"  # both cover the same seconds of the query
    assert bars[1] == "left:10.0%;width:40.0%;top:50.0%;height:50.0%"


def test_the_pane_is_outlined_in_percent_of_the_cells_in_which_it_is(report, parse):
    boxes = np.tile(np.float32([0.5, 0.25, 1.0, 0.75]), (10, 1))
    boxes[1] = np.nan
    page = parse(report([match("Q1", "R1", 0.9, PaneSegment(FORWARDS, "pane1", boxes))]))
    query = films(page)[0]["query"]
    assert query["boxes"] == [None, None, *[[50.0, 25.0, 50.0, 50.0]] * 6]  # seconds 1.25 and 1.75 are of row 1
    assert "boxes" not in films(page)[0]["reference"]
    assert "pane1" in page.text


def test_a_box_round_the_whole_picture_is_not_drawn(report, parse):
    whole = np.tile(np.float32([0, 0, 1, 1]), (10, 1))
    assert (
        films(parse(report([match("Q1", "R1", 0.9, PaneSegment(FORWARDS, boxes=whole))])))[0]["query"]["boxes"]
        == [None] * 8
    )


def test_links_open_the_file_at_the_second_by_a_path_relative_to_the_page(report, parse, tmp_path):
    page = parse(report([match("Q1", "R1", 0.9)], query_paths={"Q1": str(tmp_path / "videos" / "a b#1.mp4")}))
    links = [link["href"] for link in page.all("a") if "#t=" in (link["href"] or "")]
    assert len(links) == 1  # that file does not exist: nothing to open
    assert re.fullmatch(r"(\.\./)+clip\d+/clip\.mp4#t=2\.000,6\.000", links[0])


def test_a_file_that_is_gone_or_damaged_or_unknown_leaves_a_placeholder_with_the_reason(report, parse, tmp_path):
    (tmp_path / "damaged.mp4").write_bytes(b"no video")
    paths = {"Q1": str(tmp_path / "gone.mp4"), "Q2": str(tmp_path / "damaged.mp4")}
    found = films(
        parse(report([match("Q1", "R1", 0.9), match("Q2", "R9", 0.8)], query_paths=paths, reference_paths={}))
    )
    assert found[0]["query"]["reason"] == "file not found"
    assert found[1]["query"]["reason"].startswith("no video, though its name ends in .mp4")
    assert found[0]["reference"]["reason"] == "its file is not known"


def test_segments_beyond_the_best_have_no_strips(report, parse):
    page = parse(report([match("Q1", "R1", 0.9, FORWARDS, FASTER, BACKWARDS)], max_strips=2))
    assert len(films(page)) == 2
    assert len([button for button in page.all("button") if "pick" in (button.get("class") or "")]) == 3


def test_no_pairs_at_all_give_a_page_that_says_so(report, parse):
    page = parse(report([]))
    assert "No copies found" in page.text
    assert page.all("script") == []


def test_a_pair_without_segments_shows_its_matrix_alone(report, parse):
    page = parse(report([VideoMatch("Q1", "R1", 0.1, [], match("Q1", "R1", 0.1).matrix)]))
    assert "no segment was found" in page.text
    assert len(page.all("img")) == 1


def test_a_score_that_is_no_number_is_refused(report):
    with pytest.raises(InputError, match="score of Q1 and R1 is not a finite number"):
        report([match("Q1", "R1", float("nan"))])


@pytest.mark.parametrize("option", [{"max_matches": 0}, {"max_strips": 0}, {"frame_side": 0}])
def test_options_out_of_range_are_refused(report, option):
    with pytest.raises(ConfigError):
        report(FOUR_PAIRS, **option)


HOSTILE = ["<script>document.title='owned'</script>", "\"><img src=x onerror=document.title='owned'>", "{{ 7 * 7 }}"]


def test_ids_and_panes_that_look_like_markup_stay_text(report, parse):
    page = parse(report([match(name, "R1", 0.9, PaneSegment(FORWARDS, name)) for name in HOSTILE]))
    assert {query for query, _ in page.cards()} == set(HOSTILE)
    assert all(page.text.count(name) >= 2 for name in HOSTILE)
    assert not [tag for tag, attributes in page.tags if "onerror" in attributes]


def test_in_a_browser_the_best_segment_is_chosen_and_its_strips_stand_one_above_the_other(report, browse, tmp_path):
    boxes = np.tile(np.float32([0.5, 0.25, 1.0, 0.75]), (10, 1))
    report([match("Q1", "R1", 0.9, PaneSegment(FORWARDS, "pane1", boxes), BACKWARDS), match(HOSTILE[1], "R1", 0.8)])
    page = browse(tmp_path / "report.html", "q=q1")
    assert page.cards(shown=True) == [("Q1", "R1")]
    assert "Showing 1 of 2 pairs" in page.text
    shown = [image for image in page.all("img") if (image.get("src") or "").startswith("data:image/webp;base64,")]
    assert [image["alt"] for image in shown][1:] == [
        "Query from 00:01.2 to 00:04.8",
        "Reference from 00:02.2 to 00:05.8",
    ]
    frames = [link["href"] for link in page.all("a") if re.search(r"clip\.mp4#t=[\d.]+$", link["href"] or "")]
    assert [link.partition("#t=")[2] for link in frames[:2]] == ["1.25", "1.75"]
    assert len(frames) == 16
    assert len([box for box in page.all("i") if (box.get("style") or "").startswith("left: 50%")]) == 8
    pressed = [button["aria-pressed"] for button in page.all("button") if button.get("class") == "pick"][:2]
    assert pressed == ["true", "false"]


def test_in_a_browser_choosing_another_segment_swaps_the_strips(report, browse, tmp_path):
    text = report([match("Q1", "R1", 0.9, FORWARDS, BACKWARDS)])
    click = "setTimeout(() => document.querySelectorAll('.pick')[1].click(), 1000)"
    allowed = base64.b64encode(hashlib.sha256(click.encode()).digest()).decode()
    text = text.replace("script-src '", f"script-src 'sha256-{allowed}' '")
    (tmp_path / "clicked.html").write_text(
        text.replace("</body>", f"<script>{click}</script></body>"), encoding="utf-8"
    )
    page = browse(tmp_path / "clicked.html")
    assert [image["alt"] for image in page.all("img")][1:] == [
        "Query from 00:01.2 to 00:04.8",
        "Reference from 00:07.8 to 00:04.2",
    ]


def test_in_a_browser_a_script_that_was_slipped_into_the_page_does_not_run(report, browse, tmp_path):
    text = report([match("Q1", "R1", 0.9, FORWARDS)])
    slipped = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"
    (tmp_path / "slipped.html").write_text(text.replace("</body>", f"{slipped}</body>"), encoding="utf-8")
    page = browse(tmp_path / "slipped.html")
    assert "owned" not in page.text
    assert page.cards(shown=True) == [("Q1", "R1")]  # the page's own script ran
    assert [image["alt"] for image in page.all("img") if (image.get("src") or "").startswith("data:")][1:]


def test_in_a_browser_pairs_can_be_asked_for_by_how_they_were_copied(report, browse, tmp_path):
    report([match("Q1", "R1", 0.9, BACKWARDS), match("Q2", "R1", 0.8, FASTER), match("Q3", "R1", 0.7)])
    page = browse(tmp_path / "report.html", "only=speed")
    assert [query for query, _ in page.cards(shown=True)] == ["Q2"]


def test_a_pair_has_the_traits_of_its_segments(report, parse):
    whole, part = PaneSegment(FORWARDS), PaneSegment(BACKWARDS, "pane0")
    cards = parse(report([match("Q1", "R1", 0.9, whole), match("Q2", "R1", 0.8, part, FASTER)])).all("article")
    assert [card["data-traits"] for card in cards] == ["", "reversed speed pane several"]
