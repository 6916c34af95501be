from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from configs.images import ImageSettings, VerificationSettings
from copytrace.index.image_index import ImageIndex
from copytrace.matching import evidence as evidence_module
from copytrace.matching.evidence import EVIDENCE_SCHEMA, score_pairs
from copytrace.matching.verification import Verification
from copytrace.run_folder import BRANCHES, ImageRunFolder
from copytrace.search.image_candidates import CANDIDATE_SCHEMA, Candidate
from copytrace.synthesis.drawn_set import PICTURE_KINDS
from copytrace.tables import table_of_rows, write_table

Pixels = NDArray[np.uint8]
Build = Callable[..., tuple[ImageIndex, list[int]]]
WritePhotos = Callable[[Path, Mapping[str, Pixels]], Path]
Indexes = tuple[ImageIndex, ImageIndex]


@pytest.fixture
def indexes(
    tmp_path: Path,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_index: Build,
    image_settings: ImageSettings,
) -> Indexes:
    edited = {
        "mirrored": np.ascontiguousarray(photos["coffee"][:, ::-1]),
        "plain": photos["coffee"],
        "narrow": np.ascontiguousarray(photos["coffee"][:, ::2]),
        "uniform": np.full((80, 80, 3), 90, np.uint8),
    }
    settings = image_settings.model_copy(update={"media": image_settings.media.model_copy(update={"shard_size": 10})})
    queries = write_photos(tmp_path / "queries", edited)
    references = write_photos(tmp_path / "references", photos)
    return (
        build_index(queries, tmp_path / "query-index", "queries", settings)[0],
        build_index(references, tmp_path / "reference-index", "references", image_settings)[0],
    )


def rows_of(
    indexes: Indexes, candidates: list[Candidate], settings: ImageSettings, path: Path
) -> dict[tuple[str, str], dict[str, Any]]:
    run = ImageRunFolder(path)
    for branch in BRANCHES:
        rows = [astuple(candidate) for candidate in candidates if candidate.branch == branch]
        write_table(run.candidates(branch, 0), table_of_rows(rows, CANDIDATE_SCHEMA))
    score_pairs(0, indexes[0].root, indexes[1].root, run, settings)
    rows = pq.read_table(run.evidence(0), schema=EVIDENCE_SCHEMA).to_pylist()
    pairs = {(row["query_id"], row["reference_id"]): row for row in rows}
    assert len(pairs) == len(rows)
    assert list(pairs) == sorted(pairs)
    return pairs


def on_global(query: str, reference: str, score: float = 0.5, view: str = "whole") -> Candidate:
    return Candidate(query, reference, "global", score, score - 0.25, view, 0)


def on_local(query: str, reference: str, votes: float = 10, view: str = "whole", variant: int = 0) -> Candidate:
    return Candidate(query, reference, "local", votes, None, view, variant)


def imgfp(settings: ImageSettings) -> ImageSettings:
    return settings.model_copy(update={"verification": VerificationSettings(rule="imgfp")})


def test_a_pair_of_two_branches_is_one_row_with_the_evidence_of_both(
    indexes: Indexes, image_settings: ImageSettings, tmp_path: Path
) -> None:
    candidates = [on_local("plain", "coffee", 30), on_global("plain", "coffee", 0.75), on_global("plain", "rocket")]
    rows = rows_of(indexes, candidates, image_settings, tmp_path / "e.parquet")
    assert rows.keys() == {("plain", "coffee"), ("plain", "rocket")}
    both = rows["plain", "coffee"]
    assert both["branches"] == ["global", "local"]
    assert (both["similarity"], both["normalized_similarity"], both["votes"], both["crop_votes"]) == (
        0.75, 0.5, 30, None,
    )  # fmt: skip
    assert (both["view"], both["mirrored"], both["negative"], both["crop_box"]) == ("whole", False, False, None)
    alone = rows["plain", "rocket"]
    assert (alone["branches"], alone["votes"]) == (["global"], None)


def test_a_copy_has_many_inliers_and_another_photo_few(
    indexes: Indexes, image_settings: ImageSettings, tmp_path: Path
) -> None:
    candidates = [on_global("plain", name) for name in ("coffee", "rocket", "astronaut")]
    rows = rows_of(indexes, candidates, image_settings, tmp_path / "e.parquet")
    copy = rows["plain", "coffee"]
    assert copy["inliers"] > 80
    assert copy["agreement"] > 0.7
    assert copy["coverage"] > 0.4
    np.testing.assert_allclose(copy["transform"], [1, 0, 0, 0, 1, 0], atol=0.01)
    assert len(copy["query_points"]) == len(copy["reference_points"]) <= 2 * copy["inliers"]
    assert all(rows["plain", name]["inliers"] < 10 for name in ("rocket", "astronaut"))


