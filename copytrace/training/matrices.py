"""The similarity matrices of finished runs, labeled with the copied segments of their ground truths."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.videos import AlignmentSettings
from copytrace.alignment.align import compare_videos, read_pairs
from copytrace.alignment.segments import Segment, SimilarityMatrix
from copytrace.errors import InputError
from copytrace.index.media_index import is_index
from copytrace.index.video_index import VideoIndex
from copytrace.metrics.video_evaluation import read_true_segments
from copytrace.run_folder import VideoRunFolder
from copytrace.search.video_candidates import read_video_candidates
from copytrace.step import fingerprint_of
from copytrace.storage import digest_of, digest_of_file, read_json, resolve_path
from copytrace.training.aligner_labels import label_map

logger = logging.getLogger(__name__)

# A copy is taken to play backwards if its frames are more similar along the falling line by this difference, as ground
# truths do not say so. None of the 2,707 of VSC2022 plays backwards.
BACKWARDS_LEAD = 0.1

Truth = dict[tuple[str, str], list[Segment]]


@dataclass(frozen=True, slots=True)
class LabeledPair:
    """A candidate pair of a query and a reference, with its copied segments.

    `run` is the number of the run, from 0. `score` is that of the search, −inf for a true pair that the search missed.
    `segments` is empty if nothing is copied.
    """

    run: int
    query: str
    reference: str
    score: float
    matrix: SimilarityMatrix
    segments: tuple[Segment, ...]

    @property
    def is_true(self) -> bool:
        """Whether anything is copied."""
        return bool(self.segments)


@dataclass(frozen=True, slots=True)
class LabeledPairs:
    """All pairs of the runs, and a digest that changes with their descriptors, candidates or true segments."""

    pairs: tuple[LabeledPair, ...]
    digest: str

    def split(self, fold: int, folds: int, seed: int) -> tuple[list[LabeledPair], list[LabeledPair]]:
        """Return the pairs for training, and those for validation, whose queries are in `fold` (see `fold_number`).

        Raises `InputError` when either has no copies, or nothing but copies.
        """
        parts: tuple[list[LabeledPair], list[LabeledPair]] = ([], [])
        for pair in self.pairs:
            parts[fold_number(pair.query, folds, seed) == fold].append(pair)
        for name, part in zip(("train on", "validate on"), parts, strict=True):
            copies = sum(pair.is_true for pair in part)
            if not copies or copies == len(part):
                raise InputError(
                    f"of {len(part)} pairs to {name}, {copies} are copies; both copies and other pairs are needed: "
                    "give more runs, or another fold, folds or loop.seed"
                )
        return parts


def fold_number(query: str, folds: int, seed: int) -> int:
    """Return the fold, 0 to `folds` − 1, of a query; it depends only on the id and the seed, and not on the runs."""
    digest = hashlib.sha256(f"{seed}:{query}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % folds


def read_labeled_pairs(runs: Sequence[tuple[Path, Path]]) -> LabeledPairs:
    """Return all candidate pairs of finished runs, and the true pairs that their searches missed, with their matrices.

    `runs` are pairs of a `match-videos` output folder and its ground truth (see `read_true_segments`). If several runs
    compare the same videos, by different descriptors, each contributes a pair. All matrices are kept in memory, with 4
    bytes per value. Raises `InputError` for an unfinished run, and for one whose indexes were deleted.
    """
    pairs: list[LabeledPair] = []
    digests = []
    for number, (run, ground_truth) in enumerate(runs):
        paths, indexes = VideoRunFolder(run), _open_indexes(run)
        shards = indexes[0].shards
        pairs += _read_run(number, paths, indexes, _true_segments(ground_truth))
        fingerprints = [fingerprint_of(paths.candidates(shard)) for shard in shards]
        digests.append((fingerprints, digest_of_file(ground_truth), _noise_weight(run)))
    return LabeledPairs(tuple(pairs), digest_of(digests))


def true_segments(pairs: Sequence[LabeledPair]) -> list[tuple[LabeledPair, Segment]]:
    """Return every true segment with its pair."""
    return [(pair, segment) for pair in pairs for segment in pair.segments]


def detect_direction(segment: Segment, matrix: SimilarityMatrix) -> Segment:
    """Return the segment, reversed if its frames are clearly more similar in that direction."""
    similarities = []
    for guess in (segment, replace(segment, reversed=True)):
        weights = label_map([guess], matrix.query_times, matrix.reference_times)
        similarities.append(float((weights * matrix.values).sum() / max(float(weights.sum()), 1e-9)))
    return replace(segment, reversed=similarities[1] > similarities[0] + BACKWARDS_LEAD)


def _read_run(
    number: int, paths: VideoRunFolder, indexes: tuple[VideoIndex, VideoIndex], truth: Truth
) -> Iterator[LabeledPair]:
    queries_of_run, references = indexes
    weight, missing = _noise_weight(paths.out), set(truth)
    for shard in queries_of_run.shards:
        scores = {(query, reference): score for query, reference, score in _candidates(paths, shard)}
        queries = {query for query, _ in queries_of_run.frame_counts(shard)}
        for query, reference in truth:
            if query in queries and reference in references.items:
                scores.setdefault((query, reference), -np.inf)
        missing -= scores.keys()
        for batch in read_pairs(list(scores), shard, queries_of_run.root, references.root, paths.noise(shard)):
            for pair, query_rows, reference_rows in batch:
                matrix = compare_videos(query_rows, reference_rows, weight=weight).matrix
                segments = tuple(detect_direction(segment, matrix) for segment in truth.get(pair, ()))
                yield LabeledPair(number, *pair, scores[pair], matrix, segments)
    if missing:
        logger.warning("%s lacks videos of %d true pairs, such as %s", paths.out, len(missing), min(missing))


def _true_segments(path: Path) -> Truth:
    table, _ = read_true_segments(path)
    truth: Truth = defaultdict(list)
    rows = zip(table.queries, table.references, table.times.tolist(), strict=True)
    for query, reference, (start, end, reference_start, reference_end) in rows:
        if start < end and reference_start < reference_end:
            truth[query, reference].append(Segment(start, end, reference_start, reference_end, 1.0))
    return dict(truth)


def _candidates(paths: VideoRunFolder, shard: int) -> list[tuple[str, str, float]]:
    if not paths.candidates(shard).is_file() or not paths.noise(shard).is_file():
        raise InputError(f"{paths.out} lacks candidates; finish it with: copytrace match-videos … --out {paths.out}")
    return read_video_candidates(paths.candidates(shard))


def _open_indexes(run: Path) -> tuple[VideoIndex, VideoIndex]:
    """Open the indexes of queries and references: those of the run, or others that it was given."""
    given, paths = _run_record(run).get("indexes", {}), VideoRunFolder(run)
    queries, references = (
        resolve_path(given.get(role, default))
        for role, default in (("queries", paths.work / "queries"), ("references", paths.work / "references"))
    )
    for index in (queries, references):
        if not is_index(index):
            raise InputError(
                f"{index} is not a finished index; give a folder that match-videos wrote, with its indexes"
            )
    return VideoIndex.open(queries), VideoIndex.open(references)


def _noise_weight(run: Path) -> float:
    """Return the noise weight of the run's alignment; the default if the run has no record of its settings."""
    settings = _run_record(run).get("settings", {})
    return float(settings.get("alignment", {}).get("noise_weight", AlignmentSettings().noise_weight))


def _run_record(run: Path) -> dict[str, Any]:
    path = run / "run.json"
    return read_json(path) if path.is_file() else {}
