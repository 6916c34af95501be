"""Candidates of image matching: each branch proposes pairs of a query and a reference for verification."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from configs.images import GlobalSettings, ImageSettings, LocalSettings
from copytrace.arrays import Floats, Numbers
from copytrace.errors import InputError
from copytrace.index.image_index import Descriptors, ImageIndex
from copytrace.index.media_index import check_model
from copytrace.index.point_lists import codebook_digest, group_shards, open_segments
from copytrace.index.shard_files import View
from copytrace.panes.names import WHOLE
from copytrace.run_folder import Branch, ImageRunFolder
from copytrace.search.local_recall import (
    LocalCandidate,
    NearestReferences,
    accept_votes,
    nearest_references,
    recall_by_hough,
    references_kept,
)
from copytrace.search.point_search import ExactSearch, ListSearch, PointSearch
from copytrace.search.vector_search import find_nearest, noise_level
from copytrace.step import Step, StepRun
from copytrace.storage import read_table, real_path, resolve_path, table_of_rows, write_table

POINTS_PER_SEGMENT = 4_000_000  # reference points searched at a time; an exact search needs 2 GB for them


MOST_COPIES = 64  # copies of a reference that are looked for among those nearest to a query
COPY_LIKENESS = 0.9  # least cosine of two references that show the same picture


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pair that a branch proposes; `score` is a cosine or a sum of votes, `variant` a `Variant.number`."""

    query_id: str
    reference_id: str
    branch: Branch
    score: float
    normalized: float | None
    view: str
    variant: int


CANDIDATE_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("reference_id", pa.string()),
        ("branch", pa.string()),
        ("score", pa.float32()),
        ("normalized", pa.float32()),
        ("view", pa.string()),
        ("variant", pa.int8()),
    ]
)


def recall_images(
    branch: Branch, queries: Path, references: Path, folder: ImageRunFolder, settings: ImageSettings
) -> Path:
    """Write the candidates of one branch, sorted by query and then best first, and return the file.

    An image is never its own candidate, however its path is spelled. Raises `ModelMismatchError` if other models made
    the indexes, and `InputError` if the noise index holds references.
    """
    query_index, reference_index = ImageIndex.open(queries), ImageIndex.open(references)
    noise = ImageIndex.open(resolve_path(settings.global_.noise)) if settings.global_.noise else None
    for index in [reference_index, *([noise] if noise else [])]:
        check_model(index, query_index.provenance["descriptor"])
    if noise:
        _check_disjoint(noise, reference_index)
    path = folder.candidates(branch)
    rules = settings.global_ if branch == "global" else settings.local
    indexes = [query_index.fingerprint, reference_index.fingerprint, noise and noise.fingerprint]
    step = Step.of(f"recall {branch}", path, made_from=[branch, *indexes, rules.model_dump(), codebook_digest()])
    if step.is_done():
        return path
    exact = branch != "global" and settings.local.exact
    passes = len(_exact_parts(reference_index)) if exact else 1
    with step.run(len(query_index.items) * passes, "queries") as work:
        if branch == "global":
            found = _global_candidates(query_index, reference_index, noise, settings.global_, work)
        else:
            found = _local_candidates(branch, query_index, reference_index, settings.local, work)
        rows = sorted(found, key=lambda c: (c.query_id, -c.score, c.reference_id))
        write_table(path, table_of_rows([astuple(row) for row in rows], CANDIDATE_SCHEMA))
    return path


def read_candidates(paths: Sequence[Path], queries: Sequence[str]) -> list[Candidate]:
    """Return the candidates of some of the queries from the files of several branches."""
    of_these = pc.field("query_id").isin(pa.array(queries, pa.string()))
    tables = [read_table(path, schema=CANDIDATE_SCHEMA, filters=of_these) for path in paths]
    rows = pa.concat_tables(tables).to_pylist()
    return [Candidate(**row) for row in rows]