def test_a_pair_from_the_global_branch_is_tried_mirrored_too(
    indexes: Indexes, image_settings: ImageSettings, tmp_path: Path
) -> None:
    rows = rows_of(indexes, [on_global("mirrored", "coffee")], image_settings, tmp_path / "e.parquet")
    found = rows["mirrored", "coffee"]
    assert found["mirrored"]
    assert found["inliers"] > 60
    np.testing.assert_allclose(found["transform"], [-1, 0, 1, 0, 1, 0], atol=0.02)
    local = image_settings.local.model_copy(update={"mirrored": False})
    plain = rows_of(
        indexes,
        [on_global("mirrored", "coffee")],
        image_settings.model_copy(update={"local": local}),
        tmp_path / "plain.parquet",
    )
    assert plain["mirrored", "coffee"]["inliers"] < 10


def test_the_nearest_pairs_from_the_global_branch_are_tried_stretched_too(
    indexes: Indexes, image_settings: ImageSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence_module, "NEAREST", 3)
    others = ("rocket", "astronaut", "chelsea")
    for nearer in (2, 3):
        candidates = [on_global("narrow", "coffee", 0.5), *(on_global("narrow", n, 0.6) for n in others[:nearer])]
        found = rows_of(indexes, candidates, image_settings, tmp_path / str(nearer))["narrow", "coffee"]
        assert (found["view"] == "stretched2") == (nearer == 2)
        assert (found["inliers"] > 40) == (nearer == 2)


def test_a_pair_from_two_branches_is_tried_stretched_however_few_pairs_there_are(
    indexes: Indexes, image_settings: ImageSettings, tmp_path: Path
) -> None:
    candidates = [on_global("narrow", "coffee"), on_local("narrow", "coffee")]
    rows = rows_of(indexes, candidates, image_settings, tmp_path / "e.parquet")
    assert rows["narrow", "coffee"]["view"] == "stretched2"


def test_a_pair_from_the_local_branch_is_compared_in_the_view_that_was_voted_for(
    indexes: Indexes, image_settings: ImageSettings, tmp_path: Path
) -> None:
    rows = rows_of(indexes, [on_local("plain", "coffee", view="stretched2")], image_settings, tmp_path / "e.parquet")
    found = rows["plain", "coffee"]
    assert found["view"] == "stretched2"
    np.testing.assert_allclose(found["transform"], [1, 0, 0, 0, 1, 0], atol=0.05)  # in shares, stretched or not


def test_a_query_without_points_still_has_its_row(
    indexes: Indexes, image_settings: ImageSettings, tmp_path: Path
) -> None:
    for number, settings in enumerate((image_settings, imgfp(image_settings))):
        rows = rows_of(indexes, [on_global("uniform", "coffee")], settings, tmp_path / f"{number}.parquet")
        found = rows["uniform", "coffee"]
        assert (found["inliers"], found["ratio_matches"], found["transform"]) == (0, 0, None)


def test_a_view_whose_points_were_not_kept_is_compared_as_a_whole(
    indexes: Indexes, image_settings: ImageSettings, tmp_path: Path
) -> None:
    for number, settings in enumerate((image_settings, imgfp(image_settings))):
        candidates = [on_global("plain", "coffee", view="crop0")]
        found = rows_of(indexes, candidates, settings, tmp_path / f"{number}.parquet")["plain", "coffee"]
        assert found["view"] == "whole"
        assert found["ratio_matches"] > 60


def test_by_imgfps_rule_matches_are_counted_once_per_branch(
    indexes: Indexes, image_settings: ImageSettings, tmp_path: Path
) -> None:
    candidates = [on_local("plain", "coffee"), on_global("plain", "coffee"), on_global("plain", "rocket")]
    rows = rows_of(indexes, candidates, imgfp(image_settings), tmp_path / "e.parquet")
    copy, other = rows["plain", "coffee"], rows["plain", "rocket"]
    assert copy["branch_matches"] == [copy["ratio_matches"]] * 2
    assert copy["ratio_matches"] > 60
    assert other["branch_matches"] == [other["ratio_matches"]]
    assert other["ratio_matches"] < 10


