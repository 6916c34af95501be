"""Distinct evidence: the evidence of a segment, of which what repeats counts once.

Evidence by likeness alone grows with every second. But pages of text are all alike to a descriptor, a still scene is
like itself for as long as it is shown, and a cut of one second proves as much as its frames differ. So the likeness of
frames along a line is compared with what else they are like: other frames of the line, and the rest of the reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from copytrace.alignment.segments import Float64s, Indices, Segment, SimilarityMatrix

EQUAL = 0.01  # distance of similarity from 1 that encoding alone makes
ALIKE = (0.7, 0.9)  # similarity to the rest of the reference; between them, only what stands out begins to count
WHOLE = (0.8, 0.95)  # share of either video; a segment that is a whole video is amid nothing that contradicts it
# In units of the evidence at which the score is 0.5; fitted to cuts of one and two seconds among unrelated videos, with
# the order of the copies in runs with known copies held.
CHANCE = 0.8  # weight of a picture that similar scenes reach
PER_WEIGHT = 0.8  # evidence of the weight beyond that
STILL = 0.995  # most evidence of one picture amid other footage, however long it is shown
PER_PICTURE = 1.6  # more of it for each further picture
NORM = 3.0  # exponent of the sum of both kinds of evidence; they are of the same frames, so they do not add up


@dataclass(frozen=True, slots=True)
class Novelty:
    """What the frames along a line prove, as logarithms of how much closer they are than others.

    `first` is the largest weight of a single frame. `pictures` is the weight of all frames, each without what the ones
    before it prove, and `distinct` is that of `pictures` which the rest of the other video does not show as well.
    `share` (0 to 1) is how much of the weight stands out from the rest, and `alike` how similar that rest is.
    """

    first: float
    pictures: float
    distinct: float
    share: float
    alike: float


def distinct_evidence(evidence: float, segment: Segment, likeness: SimilarityMatrix) -> float:
    """Return the evidence of a segment, of which repeated structure counts once, with that of how distinct it is.

    Both are in units of the evidence at which the score is 0.5. `evidence` grows with the seconds of the segment, and
    `likeness` has the similarities of its frames.
    """
    novelty = measure_novelty(likeness.values.astype(np.float64), *cells_near(segment, likeness))
    alike = _ramp(novelty.alike, ALIKE)
    evidence *= 1.0 - alike * (1.0 - novelty.share)
    evidence = evidence ** (1.0 - alike) * min(evidence, PER_WEIGHT * novelty.distinct) ** alike
    whole = _ramp(_coverage(segment, likeness), WHOLE)
    still = STILL + PER_PICTURE * max(0.0, novelty.pictures / max(novelty.first, 1e-9) - 1.0)
    evidence = whole * evidence + (1.0 - whole) * min(evidence, still)
    # Amid other footage, one picture may be a title or a still that unrelated videos share.
    proof = max(0.0, novelty.distinct - (1.0 - whole) * novelty.first - CHANCE)
    return float((evidence**NORM + (PER_WEIGHT * proof) ** NORM) ** (1.0 / NORM))


def measure_novelty(values: Float64s, rows: Indices, columns: Indices) -> Novelty:
    """Measure the cells `rows`, `columns` int [N], in order, of similarities `values` [Q, R]."""
    among = weight(values[np.ix_(rows, columns)])
    own = np.diagonal(among)
    seen = np.tril(np.maximum(among, among.T), -1).max(axis=1)
    new = np.maximum(own - seen, 0.0)
    rest = np.median(values[rows], axis=1)
    ahead = own - weight(rest)
    return Novelty(
        first=float(own.max()),
        pictures=float(new.sum()),
        distinct=float(np.minimum(new, np.maximum(ahead, 0.0)).sum()),
        share=float(np.clip(ahead.sum() / max(float(own.sum()), 1e-9), 0.0, 1.0)),
        alike=float(rest.mean()),
    )


def weight(similarity: Float64s) -> Float64s:
    """Return how much a similarity proves: 0 for unrelated frames, 0.7 at 0.5, 4.6 for equal ones."""
    return np.asarray(-np.log(np.clip(1.0 - similarity.astype(np.float64), EQUAL, 1.0)))


def cells_near(segment: Segment, matrix: SimilarityMatrix) -> tuple[Indices, Indices]:
    """Return the rows [N] of a segment, and the most similar column [N] within one of its line."""
    query, reference = matrix.query_times.mean(axis=1), matrix.reference_times.mean(axis=1)
    rows = np.flatnonzero((query > segment.query_start) & (query < segment.query_end))
    if not len(rows):
        rows = np.abs(query - (segment.query_start + segment.query_end) / 2).argmin(keepdims=True)
    line = np.array([segment.reference_at(second) for second in query[rows]])
    after = np.clip(np.searchsorted(reference, line), 1, max(1, len(reference) - 1))
    nearest = after - (line - reference[after - 1] < reference[np.minimum(after, len(reference) - 1)] - line)
    near = np.clip(nearest[:, None] + np.arange(-1, 2), 0, len(reference) - 1)
    best = matrix.values[rows[:, None], near].argmax(axis=1)
    return rows, near[np.arange(len(rows)), best]


def _coverage(segment: Segment, matrix: SimilarityMatrix) -> float:
    """Return the share of the query or of the reference that the segment covers, whichever is larger."""
    query, reference = (times[-1, 1] - times[0, 0] for times in (matrix.query_times, matrix.reference_times))
    sides = segment.query_end - segment.query_start, segment.reference_end - segment.reference_start
    return float(max(sides[0] / query, sides[1] / reference))


def _ramp(value: float, bounds: tuple[float, float]) -> float:
    return float(np.clip((value - bounds[0]) / (bounds[1] - bounds[0]), 0.0, 1.0))