def _global_candidates(
    queries: ImageIndex, references: ImageIndex, noise: ImageIndex | None, settings: GlobalSettings, work: StepRun
) -> Iterator[Candidate]:
    reference_ids = [image for shard in references.shards for image in references.descriptors(shard).ids]
    # More than needed: the image itself may be found, and copies of the nearest reference are no noise.
    averaged = settings.normalization_neighbours
    wanted = max(settings.references_per_query, averaged) + 2 + MOST_COPIES
    typical = queries.provenance["typical_noise"] if settings.typical_noise is None else settings.typical_noise
    for shard in queries.shards:
        panes = _searched_panes(queries.descriptors(shard), settings)
        similarity, rows = find_nearest(
            panes.vectors, (references.descriptors(s).vectors for s in references.shards), wanted
        )
        copies = _copies_of_nearest(rows, (references.descriptors(s).vectors for s in references.shards))
        if noise is None:
            others = np.argsort(copies, axis=1, kind="stable")  # copies last
            cosines = np.take_along_axis(np.where(copies, np.float32(-np.inf), similarity), others, axis=1)
            level = noise_level(cosines, averaged, typical=typical)
        else:
            blocks = (noise.descriptors(s).vectors for s in noise.shards)
            to_noise, _ = find_nearest(panes.vectors, blocks, averaged)
            level = noise_level(to_noise, averaged, typical=typical)
        best: dict[tuple[str, str], Candidate] = {}
        alike: set[tuple[str, str]] = set()
        for number, (query, pane) in enumerate(zip(panes.ids, panes.panes, strict=True)):
            for cosine, row, copy in zip(similarity[number], rows[number], copies[number], strict=True):
                if row < 0 or _is_itself(queries, query, references, reference_ids[row]):
                    continue
                normalized = float(cosine - settings.normalization_weight * level[number])
                pair = (query, reference_ids[row])
                if copy and settings.list_copies:
                    alike.add(pair)
                if pair not in best or normalized > (best[pair].normalized or 0.0):
                    best[pair] = Candidate(*pair, "global", float(cosine), normalized, pane, 0)
        yield from _best_of_each_query(best.values(), settings.references_per_query, alike)
        work.advance(len(set(panes.ids)))


def _best_of_each_query(
    candidates: Iterable[Candidate], limit: int, alike: Collection[tuple[str, str]]
) -> Iterator[Candidate]:
    """Yield the best candidates of each query, and further pairs in `alike`: copies of its nearest reference."""
    ordered = sorted(candidates, key=lambda c: (c.query_id, -(c.normalized or 0.0), c.reference_id))
    for _, group in groupby(ordered, key=lambda c: c.query_id):
        for rank, candidate in enumerate(group):
            if rank < limit or (candidate.query_id, candidate.reference_id) in alike:
                yield candidate


def _copies_of_nearest(rows: Numbers, blocks: Iterable[Floats]) -> NDArray[np.bool_]:
    """Return which of the references nearest to each query are the nearest one or copies of it, bool [Q, K].

    `rows` int64 [Q, K] are counted over all blocks, nearest first; −1 stands for none.
    """
    needed = np.unique(np.maximum(rows, 0))
    vectors: list[Floats] = []
    start = 0
    for block in blocks:
        inside = needed[(needed >= start) & (needed < start + len(block))]
        vectors.append(block[inside - start])
        start += len(block)
    if not start:
        return np.zeros(rows.shape, bool)
    found = np.concatenate(vectors)[np.searchsorted(needed, np.maximum(rows, 0))]
    likeness = np.einsum("qkd,qd->qk", found, found[:, 0])
    return np.asarray((likeness >= COPY_LIKENESS) & (rows >= 0))


def _searched_panes(descriptors: Descriptors, settings: GlobalSettings) -> Descriptors:
    rows: list[int] = []
    numbered = enumerate(zip(descriptors.ids, descriptors.panes, strict=True))
    for _, group in groupby(numbered, key=lambda entry: entry[1][0]):
        members = list(group)
        chosen = panes_for_global_branch(
            [pane for _, (_, pane) in members], crop_replaces_whole=settings.crop_replaces_whole
        )
        rows += [members[n][0] for n in np.flatnonzero(chosen)]
    return Descriptors(
        tuple(descriptors.ids[r] for r in rows),
        tuple(descriptors.panes[r] for r in rows),
        descriptors.vectors[np.array(rows, int)],
    )


