import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from copytrace.errors import ConfigError, InputError
from copytrace.report.images import write_image_report
from copytrace.search.cut_lists import describe_cut

FLOATS = pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        *[("query_id", pa.string()), ("reference_id", pa.string()), ("score", pa.float64())],
        *[("branches", pa.list_(pa.string())), ("similarity", pa.float32()), ("normalized_similarity", pa.float32())],
        *[("votes", pa.float32()), ("ratio_matches", pa.int32()), ("inliers", pa.int32()), ("mirrored", pa.bool_())],
        *[("transform", FLOATS), ("query_points", FLOATS), ("reference_points", FLOATS), ("crop_box", FLOATS)],
    ]
)
SUMMARY = {"queries": 3, "references": 2, "pairs": 4, "failures": 0, "score_kind": "probability", "preset": "cpu"}


def pair(query: str, reference: str, score: float, **evidence: object) -> dict[str, object]:
    return {
        **{"query_id": query, "reference_id": reference, "score": score, "branches": ["global", "local"]},
        **{"similarity": 0.83, "normalized_similarity": None, "votes": None, "ratio_matches": 40, "inliers": 2},
        **{"mirrored": False, "transform": [0.5, 0, 0.25, 0, 0.5, 0.25], "crop_box": None},
        **{"query_points": [0.25, 0.25, 0.75, 0.75], "reference_points": [0.0, 0.0, 1.0, 1.0]},
        **evidence,
    }


FOUR_PAIRS = [pair("Q2", "R1", 0.7), pair("Q1", "R1", 0.99), pair("Q3", "R2", 0.2), pair("Q1", "R2", 0.8)]


@pytest.fixture
def report(tmp_path):
    """Write a page of the given pairs, each id with a small picture of its own, and return its text."""

    def write(rows, *, without=(), reference_paths=None, out="report.html", **options):
        matches = tmp_path / "matches.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), matches)
        paths = {}
        for number, name in enumerate(sorted({row[key] for row in rows for key in ("query_id", "reference_id")})):
            paths[name] = str(tmp_path / f"{number}.png")
            noise = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
            if name not in without:
                Image.fromarray(noise).save(paths[name])
        defaults = {"summary": SUMMARY, "threshold": 0.5}
        sides = {"query": paths, "reference": paths if reference_paths is None else reference_paths}
        page = write_image_report(matches, tmp_path / out, paths=sides, **{**defaults, **options})
        return page.read_text(encoding="utf-8")

    return write