@pytest.mark.parametrize("rule", ["geometry", "imgfp"])
def test_without_candidates_the_file_is_empty(
    indexes: Indexes, image_settings: ImageSettings, tmp_path: Path, rule: str
) -> None:
    settings = image_settings if rule == "geometry" else imgfp(image_settings)
    assert rows_of(indexes, [], settings, tmp_path / "e.parquet") == {}


def test_evidence_does_not_depend_on_threads_or_on_the_order_of_candidates(
    indexes: Indexes, image_settings: ImageSettings, tmp_path: Path
) -> None:
    names = ("astronaut", "chelsea", "coffee", "rocket")
    candidates = [on_global(query, name) for query in ("plain", "mirrored") for name in names]
    media = image_settings.media.model_copy(update={"threads": 1})
    rows_of(indexes, candidates, image_settings, tmp_path / "first")
    rows_of(indexes, candidates[::-1], image_settings.model_copy(update={"media": media}), tmp_path / "second")
    first, second = (ImageRunFolder(tmp_path / name).evidence(0) for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_pairs_of_several_shards_of_references_are_compared_at_the_same_time(
    indexes: Indexes, image_settings: ImageSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (indexes[1].ids_in(shard)[0] for shard in indexes[1].shards)
    together, compare = threading.Barrier(2, timeout=60), evidence_module.verify

    def wait_for_another(*given: Any) -> Verification:
        together.wait()
        return compare(*given)

    monkeypatch.setattr(evidence_module, "verify", wait_for_another)
    candidates = [on_local("plain", first), on_local("plain", second)]
    assert len(rows_of(indexes, candidates, image_settings, tmp_path)) == 2


def test_drawn_pictures_are_compared_unless_one_cannot_be_read(
    tmp_path: Path,
    write_photos: WritePhotos,
    build_index: Build,
    image_settings: ImageSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(5)
    form = PICTURE_KINDS["form"](rng)
    first, second = (np.asarray(form(rng)) for _ in range(2))
    queries = write_photos(tmp_path / "queries", {"copy": first, "gone": first})
    references = write_photos(tmp_path / "references", {"first": first, "second": second})
    indexes = (
        build_index(queries, tmp_path / "query-index", "queries", image_settings)[0],
        build_index(references, tmp_path / "reference-index", "references", image_settings)[0],
    )
    Path(indexes[0].paths["gone"]).unlink()
    candidates = [on_local(query, reference) for query in ("copy", "gone") for reference in ("first", "second")]
    # Where points are unique, pictures are compared only if few agree.
    monkeypatch.setattr(evidence_module, "looks_drawn", lambda *_: False)
    monkeypatch.setattr(evidence_module, "marks_repeat", lambda _: False)
    pairs = rows_of(indexes, candidates, image_settings, tmp_path / "unique")
    assert {row["replaced"] for row in pairs.values()} == {None}
    monkeypatch.setattr(evidence_module, "FEW_AGREE", 1.0)
    pairs = rows_of(indexes, candidates, image_settings, tmp_path / "few")
    assert pairs["copy", "second"]["replaced"] > 0.05
    monkeypatch.undo()
    pairs = rows_of(indexes, candidates, image_settings, tmp_path / "run")
    assert pairs["copy", "first"]["replaced"] < 0.01
    assert pairs["copy", "second"]["replaced"] > 0.05
    assert pairs["gone", "second"]["replaced"] is None
    assert pairs["gone", "second"]["inliers"] == pairs["copy", "second"]["inliers"]


@pytest.mark.parametrize(
    ("uniqueness", "points", "agreement", "expected"),
    [
        (5_000, 600, 0.6, 0.3),  # marks repeat
        (11_000, 600, 0.6, 0.4),  # not clearly those of a photograph
        (15_000, 100, 0.6, 0.4),
        (15_000, 600, 0.2, 0.33),  # few agree
        (15_000, 600, 0.6, None),
    ],
)
def test_how_much_plain_ground_makes_a_drawn_picture_depends_on_its_points(
    uniqueness: float, points: int, agreement: float, expected: float | None
) -> None:
    measured = {"uniqueness": uniqueness, "fewest_points": points, "agreement": agreement}
    row = {"inliers": 5, "transform": [1, 0, 0, 0, 1, 0], **measured}
    assert evidence_module.least_ground(row) == expected
    assert evidence_module.least_ground(row | {"inliers": 4}) is None
    assert evidence_module.least_ground(row | {"transform": None}) is None
