"""Evidence: everything that is measured of each candidate pair, from the points in the indexes; a row per pair."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby, islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from configs.images import ImageSettings
from copytrace.errors import MediaError
from copytrace.features.points import Bytes
from copytrace.features.thumbnails import compare_thumbnails
from copytrace.features.variants import PLAIN, VARIANTS, Variant
from copytrace.index.given_up import limits_of
from copytrace.index.image_index import ImageIndex
from copytrace.index.shard_files import View
from copytrace.matching.confirmation import confirm
from copytrace.matching.content import QUERY_SIDE, SIDE, compare_content, content_columns
from copytrace.matching.ground import DRAWN, DRAWN_FEW_AGREE, DRAWN_REPEATED
from copytrace.matching.score import LEAST_INLIERS, looks_drawn, marks_repeat
from copytrace.matching.verification import Verification, imgfp_score, verify
from copytrace.media.decode import decode_image
from copytrace.media.prefetch import prefetch
from copytrace.panes.names import WHOLE
from copytrace.run_folder import BRANCHES, ImageRunFolder
from copytrace.runtime import usable_cores
from copytrace.search.image_candidates import Candidate, read_candidates
from copytrace.search.local_recall import enabled_variants
from copytrace.step import Step, current_progress, fingerprint_of
from copytrace.tables import write_table

RULES_VERSION = 7  # of what is measured; an unfinished run of an earlier one measures its pairs again
NEAREST = 8  # pairs of a query that descriptors find, the first ones, which are compared in stretched views too
AHEAD = 16  # pairs that wait for each thread, so that it has work while the next shard of references is read
FEW_AGREE = 0.25  # share of the matches: in each of 91 copies of drawn pictures that only points decided, more agree
POINTS_SHOWN = 60  # most inliers of a pair that the report draws

_FLOATS = pa.list_(pa.float32())
EVIDENCE_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("reference_id", pa.string()),
        ("branches", pa.list_(pa.string())),
        ("similarity", pa.float32()),
        ("normalized_similarity", pa.float32()),
        ("thumbnail_difference", pa.float32()),
        ("thumbnail_contrast", pa.float32()),
        ("votes", pa.float32()),
        ("crop_votes", pa.float32()),
        ("view_points", pa.int32()),
        ("ratio_matches", pa.int32()),
        ("inliers", pa.int32()),
        ("coverage", pa.float32()),
        ("agreement", pa.float32()),
        ("distance", pa.float32()),
        ("uniqueness", pa.float32()),
        ("fewest_points", pa.int32()),
        ("confirmed", pa.float32()),
        ("replaced", pa.float32()),
        ("spread", pa.float32()),
        ("replaced_inside", pa.float32()),
        ("spread_inside", pa.float32()),
        ("agreeing_share", pa.float32()),
        ("branch_matches", pa.list_(pa.int32())),
        ("view", pa.string()),
        ("mirrored", pa.bool_()),
        ("negative", pa.bool_()),
        ("transform", _FLOATS),
        ("query_points", _FLOATS),
        ("reference_points", _FLOATS),
        ("crop_box", _FLOATS),
    ]
)


@dataclass
class _Pair:
    """A pair, and what the branches propose for it.

    `is_nearest` says that it is among the `NEAREST` of its query by descriptors: then points of a stretched view may
    agree that got too few votes.
    """

    query_id: str
    reference_id: str
    candidates: list[Candidate] = field(default_factory=list)
    is_nearest: bool = False

    def best(self, branch: str) -> Candidate | None:
        return max((c for c in self.candidates if c.branch == branch), key=lambda c: c.score, default=None)

    def attempts(self, views: dict[str, View], settings: ImageSettings) -> list[tuple[str, int]]:
        """Return the views and variants to compare: those that got votes; for a descriptor, plain and mirrored ones."""
        tried: dict[tuple[str, int], None] = {}
        without_negatives = [v.number for v in enabled_variants(settings.local) if not v.negative]
        stretched = [name for name in views if name.startswith("stretched")] if self.is_nearest else []
        for candidate in self.candidates:
            if candidate.branch != "global":
                tried[candidate.view, candidate.variant] = None
            else:
                tried |= dict.fromkeys(product([WHOLE, candidate.view], without_negatives))
                tried |= dict.fromkeys(product(stretched, [PLAIN.number]))
        return sorted(attempt for attempt in tried if attempt[0] in views)


def score_pairs(shard: int, queries: Path, references: Path, folder: ImageRunFolder, settings: ImageSettings) -> Path:
    """Write the evidence of all candidate pairs of a shard of queries, sorted by their ids, and return the file."""
    query_index, reference_index = ImageIndex.open(queries), ImageIndex.open(references)
    path, ids = folder.evidence(shard), query_index.ids_in(shard)
    files = [folder.candidates(branch, shard) for branch in BRANCHES]
    rules = (settings.verification.model_dump(), settings.local.mirrored, settings.local.negative)
    made_from = [RULES_VERSION, shard, ids, [fingerprint_of(file) for file in files], rules]
    step = Step.of("score pairs", path, made_from=made_from)
    if step.is_done():
        return path
    pairs = _pairs_by_shard(read_candidates(files), reference_index)
    views = {
        image: {view.name: view for view in group}
        for image, group in groupby(query_index.views(shard), key=lambda view: view.id)
    }
    thumbnails = query_index.thumbnails(shard)
    rows: list[dict[str, Any]] = []
    threads = settings.media.threads or usable_cores()

    def score(job: _Job) -> dict[str, Any]:
        query = job.pair.query_id
        own = thumbnails.get(query)
        seen = {} if own is None or job.thumbnail is None else compare_thumbnails(own, job.thumbnail)
        return _evidence(job.pair, views[query], job.reference, settings) | seen

    # Linear algebra takes one thread per pair: pairs are small, and many are compared at the same time.
    with step.run(sum(map(len, pairs.values())), "pairs") as work, threadpool_limits(1):
        jobs = _with_references(pairs, reference_index)
        for _, row in prefetch(jobs, score, threads=threads, ahead=AHEAD * threads):
            if isinstance(row, MediaError):
                raise row
            rows.append(row)
            work.advance()
        rows.sort(key=lambda row: (row["query_id"], row["reference_id"]))
        _compare_pictures(rows, query_index.paths, reference_index.paths, settings)
        write_table(path, pa.Table.from_pylist(rows, schema=EVIDENCE_SCHEMA))
    return path


@dataclass(frozen=True, slots=True)
class _Job:
    """A pair, and the points and the thumbnail, uint8 [864], of its reference; None if that has no thumbnail."""

    pair: _Pair
    reference: View
    thumbnail: Bytes | None


def _with_references(pairs: Mapping[int, list[_Pair]], references: ImageIndex) -> Iterator[_Job]:
    """Yield each pair with its reference; a shard is read when its first pair is due."""
    for shard in sorted(pairs):
        wanted = {pair.reference_id for pair in pairs[shard]}
        points = {view.id: view for view in references.views(shard, wanted)}
        thumbnails = references.thumbnails(shard, wanted)
        for pair in pairs[shard]:
            yield _Job(pair, points[pair.reference_id], thumbnails.get(pair.reference_id))


def _pairs_by_shard(candidates: Sequence[Candidate], references: ImageIndex) -> dict[int, list[_Pair]]:
    """Return the pairs that any branch proposes, by the shard of their reference."""
    pairs: dict[tuple[str, str], _Pair] = {}
    for candidate in candidates:
        key = (candidate.query_id, candidate.reference_id)
        pairs.setdefault(key, _Pair(*key)).candidates.append(candidate)
    found = [candidate for candidate in candidates if candidate.branch == "global"]
    found.sort(key=lambda c: (c.query_id, -(c.normalized or 0.0), c.reference_id))
    for _, of_query in groupby(found, key=lambda candidate: candidate.query_id):
        for candidate in islice(of_query, NEAREST):
            pairs[candidate.query_id, candidate.reference_id].is_nearest = True
    by_shard: dict[int, list[_Pair]] = defaultdict(list)
    shards = references.items.shards_of([pair.reference_id for pair in pairs.values()])
    for pair, shard in zip(pairs.values(), shards.tolist(), strict=True):
        by_shard[shard].append(pair)
    return by_shard


def _evidence(pair: _Pair, views: dict[str, View], reference: View, settings: ImageSettings) -> dict[str, Any]:
    on_global, on_local, on_crop = (pair.best(branch) for branch in ("global", "local", "crop-local"))
    row: dict[str, Any] = {
        "query_id": pair.query_id,
        "reference_id": pair.reference_id,
        "branches": sorted({candidate.branch for candidate in pair.candidates}),
        "similarity": on_global.score if on_global else None,
        "normalized_similarity": on_global.normalized if on_global else None,
        "votes": on_local.score if on_local else None,
        "crop_votes": on_crop.score if on_crop else None,
    }
    if settings.verification.rule == "imgfp":
        return row | _imgfp_evidence(pair, views, reference)
    (name, variant), best = max(
        (
            (attempt, verify(views[attempt[0]].points, reference.points, VARIANTS[attempt[1]], settings.verification))
            for attempt in pair.attempts(views, settings)
        ),
        key=lambda tried: (tried[1].inliers, tried[1].agreement, tried[0][0] == WHOLE),
    )
    return row | _geometric_evidence(views[name], reference, VARIANTS[variant], best)


def _geometric_evidence(view: View, reference: View, variant: Variant, found: Verification) -> dict[str, Any]:
    shown = slice(0, POINTS_SHOWN)
    confirmation = confirm(view.points, reference.points, variant, found)
    return {
        "view_points": len(view.points),
        "ratio_matches": found.ratio_matches,
        "inliers": found.inliers,
        "coverage": found.coverage,
        "agreement": found.agreement,
        "distance": confirmation and confirmation.distance,
        "uniqueness": confirmation and confirmation.uniqueness,
        "fewest_points": confirmation and confirmation.points,
        "confirmed": confirmation and confirmation.share,
        "branch_matches": [],
        "view": view.name,
        "mirrored": found.mirrored,
        "negative": found.negative,
        "transform": None if found.transform is None else found.transform.ravel().tolist(),
        "query_points": found.query_points[shown].ravel().tolist(),
        "reference_points": found.reference_points[shown].ravel().tolist(),
        "crop_box": list(view.points.box) if view.name.startswith("crop") else None,
    }


def _compare_pictures(
    rows: Sequence[dict[str, Any]], queries: Mapping[str, str], references: Mapping[str, str], settings: ImageSettings
) -> None:
    """Add to the rows, sorted by queries, what the pictures of drawn pairs show; where one cannot be read, nothing."""
    jobs = []
    for query, of_query in groupby(rows, key=lambda row: row["query_id"]):
        drawn = [(row, ground) for row in of_query if (ground := least_ground(row)) is not None]
        drawn.sort(key=lambda pair: -pair[0]["inliers"])
        if drawn := drawn[: settings.verification.compared_pictures]:
            jobs.append((queries[query], drawn))
    rules: dict[str, Any] = {"max_pixels": settings.media.max_pixels, "limits": limits_of(settings.media)}
    threads = settings.media.threads or usable_cores()

    def compare(job: tuple[str, list[tuple[dict[str, Any], float]]]) -> None:
        path, pairs = job
        query = decode_image(path, short_side=QUERY_SIDE, **rules).pixels
        for row, ground in pairs:
            with suppress(MediaError):
                reference = decode_image(references[row["reference_id"]], short_side=SIDE, **rules).pixels
                transform = np.array(row["transform"], np.float64).reshape(2, 3)
                given = {"negative": row["negative"], "least_ground": ground}
                row.update(content_columns(compare_content(query, reference, transform, **given)))

    with current_progress().step("compare pictures", len(jobs), "queries") as work:
        for _ in prefetch(jobs, compare, threads=threads, ahead=threads):
            work.advance()


def least_ground(row: Mapping[str, Any]) -> float | None:
    """Return how much plain ground makes the pictures of a pair drawn ones; None if they are not to be compared.

    Marks that repeat, or of which few agree, are reason enough to look where there is less of it: a camera leaves less
    plain ground, and points of codes, chats and tables may be as unique as those of photographs.
    """
    if row["inliers"] < LEAST_INLIERS or row["transform"] is None:
        return None
    if marks_repeat(row["uniqueness"]):
        return DRAWN_REPEATED
    if row["agreement"] < FEW_AGREE:
        return DRAWN_FEW_AGREE
    return DRAWN if looks_drawn(row["uniqueness"], row["fewest_points"]) else None


def _imgfp_evidence(pair: _Pair, views: dict[str, View], reference: View) -> dict[str, Any]:
    """Return imgFp's counts of matches: one per branch that proposed the pair, on the branch's view of the query."""
    counted: dict[str, tuple[int, bool]] = {}
    matches: list[int] = []
    for candidate in sorted(pair.candidates, key=lambda c: c.branch):
        view = candidate.view if candidate.view in views else WHOLE
        if view not in counted:
            counted[view] = imgfp_score(views[view].points, reference.points)
        matches.append(counted[view][0])
    best = max(counted, key=lambda name: counted[name][0])
    return {
        "view_points": len(views[best].points),
        "ratio_matches": counted[best][0],
        "inliers": 0,
        "branch_matches": matches,
        "view": best,
        "mirrored": counted[best][1],
        "negative": False,
        "query_points": [],
        "reference_points": [],
        "crop_box": list(views[best].points.box) if best.startswith("crop") else None,
    }
