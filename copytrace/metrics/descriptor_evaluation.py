"""Figures of descriptors by the rules of the descriptor tracks: those of videos (2022), and those of images (2021).

Videos: of all pairs of a query frame and a reference frame, the 1,200 per query video with the greatest inner products
are kept; a pair of videos has its best frame's score; the 25 pairs per query video with the highest scores are judged
(`vsc/descriptor_eval_lib.py`). Images: the 10 pairs per query image with the smallest distances are judged
(`eval_metrics.py` of DrivenData, `isc/descriptor_matching.py`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.table import Table

from copytrace.arrays import Floats
from copytrace.errors import InputError
from copytrace.exchange.hdf5_files import open_image_descriptors
from copytrace.exchange.npz_files import open_frames
from copytrace.metrics.curves import PrecisionRecallCurve, share
from copytrace.metrics.evaluation import Evaluation, evaluate_predictions, format_figure, read_ground_truth
from copytrace.metrics.images import Predictions
from copytrace.metrics.tables import read_ids, read_numbers, read_table
from copytrace.metrics.video_evaluation import VIDEO_ALIASES, read_true_segments
from copytrace.search.best_pairs import find_best_pairs
from copytrace.tables import write_csv

FRAMES_PER_QUERY = 1200
PAIRS_PER_QUERY = 25
IMAGES_PER_QUERY = 10


@dataclass(frozen=True, eq=False)
class VideoPairs:
    """Pairs of videos, best first: str objects `queries` and `references`, and real `scores`, all of shape (n,)."""

    queries: NDArray[Any]
    references: NDArray[Any]
    scores: NDArray[Any]

    def write(self, path: Path) -> Path:
        """Write the pairs as candidates of the 2022 challenge: `query_id,ref_id,score`."""
        columns = [pa.array(column) for column in (self.queries, self.references, self.scores)]
        return write_csv(path, pa.table(columns, names=["query_id", "ref_id", "score"]), quoted=False)


@dataclass(frozen=True)
class PairEvaluation:
    """Figures of scored pairs of videos; those at P90 are None if 90 % precision is never reached."""

    ground_truth: str
    pairs: str
    micro_ap: float
    recall_at_p90: float | None
    threshold_at_p90: float | None
    recall: float
    true_pairs: int
    judged_pairs: int

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values for `json.dumps`."""
        return asdict(self)

    def render(self) -> Table:
        """Return the figures as a table for a terminal."""
        table = Table(title="Pairs of videos", title_justify="left", show_header=False)
        table.add_column("figure")
        table.add_column("value", justify="right")
        threshold = "" if self.threshold_at_p90 is None else f" (score ≥ {self.threshold_at_p90:g})"
        table.add_row("micro-AP", format_figure(self.micro_ap))
        table.add_row(f"recall at 90 % precision{threshold}", format_figure(self.recall_at_p90, absent="not reached"))
        table.add_row("recall of all pairs", format_figure(self.recall))
        table.add_row("true pairs", f"{self.true_pairs:,}")
        table.add_row("judged pairs", f"{self.judged_pairs:,}")
        return table


def evaluate_video_descriptors(
    ground_truth: Path, queries: Path, references: Path
) -> tuple[PairEvaluation, VideoPairs]:
    """Return the figures of two .npz files of descriptors, and the pairs that were judged.

    Raises `InputError` as `read_true_segments` and `open_frames` do, and if the vectors have different lengths.
    """
    truth = _true_pairs(ground_truth)
    with open_frames(queries) as (query_ids, _, asked), open_frames(references) as (reference_ids, _, known):
        if asked.shape[1] != known.shape[1]:
            lengths = f"{asked.shape[1]} numbers and those of {references} {known.shape[1]}"
            raise InputError(f"the vectors of {queries} have {lengths}; describe both by the same model")
        pairs = pair_videos(query_ids, asked, reference_ids, known)
    return judge_pairs(truth, pairs, str(ground_truth), f"{queries}, {references}"), pairs


def evaluate_image_descriptors(ground_truth: Path, descriptors: Path) -> tuple[Evaluation, Predictions]:
    """Return the figures of an HDF5 file of descriptors, and the pairs that were judged.

    Only queries that the ground truth has are searched. Raises `InputError` as `read_ground_truth` and
    `open_image_descriptors` do, and if no query is in the ground truth or the vectors have different lengths.
    """
    truth = read_ground_truth(ground_truth)
    with (
        open_image_descriptors(descriptors, "queries") as queries,
        open_image_descriptors(descriptors, "references") as references,
    ):
        labeled = np.flatnonzero(np.isin(queries.ids.astype(np.str_), np.asarray(truth.queries, np.str_)))
        if not labeled.size:
            raise InputError(f"{ground_truth} has none of the queries in {descriptors}; give the ground truth of these")
        if queries.vectors.shape[1] != references.vectors.shape[1]:
            raise InputError(
                f"{descriptors}: queries and references have vectors of different lengths; describe both alike"
            )
        asked = queries.vectors[:][labeled]
        best = find_best_pairs(asked, references.vectors, IMAGES_PER_QUERY * len(labeled), "distance")
        predictions = Predictions(
            queries.ids[labeled[best.queries]], references.ids[best.references], best.scores, source=str(descriptors)
        )
    return evaluate_predictions(truth, predictions), predictions