def _local_candidates(
    branch: Branch, queries: ImageIndex, references: ImageIndex, settings: LocalSettings, work: StepRun
) -> Iterator[Candidate]:
    branch_queries = _BranchQueries(branch, queries)
    proposed: dict[str, list[LocalCandidate]] = {}
    nearest: dict[str, list[NearestReferences]] = {}
    for search in _point_searches(references, settings):
        recall = partial(_recall, search, queries, _numbers(references, search), settings)
        threads = faiss.omp_get_max_threads()
        for shard in queries.shards:
            with ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
                for query, found in pool.map(recall, branch_queries.views(shard)):
                    if isinstance(found, NearestReferences):
                        nearest.setdefault(query, []).append(found)
                    else:
                        proposed.setdefault(query, []).extend(found)
                    work.advance()
    if settings.rule == "vote":
        for views in (views for shard in queries.shards for views in branch_queries.views(shard) if views):
            if parts := nearest.get(views[0].id):
                proposed[views[0].id] = accept_votes(views[0], parts, settings)
    for candidates in proposed.values():
        ordered = sorted(candidates, key=lambda c: (-c.votes, c.reference_id))
        for c in ordered[: references_kept([c.votes for c in ordered], settings)]:
            yield Candidate(c.query_id, c.reference_id, branch, c.votes, None, c.view, c.variant)


def _point_searches(references: ImageIndex, settings: LocalSettings) -> Iterator[PointSearch]:
    """Yield the searches that together cover all references: the index's lists, or exact ones of parts of it."""
    if not settings.exact:
        yield ListSearch.of(open_segments(references), lists_searched=settings.lists_searched)
        return
    for shards in _exact_parts(references):
        # Sorted by id, so that an index gives the same candidates whether it was built at once or grew.
        views = sorted((view for shard in shards for view in references.views(shard)), key=lambda view: view.id)
        yield ExactSearch.of(views, lists_searched=settings.lists_searched)


def _numbers(references: ImageIndex, search: PointSearch) -> dict[str, int]:
    """Return the number of each current reference in a search, by its `real_path`."""
    return {
        real_path(references.items[image][0].path): number
        for number, image in enumerate(search.ids)
        if image in references.items
    }


@dataclass(frozen=True, slots=True)
class _BranchQueries:
    """The views of each query for one branch: the crops, or all other views."""

    branch: Branch
    queries: ImageIndex

    def views(self, shard: int) -> Iterator[list[View]]:
        for _, group in groupby(self.queries.views(shard), key=lambda view: view.id):
            yield [view for view in group if view.name.startswith("crop") == (self.branch == "crop-local")]


def _exact_parts(references: ImageIndex) -> list[list[int]]:
    """Return the runs of shards that are searched exactly, one after another, with their points in memory."""
    return list(group_shards({s: references.point_count(s) for s in references.shards}, POINTS_PER_SEGMENT))


def _recall(
    index: PointSearch, queries: ImageIndex, numbers: dict[str, int], settings: LocalSettings, views: Sequence[View]
) -> tuple[str, list[LocalCandidate] | NearestReferences]:
    """Return a query and what recall finds for it; `numbers` has each reference's number in `index` by `real_path`."""
    if not views:
        return "", []
    query = views[0].id
    own = numbers.get(real_path(queries.items[query][0].path))
    allowed = None if own is None else np.arange(len(index.ids)) != own
    if settings.rule == "vote":
        return query, nearest_references(views[0], index, settings, allowed)
    return query, recall_by_hough(views, index, settings, allowed)


def _is_itself(queries: ImageIndex, query: str, references: ImageIndex, reference: str) -> bool:
    return real_path(queries.items[query][0].path) == real_path(references.items[reference][0].path)


def _check_disjoint(noise: ImageIndex, references: ImageIndex) -> None:
    shared = set(map(real_path, noise.paths.values())) & set(map(real_path, references.paths.values()))
    if shared:
        raise InputError(
            f"global.noise={noise.root} and the references share {len(shared):,} files, for instance {min(shared)}; "
            "noise must be images that no query was copied from"
        )


def panes_for_global_branch(panes: Sequence[str], *, crop_replaces_whole: bool) -> NDArray[np.bool_]:
    """Return which panes of a query are searched: all of them or, as in imgFp, the first crop instead of the whole."""
    names = np.array(panes)
    if crop_replaces_whole and "crop0" in panes:
        return np.asarray(names == "crop0")
    return np.asarray(names == WHOLE) if crop_replaces_whole else np.ones(len(names), bool)
