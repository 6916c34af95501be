from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.images import ImageSettings, MergeSettings, VerificationSettings
from copytrace.errors import ConfigError
from copytrace.index.manifest import write_manifest
from copytrace.matching.evidence import EVIDENCE_SCHEMA
from copytrace.matching.merge import CSV_COLUMNS, MATCH_SCHEMA, merge_matches
from copytrace.matching.score import FEATURES, TEMPLATE_FEATURES
from copytrace.media.files import MediaItem
from copytrace.run_folder import ImageRunFolder
from copytrace.search.cut_lists import read_cut
from copytrace.storage import digest_of, write_json
from copytrace.tables import write_table

SUM = MergeSettings(rule="sum")
VERIFICATION = {"sum": "imgfp", "calibrated": "geometry"}


def row(query: str, reference: str, **known: Any) -> dict[str, Any]:
    basis = {"branches": ["local"], "ratio_matches": 0, "inliers": 0, "branch_matches": [], "view": "whole"}
    basis |= {"mirrored": False, "negative": False, "query_points": [], "reference_points": []}
    return basis | {"query_id": query, "reference_id": reference} | known


def merged(
    folder: Path,
    shards: Sequence[Sequence[dict[str, Any]]],
    rules: MergeSettings,
    *,
    shared: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Merge rows and return those of `matches.parquet`; images named in `shared` are one file on both sides."""
    run = ImageRunFolder(folder)
    sides: dict[str, dict[str, tuple[MediaItem, int]]] = {"query": {}, "reference": {}}
    for number, rows in enumerate(shards):
        path = write_table(run.evidence(number), pa.Table.from_pylist(list(rows), schema=EVIDENCE_SCHEMA))
        write_json(path.with_suffix(".json"), {"fingerprint": digest_of(list(rows))})
        lonely = f"query without pairs {number}"
        sides["query"][lonely] = (MediaItem(lonely, f"query/{lonely}", "1"), number)
        for side, items in sides.items():
            for name in (each[f"{side}_id"] for each in rows):
                items[name] = (MediaItem(name, ("" if name in shared else f"{side}/") + name, "1"), number)
    roots = [folder / side for side in sides]
    for root, items in zip(roots, sides.values(), strict=True):
        write_json(root / "index.json", {"kind": "images"})
        write_manifest(root, items, {})
    merge_matches(
        *roots, run, ImageSettings(merge=rules, verification=VerificationSettings(rule=VERIFICATION[rules.rule]))
    )
    return pq.read_table(run.matches, schema=MATCH_SCHEMA).to_pylist()


def calibration(folder: Path, bias: float, **weights: float) -> MergeSettings:
    """Return rules with a score by these weights of evidence, whatever template two pictures may share."""
    copy = {"weights": dict.fromkeys(FEATURES, 0.0) | weights, "bias": bias}
    template = {"weights": dict.fromkeys(TEMPLATE_FEATURES, 0.0), "bias": 1e300}
    path = write_json(folder / "calibration.json", {"copy": copy, "template": template})
    return MergeSettings(rule="calibrated", calibration=str(path), min_score=0)


def scores(rows: list[dict[str, Any]]) -> list[tuple[str, str, float]]:
    return [(row["query_id"], row["reference_id"], row["score"]) for row in rows]


@pytest.fixture
def by_inliers(tmp_path: Path) -> MergeSettings:
    """Rules whose score is (1 + inliers) / (5 + inliers), for the three and more that count."""
    return calibration(tmp_path, 0.0, log_inliers=1.0)


def test_the_sum_rule_adds_the_matches_of_all_branches(tmp_path: Path) -> None:
    rows = [
        row("q", "a", branch_matches=[4, 5, 6]),
        row("q", "b", branch_matches=[0]),
        row("p", "a", branch_matches=[9]),
    ]
    assert scores(merged(tmp_path, [rows], SUM)) == [("q", "a", 15), ("p", "a", 9), ("q", "b", 0)]


def test_a_calibrated_score_is_the_probability(tmp_path: Path, by_inliers: MergeSettings) -> None:
    rows = [row("q", "a", inliers=15), row("q", "b", inliers=7)]
    assert scores(merged(tmp_path, [rows], by_inliers)) == [
        ("q", "a", pytest.approx(0.8)),
        ("q", "b", pytest.approx(2 / 3)),
    ]


@pytest.mark.parametrize(
    ("evidence", "supported"),
    [
        ({"inliers": 5, "view_points": 300}, True),
        ({"inliers": 4, "view_points": 300, "similarity": 0.99, "votes": 150.0}, False),  # a page of other words
        (
            {"inliers": 0, "view_points": 300, "similarity": 0.99},
            False,
        ),  # a photo with a black box, and a black picture
        ({"inliers": 1, "view_points": 26, "similarity": 0.99999}, True),  # the same pattern
        ({"inliers": 0, "view_points": 2, "similarity": 0.99}, True),  # the same plain picture
        ({"inliers": 0, "view_points": 2, "similarity": 0.9}, False),  # plain pictures of two colors
    ],
)
def test_likeness_without_points_that_agree_is_no_copy(
    tmp_path: Path, evidence: dict[str, Any], supported: bool
) -> None:
    ((_, _, score),) = scores(merged(tmp_path, [[row("q", "r", **evidence)]], calibration(tmp_path, 4.0)))
    assert score > 0.9 if supported else score < 0.1


def test_pairs_of_all_shards_are_sorted_best_first_and_ties_by_ids(tmp_path: Path) -> None:
    shards = [
        [row("b", "y", branch_matches=[7]), row("b", "x", branch_matches=[7])],
        [],
        [row("a", "z", branch_matches=[7]), row("c", "x", branch_matches=[8])],
    ]
    assert scores(merged(tmp_path, shards, SUM)) == [("c", "x", 8), ("a", "z", 7), ("b", "x", 7), ("b", "y", 7)]


def test_pairs_below_the_least_score_are_left_out(tmp_path: Path, by_inliers: MergeSettings) -> None:
    rows = [row("q", "a", inliers=15), row("q", "b", inliers=7), row("q", "c", inliers=0)]
    rules = by_inliers.model_copy(update={"min_score": 0.6})
    assert [r["reference_id"] for r in merged(tmp_path, [rows], rules)] == ["a", "b"]


def test_a_list_that_is_full_of_copies_may_have_been_cut(tmp_path: Path, by_inliers: MergeSettings) -> None:
    def proposed(query: str, branch: str, copies: int, others: int = 0) -> list[dict[str, Any]]:
        inliers = [15] * copies + [0] * others
        return [row(query, f"{n:02}", branches=[branch], inliers=count) for n, count in enumerate(inliers)]

    local, overall = ImageSettings().local.references_per_query, ImageSettings().global_.references_per_query
    shards = [
        [*proposed("full", "local", local), *proposed("with another", "local", local - 1, 1)],
        [*proposed("recognized as copies", "local", local + 1), *proposed("full too", "global", overall)],
    ]
    merged(tmp_path, shards, by_inliers)
    assert read_cut(ImageRunFolder(tmp_path), [0, 1]) == ["full", "full too"]


def test_within_one_folder_a_pair_appears_once_by_its_better_score(tmp_path: Path) -> None:
    rows = [
        row("a", "b", branch_matches=[5]),
        row("b", "a", branch_matches=[6]),
        row("b", "c", branch_matches=[4]),
        row("c", "b", branch_matches=[4]),
    ]
    assert scores(merged(tmp_path, [rows], SUM, shared="abc")) == [("b", "a", 6), ("b", "c", 4)]


def test_between_two_folders_equal_ids_are_not_the_same_image(tmp_path: Path) -> None:
    rows = [row("a", "b", branch_matches=[5]), row("b", "a", branch_matches=[6]), row("a", "a", branch_matches=[3])]
    assert len(merged(tmp_path, [rows], SUM)) == 3


def test_folders_that_share_one_file_lose_no_pair(tmp_path: Path) -> None:
    rows = [
        row("a", "b", branch_matches=[5]),
        row("x", "a", branch_matches=[4]),
        row("a", "y", branch_matches=[3]),
        row("x", "y", branch_matches=[2]),
    ]
    assert len(merged(tmp_path, [rows], SUM, shared="a")) == 4


@pytest.mark.parametrize("shards", [[], [[]], [[], []]])
@pytest.mark.parametrize("rule", ["sum", "calibrated"])
def test_without_pairs_the_tables_have_columns_and_no_rows(tmp_path: Path, shards: list[Any], rule: str) -> None:
    assert merged(tmp_path, shards, MergeSettings.model_validate({"rule": rule})) == []
    assert (tmp_path / "matches.csv").read_text().replace('"', "").strip() == ",".join(CSV_COLUMNS)


def test_the_csv_says_what_the_parquet_says(tmp_path: Path, by_inliers: MergeSettings) -> None:
    rows = [
        row(
            'q,"1"', "réf", inliers=12, similarity=0.5, votes=3.25, branches=["global", "local"], mirrored=True,
            transform=[1, 0, 0.5, 0, 1, -0.25], crop_box=[0.25, 0, 1, 1], coverage=0.125, agreement=0.75,
        ),
        row("2024", "007", inliers=1),
    ]  # fmt: skip
    table = merged(tmp_path, [rows], by_inliers)
    read = pd.read_csv(tmp_path / "matches.csv", dtype={"query_id": str, "reference_id": str})
    assert list(read.columns) == list(CSV_COLUMNS)
    for there, here in zip(table, read.to_dict("records"), strict=True):
        for name in ("query_id", "reference_id", "score", "inliers", "ratio_matches", "mirrored", "negative"):
            assert here[name] == there[name]
        for name in ("similarity", "votes", "crop_votes", "coverage", "agreement"):
            assert pd.isna(here[name]) if there[name] is None else here[name] == there[name]
    assert read.loc[0, "branches"] == "global+local"
    assert read.loc[0, "transform"] == "1 0 0.5 0 1 -0.25"
    assert read.loc[0, "crop_box"] == "0.25 0 1 1"
    assert pd.isna(read.loc[1, "transform"])


def test_merging_again_gives_the_same_bytes(tmp_path: Path, by_inliers: MergeSettings) -> None:
    rows = [row("q", str(n), inliers=n % 4, transform=[1.0] * 6 if n % 2 else None) for n in range(20)]
    files = [tmp_path / name for name in ("matches.parquet", "matches.csv")]
    merged(tmp_path, [rows[:7], rows[7:]], by_inliers)
    first = [path.read_bytes() for path in files]
    merged(tmp_path, [rows[::-1]], by_inliers)
    assert [path.read_bytes() for path in files] == first


def test_a_missing_calibration_is_an_error_of_settings(tmp_path: Path) -> None:
    rules = MergeSettings(rule="calibrated", calibration=str(tmp_path / "absent.json"))
    with pytest.raises(ConfigError, match="no calibration file"):
        merged(tmp_path, [[row("q", "a")]], rules)
    assert not (tmp_path / "matches.csv").exists()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")).filter(lambda pair: pair[0] != pair[1]),
        st.lists(st.integers(0, 9), min_size=1, max_size=3),
    )
)
def test_within_one_folder_every_pair_keeps_its_best_sum(
    tmp_path: Path, matches: dict[tuple[str, str], list[int]]
) -> None:
    rows = [row(query, reference, branch_matches=counts) for (query, reference), counts in matches.items()]
    found = scores(merged(tmp_path, [rows], SUM, shared="abcd"))
    best: dict[frozenset[str], int] = {}
    for pair, counts in matches.items():
        best[frozenset(pair)] = max(best.get(frozenset(pair), 0), sum(counts))
    assert {frozenset((query, reference)): score for query, reference, score in found} == best
    assert len(found) == len(best)
    assert [score for _, _, score in found] == sorted(best.values(), reverse=True)
