"""Candidates of image matching: each branch proposes pairs of a query and a reference for verification."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from configs.images import GlobalSettings, ImageSettings, LocalSettings
from copytrace.arrays import Floats
from copytrace.checked_files import read_checked
from copytrace.errors import InputError
from copytrace.index.codebook import codebook_digest, quantizer_of
from copytrace.index.image_index import Descriptors, ImageIndex
from copytrace.index.image_segments import open_segments
from copytrace.index.media_index import check_model
from copytrace.index.segments import group_shards
from copytrace.index.shard_files import View
from copytrace.panes.names import WHOLE
from copytrace.run_folder import Branch, ImageRunFolder
from copytrace.search.cut_lists import note_cut
from copytrace.search.descriptor_search import DescriptorSearch
from copytrace.search.image_copies import find_nearest_images
from copytrace.search.local_recall import (
    LocalCandidate,
    NearestReferences,
    accept_votes,
    most_references,
    nearest_references,
    recall_by_hough,
    references_kept,
)
from copytrace.search.own_files import digest_of_shared_places
from copytrace.search.point_search import ExactSearch, ListSearch, PointSearch
from copytrace.search.thumbnail_search import ThumbnailSearch, count_thumbnails
from copytrace.search.vector_search import noise_level
from copytrace.step import Step, StepRun
from copytrace.storage import file_identity, resolve_path
from copytrace.tables import table_of_rows, write_table

POINTS_PER_SEGMENT = 4_000_000  # reference points searched at a time; an exact search needs 2 GB for them
MOST_COPIES = 64  # copies of a reference that are looked for among those nearest to a query


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
    shard: int, branch: Branch, queries: Path, references: Path, folder: ImageRunFolder, settings: ImageSettings
) -> Path:
    """Write the candidates of one branch for a shard of queries, sorted by query and then best first; return the file.

    An image is never its own candidate, whatever names its file has. Raises `ModelMismatchError` if other models made
    the indexes, and `InputError` if the noise index holds references.
    """
    query_index, reference_index = ImageIndex.open(queries), ImageIndex.open(references)
    noise = ImageIndex.open(resolve_path(settings.global_.noise)) if settings.global_.noise else None
    path = folder.candidates(branch, shard)
    rules = settings.global_ if branch == "global" else settings.local
    state = query_index.items.states.get(shard), query_index.ids_in(shard)
    places = digest_of_shared_places(query_index, reference_index)
    indexes = [reference_index.fingerprint, noise and noise.fingerprint, places]
    # Thumbnails are added to an index of an older version later, without changing its fingerprint.
    thumbnails = count_thumbnails(open_segments(reference_index)) if branch == "global" else None
    codebook = codebook_digest(reference_index)
    made_from = [branch, state, *indexes, thumbnails, rules.model_dump(exclude={"codebook"}), codebook]
    step = Step.of(f"recall {branch}", path, made_from=made_from)
    if step.is_done():
        return path
    for index in [reference_index, *([noise] if noise else [])]:
        check_model(index, query_index.provenance["descriptor"])
    if noise:
        _check_disjoint(noise, reference_index)
    part = _QueryShard(shard, query_index, reference_index)
    exact = branch != "global" and settings.local.exact
    passes = len(_exact_parts(reference_index)) if exact else 1
    with step.run(len(query_index.ids_in(shard)) * passes, "queries") as work:
        if branch == "global":
            found = _global_candidates(part, noise, settings.global_, work)
        else:
            found = _local_candidates(part, branch, settings.local, work)
        rows = sorted(found, key=lambda c: (c.query_id, -c.score, c.reference_id))
        write_table(path, table_of_rows([astuple(row) for row in rows], CANDIDATE_SCHEMA))
    return path


def read_candidates(paths: Sequence[Path]) -> list[Candidate]:
    """Return the candidates of a shard of queries from the files of several branches."""
    rows = pa.concat_tables([read_checked(path, schema=CANDIDATE_SCHEMA) for path in paths]).to_pylist()
    return [Candidate(**row) for row in rows]


@dataclass(frozen=True, slots=True)
class _QueryShard:
    """A shard of queries, and the references in which they are searched."""

    number: int
    queries: ImageIndex
    references: ImageIndex

    def is_itself(self, query: str) -> Callable[[str], bool]:
        """Return a function that tells whether a reference is the same file as a query."""
        own = file_identity(self.queries.items[query][0].path)
        return lambda reference: file_identity(self.references.items[reference][0].path) == own


def _global_candidates(
    part: _QueryShard, noise: ImageIndex | None, settings: GlobalSettings, work: StepRun
) -> Iterator[Candidate]:
    # More than needed: the image itself may be found, and copies of a reference count once.
    averaged = settings.normalization_neighbours
    needed = max(settings.references_per_query, averaged) + 2
    typical = part.queries.provenance["typical_noise"] if settings.typical_noise is None else settings.typical_noise
    search = DescriptorSearch(open_segments(part.references))
    panes = _searched_panes(part.queries.descriptors(part.number), settings)
    nearest = find_nearest_images(search, panes.vectors, needed + MOST_COPIES, needed)
    if noise is None:
        cosines = nearest.other_cosines()
    else:
        cosines, _ = DescriptorSearch(open_segments(noise)).nearest(panes.vectors, averaged)
    level = noise_level(cosines, averaged, typical=typical)
    best: dict[tuple[str, str], Candidate] = {}
    alike: set[tuple[str, str]] = set()
    copies = nearest.is_nearest & ~nearest.is_first
    # If the last one looked for is a copy, there may be more.
    many = (copies.sum(axis=1) > MOST_COPIES) | nearest.is_nearest[:, -1]
    cut = {query for query, is_cut in zip(panes.ids, many, strict=True) if is_cut and settings.list_copies}
    for number, (query, pane) in enumerate(zip(panes.ids, panes.panes, strict=True)):
        is_itself = part.is_itself(query)
        listed = nearest.rows[number] >= 0
        if settings.list_copies:
            listed &= nearest.is_first[number] | (copies[number] & (np.cumsum(copies[number]) <= MOST_COPIES))
        found = np.flatnonzero(listed)
        references = search.ids.take(pa.array(nearest.rows[number, found])).to_pylist()
        for rank, reference in zip(found, references, strict=True):
            if is_itself(reference):
                continue
            cosine = float(nearest.cosines[number, rank])
            normalized = cosine - settings.normalization_weight * float(level[number])
            if rank and nearest.is_nearest[number, rank] and settings.list_copies:
                alike.add((query, reference))
            if (query, reference) not in best or normalized > (best[query, reference].normalized or 0.0):
                best[query, reference] = Candidate(query, reference, "global", cosine, normalized, pane, 0)
    if settings.thumbnails:
        for candidate in _same_thumbnails(part, search, panes, level * settings.normalization_weight, cut):
            pair = candidate.query_id, candidate.reference_id
            best.setdefault(pair, candidate)
            alike.add(pair)
    note_cut(work, sorted(cut))
    yield from _best_of_each_query(best.values(), settings.references_per_query, alike)
    work.advance(len(set(panes.ids)))


def _same_thumbnails(
    part: _QueryShard, search: DescriptorSearch, panes: Descriptors, level: Floats, cut: set[str]
) -> Iterator[Candidate]:
    """Yield the pairs of a shard whose thumbnails are the same but for their encoding; add to `cut` what has too many.

    `level` float32 [Q] is the noise of each of the `panes`.
    """
    thumbnails, same = part.queries.thumbnails(part.number), ThumbnailSearch(open_segments(part.references))
    for number, (query, pane) in enumerate(zip(panes.ids, panes.panes, strict=True)):
        if pane != WHOLE or query not in thumbnails:
            continue
        is_itself = part.is_itself(query)
        _, rows = same.nearest(thumbnails[query], MOST_COPIES + 1)
        if not len(rows):
            continue
        if len(rows) > MOST_COPIES:
            cut.add(query)
        cosines = search.vectors(rows) @ panes.vectors[number]
        references = search.ids.take(pa.array(rows)).to_pylist()
        for reference, cosine in zip(references, cosines.tolist(), strict=True):
            if not is_itself(reference):
                yield Candidate(query, reference, "global", cosine, cosine - float(level[number]), WHOLE, 0)


def _best_of_each_query(
    candidates: Iterable[Candidate], limit: int, alike: Collection[tuple[str, str]]
) -> Iterator[Candidate]:
    """Yield the best candidates of each query, and further pairs in `alike`, whose pictures seem to be the same."""
    ordered = sorted(candidates, key=lambda c: (c.query_id, -(c.normalized or 0.0), c.reference_id))
    for _, group in groupby(ordered, key=lambda c: c.query_id):
        for rank, candidate in enumerate(group):
            if rank < limit or (candidate.query_id, candidate.reference_id) in alike:
                yield candidate


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


def _local_candidates(part: _QueryShard, branch: Branch, settings: LocalSettings, work: StepRun) -> Iterator[Candidate]:
    groups = groupby(part.queries.views(part.number), key=lambda view: view.id)
    by_query = [
        [view for view in group if view.name.startswith("crop") == (branch == "crop-local")] for _, group in groups
    ]
    queries = [views for views in by_query if views]
    proposed: list[list[LocalCandidate]] = [[] for _ in queries]
    nearest: list[list[NearestReferences]] = [[] for _ in queries]
    for search in _point_searches(part.references, settings) if queries else ():
        recall = partial(_recall, part, search, settings)
        cores = faiss.omp_get_max_threads()
        threads = min(cores, len(queries))
        # Of few queries, each is searched by several cores; the sums that a search compares are exact, so that nothing
        # depends on it.
        share = cores // threads
        with (
            threadpool_limits(share, user_api="blas"),
            ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(share,)) as pool,
        ):
            for number, found in enumerate(pool.map(recall, queries)):
                if isinstance(found, NearestReferences):
                    nearest[number].append(found)
                else:
                    proposed[number] += found
                work.advance()
    if settings.rule == "vote":
        proposed = [accept_votes(views[0], parts, settings) for views, parts in zip(queries, nearest, strict=True)]
    most, cut = most_references(settings), []
    for views, candidates in zip(queries, proposed, strict=True):
        ordered = sorted(candidates, key=lambda c: (-c.votes, c.reference_id))
        kept = references_kept([c.votes for c in ordered], settings)
        if kept > most:
            cut.append(views[0].id)
        for c in ordered[: min(kept, most)]:
            yield Candidate(c.query_id, c.reference_id, branch, c.votes, None, c.view, c.variant)
    note_cut(work, cut)


def _point_searches(references: ImageIndex, settings: LocalSettings) -> Iterator[PointSearch]:
    """Yield the searches that together cover all references: the index's lists, or exact ones of parts of it."""
    quantizer = quantizer_of(references)
    if not settings.exact:
        yield ListSearch.of(open_segments(references), quantizer, lists_searched=settings.lists_searched)
        return
    for shards in _exact_parts(references):
        # Sorted by id, so that an index gives the same candidates whether it was built at once or grew.
        views = sorted((view for shard in shards for view in references.views(shard)), key=lambda view: view.id)
        yield ExactSearch.of(views, quantizer, half_precision=settings.half_precision)


def _exact_parts(references: ImageIndex) -> list[list[int]]:
    """Return the runs of shards that are searched exactly, one after another, with their points in memory."""
    return list(group_shards({s: references.point_count(s) for s in references.shards}, POINTS_PER_SEGMENT))


def _recall(
    part: _QueryShard, search: PointSearch, settings: LocalSettings, views: Sequence[View]
) -> list[LocalCandidate] | NearestReferences:
    is_itself = part.is_itself(views[0].id)
    if settings.rule == "vote":
        return nearest_references(views[0], search, settings, is_itself)
    return recall_by_hough(views, search, settings, is_itself)


def _check_disjoint(noise: ImageIndex, references: ImageIndex) -> None:
    files = {file_identity(path) for path in references.paths.values()}
    shared = [path for path in noise.paths.values() if file_identity(path) in files]
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