def test_the_page_asks_nothing_of_any_other_host(report, parse):
    text = report(FOUR_PAIRS)
    assert "://" not in text
    assert not re.search(r"@import|url\(", text)
    policy = next(meta["content"] for meta in parse(text).all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_pairs_stand_best_first_whatever_the_order_in_the_file(report, parse):
    assert parse(report(FOUR_PAIRS)).cards() == [("Q1", "R1"), ("Q1", "R2"), ("Q2", "R1"), ("Q3", "R2")]


def test_equal_scores_are_ordered_by_query_and_then_by_reference(report, parse):
    rows = [pair("Q2", "R1", 0.9), pair("Q1", "R2", 0.9), pair("Q1", "R1", 0.9)]
    assert parse(report(rows)).cards() == [("Q1", "R1"), ("Q1", "R2"), ("Q2", "R1")]


def test_only_pairs_at_or_above_the_threshold_are_marked_as_copies(report, parse):
    page = parse(report(FOUR_PAIRS, threshold=0.7))
    assert [card["class"] for card in page.all("article")] == ["card copy", "card copy", "card copy", "card"]
    assert "3 copies found" in page.text
    assert "2 queries have a match that scores 70% or more" in page.text
    assert "Below the threshold of 70%" in page.text


def test_without_a_threshold_no_pair_is_marked_and_none_is_folded_away(report, parse):
    page = parse(report(FOUR_PAIRS, threshold=None))
    assert {card["class"] for card in page.all("article")} == {"card"}
    assert "Below the threshold" not in page.text


def test_more_pairs_than_the_page_may_hold_leave_the_best_and_a_notice(report, parse):
    page = parse(report(FOUR_PAIRS, max_matches=2))
    assert page.cards() == [("Q1", "R1"), ("Q1", "R2")]
    assert "This page shows the best 2 of 4 pairs" in page.text
    assert "3 copies found" in page.text


def test_a_page_that_holds_every_pair_has_no_notice(report):
    assert "This page shows the best" not in report(FOUR_PAIRS, max_matches=4)


def test_a_list_of_copies_that_was_cut_is_told_below_the_headline(report, parse):
    notice = describe_cut(["Q1", "Q3"])
    page = parse(report(FOUR_PAIRS, summary=SUMMARY | {"notice": notice}))
    assert "2 queries may be copies of more references than are listed: Q1, Q3." in page.text
    assert page.text.count(notice) == 1  # and not among the facts of the run
    assert 'id="notice"' not in report(FOUR_PAIRS, summary=SUMMARY | {"notice": describe_cut([])})


def test_a_picture_that_is_gone_or_damaged_or_unknown_leaves_a_placeholder_with_the_reason(report, parse, tmp_path):
    (tmp_path / "damaged.jpg").write_bytes(b"no picture")
    rows = [pair("Q1", "R1", 0.9), pair("Q2", "R2", 0.9)]
    paths = {"R1": str(tmp_path / "damaged.jpg")}
    page = parse(report(rows, without={"Q1"}, reference_paths=paths))
    assert page.text.count("Picture can’t be shown") == 3
    assert "file not found" in page.text
    assert "no image, though its name ends in .jpg" in page.text
    assert "its file is not known" in page.text
    assert [image["alt"] for image in page.all("img")] == ["Query Q2"]


def test_no_pairs_at_all_give_a_page_that_says_so(report, parse):
    page = parse(report([]))
    assert "No copies found" in page.text
    assert "No query is similar enough to a reference" in page.text
    assert page.all("script") == []


def test_pairs_that_are_all_below_the_threshold_are_shown_unfolded(report, parse):
    page = parse(report([pair("Q1", "R1", 0.1)]))
    assert "No pair reaches 50%" in page.text
    assert [fold for fold in page.all("details") if fold.get("id") == "below" and "open" in fold]


def test_the_same_inputs_give_the_same_bytes(report):
    assert report(FOUR_PAIRS, out="first.html") == report(FOUR_PAIRS[::-1], out="second.html")


def test_a_picture_that_several_pairs_show_is_embedded_once(report, parse):
    page = parse(report(FOUR_PAIRS))
    assert len(page.all("img")) == 8
    assert len([script for script in page.all("script") if script.get("type") == "text/plain"]) == 5


def test_scores_that_are_points_read_as_counts(report, parse):
    page = parse(report([pair("Q1", "R1", 1412.0)], summary={"score_kind": "points"}, threshold=30))
    assert re.search(r"1,412\s+points", page.text)
    assert "scores 30 or more" in page.text


def test_a_probability_is_never_rounded_up_to_certainty(report, parse):
    text = parse(report([pair("Q1", "R1", 0.99996)])).text
    assert "> 99.9%" in text
    assert "100.0%" not in text


def test_the_summary_is_shown_with_its_nested_values(report, parse):
    text = parse(report(FOUR_PAIRS, summary={**SUMMARY, "queries": 25000, "seconds": {"describe": 12.34}})).text
    assert "25,000" in text
    assert re.search(r"Seconds: describe\s*12\.3", text)


def test_evidence_is_drawn_in_thousandths_of_the_pictures(report, parse):
    rows = [pair("Q1", "R1", 0.9, crop_box=[0.1, 0.2, 0.5, 1.0])]
    marks = next(tag["data-marks"] for tag in parse(report(rows)).all("div") if "data-marks" in tag)
    assert '"query": [250, 250, 750, 750]' in marks
    assert '"reference": [0, 0, 1000, 1000]' in marks
    assert '"transform": [500, 0, 250, 0, 500, 250]' in marks
    assert '"crop": [100, 200, 500, 1000]' in marks


def test_a_transform_that_is_not_finite_is_not_drawn(report):
    assert '"transform"' not in report([pair("Q1", "R1", 0.9, transform=[float("nan")] * 6)])


HOSTILE = [
    "<script>document.title='owned'</script>",
    "\"><img src=x onerror=document.title='owned'>",
    "' onmouseover='document.title=1",
    "{{ 7 * 7 }}</title></style>",
]


def test_ids_and_summary_values_that_look_like_markup_stay_text(report, parse):
    rows = [pair(name, "R1", 0.9) for name in HOSTILE]
    page = parse(report(rows, summary={**SUMMARY, "preset": HOSTILE[0]}))
    assert {query for query, _ in page.cards()} == set(HOSTILE)
    assert all(page.text.count(name) >= 1 for name in HOSTILE)
    assert len(page.all("script")) == 1 + 5  # the page's own and one per picture
    assert not [tag for tag, attributes in page.tags if {"onerror", "onmouseover"} & set(attributes)]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), None])
def test_a_score_that_is_no_number_is_refused(report, score):
    with pytest.raises(InputError, match="a score is not a number"):
        report([pair("Q1", "R1", score)])


def test_matches_that_lack_a_column_are_refused_by_name(tmp_path):
    matches = tmp_path / "matches.parquet"
    pq.write_table(pa.Table.from_pylist(FOUR_PAIRS, schema=SCHEMA).drop_columns(["inliers", "mirrored"]), matches)
    with pytest.raises(InputError, match=r"no column inliers, mirrored; run the matching again"):
        write_image_report(
            matches, tmp_path / "r.html", paths={"query": {}, "reference": {}}, summary={}, threshold=None
        )
    assert not (tmp_path / "r.html").exists()


def test_matches_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"unreadable matches .*absent\.parquet"):
        write_image_report(
            tmp_path / "absent.parquet",
            tmp_path / "r.html",
            paths={"query": {}, "reference": {}},
            summary={},
            threshold=1,
        )


@pytest.mark.parametrize("option", [{"max_matches": 0}, {"picture_side": 0}, {"summary": {"score_kind": "stars"}}])
def test_options_out_of_range_are_refused(report, option):
    with pytest.raises(ConfigError):
        report(FOUR_PAIRS, **option)


def test_in_a_browser_a_link_to_a_search_shows_just_the_pairs_that_it_names(report, browse, tmp_path):
    report(FOUR_PAIRS)
    page = browse(tmp_path / "report.html", "q=q1%20r2")
    assert page.cards(shown=True) == [("Q1", "R2")]
    assert "Showing 1 of 4 pairs" in page.text


def test_in_a_browser_pictures_load_marks_are_drawn_and_hostile_ids_do_nothing(report, browse, tmp_path):
    report([pair(name, "R1", 0.9) for name in HOSTILE])
    page = browse(tmp_path / "report.html", "sort=query&min=0.5")
    assert len(page.cards(shown=True)) == len(HOSTILE)
    assert all((image["src"] or "").startswith("data:image/webp;base64,") for image in page.all("img"))
    assert len(page.all("circle")) == len(HOSTILE) * 2 * 2  # two points in each of two pictures
    assert len(page.all("line")) == len(HOSTILE) * 2
    assert "Copytrace: image matches" in page.text
