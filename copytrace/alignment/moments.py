"""Moments of a segment: its pictures, and what each proves that the other pictures of both videos do not.

Likeness alone proves little. Pages of text are all alike to a descriptor, and a still scene is like itself for as long
as it is shown. But a copied page is more like its original than like any other page, and another page is not. So every
picture of a segment counts once, by how much it is closer to its match than to the other pictures of both videos.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from copytrace.alignment.segments import Float64s, Indices, Segment, SimilarityMatrix

EQUAL = 0.01  # distance of similarity from 1 that encoding alone makes
SAME = 0.02  # root mean square difference of similarities up to which two frames show one picture
STILL = (0.012, 0.022)  # the same difference from one frame to the next in a still, and in the calmest footage
LEVEL = 0.006  # differences of similarity within a still
ADJACENT = 2.0  # seconds around a moment in which a picture that changes is no other picture
PAGES = 0.945  # similarity of two pages of one layout: what a still may reach that nothing else is compared with
BROAD = 0.75  # quantile of the similarities to what is not adjacent: an interlude of other footage does not matter
SHOWN = 0.7  # share of a segment's median similarity from which a frame shows the same as the segment
SMALLEST_SPREAD = 0.1  # least standard deviation of weights, that of encoding
SAMPLED_ROWS = 64  # rows by which columns are compared


@dataclass(frozen=True, slots=True)
class Moments:
    """The M moments of a segment: runs of query frames that show one picture, in order, in units of `weight`.

    `own` [M] is the weight of each, and `new` [M] the part that no earlier moment has. `ahead` [M] is how far the
    weight exceeds that of the most similar other picture of the reference, and `ahead_of_both` [M] of either video.
    `contrast` [2, M] is the same among the pictures of the reference, and then of the query, in standard deviations of
    their weights; 0 without others. `independent` [M] (0 to 1) is the share that adjacent moments do not show too, as
    they do in a roll of text.

    `similarity` is the median of the segment's frames. `alike` is how similar its pictures are to most of either video,
    whichever is larger. `change` is how much its frames differ from one to the next, near 0 in a still.
    `query_share` and `reference_share` (0 to 1) are the shares of either video's frames that show what it shows, and
    `level` is the share of the reference's frames that its pictures are equally similar to, near 1 for a still.
    """

    own: Float64s
    new: Float64s
    ahead: Float64s
    ahead_of_both: Float64s
    contrast: Float64s
    independent: Float64s
    similarity: float
    alike: float
    change: float
    query_share: float
    reference_share: float
    level: float


def measure_moments(segment: Segment, matrix: SimilarityMatrix) -> Moments:
    """Measure the moments of a segment; a matrix with a frame or more has at least one."""
    values = matrix.values
    rows, columns = cells_near(segment, matrix)
    similarity = values[rows, columns].astype(np.float64)
    steps = _difference(values[rows[1:]] - values[rows[:-1]], axis=1)
    change = _change(values, similarity, columns, steps)
    starts, ends = _runs((steps <= SAME) & _match_alike(values, rows, columns))
    seconds = matrix.query_times[rows[ends - 1], 1] - matrix.query_times[rows[starts], 0]
    middles = (starts + ends) // 2
    lit = rows[similarity > 0], columns[similarity > 0]
    rows, columns = rows[middles], columns[middles]
    among = weight(values[np.ix_(rows, columns)])
    own = np.diagonal(among)
    seen = np.tril(np.maximum(among, among.T), -1).max(axis=1)
    alone = PAGES * (1.0 - ramp(change, STILL))
    others, broad = _others(matrix, rows, columns, alone)
    query_others, query_broad = _others(matrix.transpose(), columns, rows, np.nan)
    ahead = own - weight(np.stack([others, query_others]))
    spreads = np.stack([weight(cells).std(axis=1) for cells in (values[rows], values[:, columns].T)])
    typical = float(np.median(similarity))
    least = max(SHOWN * typical, min((typical + float(np.median(others))) / 2, typical - SAME))
    query_share, reference_share = (_share(values, *lit, least, axis) for axis in (1, 0))
    return Moments(
        own=own,
        new=np.maximum(own - seen, 0.0),
        ahead=ahead[0],
        ahead_of_both=np.nanmin(ahead, axis=0),
        contrast=np.nan_to_num(ahead / np.maximum(spreads, SMALLEST_SPREAD)),
        independent=np.minimum(seconds / ADJACENT, 1.0),
        similarity=typical,
        alike=float(np.nanmax([broad, query_broad])),
        change=change,
        query_share=query_share,
        reference_share=reference_share,
        level=float((np.abs(values[rows] - np.median(values[rows], axis=1, keepdims=True)) <= LEVEL).mean()),
    )


def weight(similarity: NDArray[np.floating] | float) -> Float64s:
    """Return how much a similarity proves: 0 for unrelated frames, 0.7 at 0.5, 4.6 for equal ones."""
    return np.asarray(-np.log(np.clip(1.0 - np.asarray(similarity, np.float64), EQUAL, 1.0)))


def ramp(value: float, bounds: tuple[float, float]) -> float:
    """Return 0 up to the first bound and 1 from the second, linear between."""
    return float(np.clip((value - bounds[0]) / (bounds[1] - bounds[0]), 0.0, 1.0))


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


def _others(matrix: SimilarityMatrix, rows: Indices, columns: Indices, alone: float) -> tuple[Float64s, float]:
    """Return the similarity [M] of rows to the most similar other picture, and how similar they are to most columns.

    `alone` stands in where the columns show nothing else.
    """
    values, sampled = matrix.values, matrix.values[:: max(1, len(matrix.values) // SAMPLED_ROWS)]
    seconds = matrix.reference_times.mean(axis=1)
    others, broad = np.full((2, len(rows)), alone)
    for place, (row, column) in enumerate(zip(rows, columns, strict=True)):
        apart = np.abs(seconds - seconds[column]) > ADJACENT
        if not apart.any():
            continue
        broad[place] = np.quantile(values[row, apart], BROAD)
        close = np.flatnonzero(apart & (np.abs(values[row] - values[row, column]) <= SAME))
        apart[close] = _difference(sampled[:, close] - sampled[:, [column]], axis=0) > SAME
        if apart.any():
            others[place] = values[row, apart].max()
    return others, float(broad.mean())


def _change(values: NDArray[np.float32], similarity: Float64s, columns: Indices, steps: Float64s) -> float:
    """Return how much the frames differ from one to the next, in the calmer of both videos; 0 for a single frame."""
    lit = similarity > 0
    shown = np.unique(columns[lit])
    changes = [steps[lit[1:] & lit[:-1]], _difference(np.diff(values[:, shown], axis=1), axis=0)]
    return min((float(np.median(each)) for each in changes if len(each)), default=0.0)


def _match_alike(values: NDArray[np.float32], rows: Indices, columns: Indices) -> NDArray[np.bool_]:
    """Return whether each row but the first is as similar as the last to the matches [N] of both."""
    last, now = values[rows[:-1]], values[rows[1:]]
    pairs = ((np.abs(last - now)[np.arange(len(now)), match]) for match in (columns[:-1], columns[1:]))
    return np.asarray(np.all([difference <= SAME for difference in pairs], axis=0))


def _runs(same: NDArray[np.bool_]) -> tuple[Indices, Indices]:
    """Return starts and ends of runs of frames, where `same` tells whether each frame but the first is as the last."""
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    return starts, np.append(starts[1:], len(same) + 1)


def _share(values: NDArray[np.float32], rows: Indices, columns: Indices, least: float, axis: int) -> float:
    """Return the share of the query's frames (axis 1), or of the reference's (0), that cells [N] show.

    They are frames of the cells, and further frames with a similarity of at least `least` to one.
    """
    if not len(rows):
        return 0.0
    shown = (values[:, columns] if axis else values[rows]).max(axis=axis) >= least
    shown[rows if axis else columns] = True
    return float(shown.mean())


def _difference(differences: NDArray[np.float32], axis: int) -> Float64s:
    return np.asarray(np.sqrt(np.square(differences, dtype=np.float64).mean(axis=axis)))