def write_predictions(path: Path, predictions: Predictions) -> Path:
    """Write pairs of images as matches of the 2021 challenge: `query_id,reference_id,score`."""
    columns = [pa.array(column) for column in (predictions.queries, predictions.references, predictions.scores)]
    return write_csv(path, pa.table(columns, names=["query_id", "reference_id", "score"]), quoted=False)


def pair_videos(
    query_ids: NDArray[np.str_], queries: NDArray[Any], reference_ids: NDArray[np.str_], references: NDArray[Any]
) -> VideoPairs:
    """Return the pairs of videos that the descriptor track judges, from ids (n,) and vectors (n, d) of frames."""
    query_names, query_numbers = np.unique(query_ids, return_inverse=True)
    reference_names, reference_numbers = np.unique(reference_ids, return_inverse=True)
    frames = find_best_pairs(queries, references, FRAMES_PER_QUERY * len(query_names), "product")
    keys = query_numbers[frames.queries] * len(reference_names) + reference_numbers[frames.references]
    first = np.sort(np.unique(keys, return_index=True)[1])[: PAIRS_PER_QUERY * len(query_names)]
    chosen = keys[first]
    return VideoPairs(
        query_names[chosen // len(reference_names)].astype(object),
        reference_names[chosen % len(reference_names)].astype(object),
        frames.scores[first],
    )


def evaluate_candidates(ground_truth: Path, candidates: Path) -> PairEvaluation:
    """Return the figures of a table of scored pairs of videos, `query_id,ref_id,score`; other columns are ignored.

    Raises `InputError` if a file is missing or unreadable, an id is empty, a score is not finite or a pair repeated.
    """
    table = read_table(candidates, ("query_id", "ref_id", "score"), aliases=VIDEO_ALIASES)
    queries, references = (read_ids(candidates, table, name) for name in ("query_id", "ref_id"))
    scores = read_numbers(candidates, table, "score", "higher means more alike")
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        raise InputError(f"{candidates}: row {bad[0] + 1} has the score {scores[bad[0]]}; make it finite")
    seen: set[tuple[str, str]] = set()
    for row, pair in enumerate(zip(queries, references, strict=True), 1):
        if pair in seen:
            raise InputError(f"{candidates}: row {row} has the pair {pair[0]}, {pair[1]} again; keep one row per pair")
        seen.add(pair)
    order = np.argsort(-scores, kind="stable")
    pairs = VideoPairs(queries[order], references[order], scores[order])
    return judge_pairs(_true_pairs(ground_truth), pairs, str(ground_truth), str(candidates))


def judge_pairs(
    truth: Collection[tuple[str, str]], pairs: VideoPairs, ground_truth: str, source: str
) -> PairEvaluation:
    """Return the figures of distinct pairs; those of equal scores are accepted together, as in the challenge.

    `ground_truth` and `source` name what was compared.
    """
    correct = np.fromiter(
        (pair in truth for pair in zip(pairs.queries, pairs.references, strict=True)), np.bool_, len(pairs.scores)
    )
    curve = _curve(pairs.scores, correct, len(truth))
    point = curve.recall_at_precision()
    return PairEvaluation(
        ground_truth,
        source,
        micro_ap=curve.average_precision,
        recall_at_p90=point.recall if point else None,
        threshold_at_p90=point.threshold if point else None,
        recall=curve.recall,
        true_pairs=len(truth),
        judged_pairs=len(correct),
    )


def _curve(scores: Floats, correct: NDArray[np.bool_], positives: int) -> PrecisionRecallCurve:
    ends = np.flatnonzero(np.diff(scores, append=-np.inf))  # the last pair of each distinct score
    right = np.cumsum(correct)[ends]
    return PrecisionRecallCurve(scores[ends].astype(np.float64), share(right, ends + 1), right / positives)


def _true_pairs(path: Path) -> set[tuple[str, str]]:
    truth, _ = read_true_segments(path)
    pairs = set(zip(truth.queries, truth.references, strict=True))
    if not pairs:
        raise InputError(f"{path} has no true pair, so recall is undefined; give at least one row")
    return pairs
