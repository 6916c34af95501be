"""From the heat map of a learned aligner to copied segments in real seconds.

Lines are found by Hough voting over the heat, which takes crossing, parallel, broken and reversed ones apart, where
connected components would need to be split and joined; then each line is fitted and cut anew (`robust_lines`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from copytrace.alignment.hough import HoughAligner
from copytrace.alignment.robust_lines import Cutting, HeatMap, Line, contrast, refine_line
from copytrace.alignment.segments import Segment, suppress_overlapping
from copytrace.alignment.similarity import SimilarityMatrix
from copytrace.errors import ConfigError

SPEED_SLACK = 1.1  # how far past the limit a fitted speed may lie: two or three frames do not fix it
LEFTOVER = 3.0  # frames: more than these of a rough line, beside its exact segment, may be another segment


@dataclass(frozen=True)
class HeatMapRules:
    """What counts as a copied segment in a heat map.

    Heat (0 to 1) above `threshold` is evidence for a line, and darker cells are evidence against it, up to
    `max_penalty` for a black one; either is per second. A broken line is one segment if what lies beyond the hole is
    worth more than the hole costs. A segment ends where its heat falls below `end_share` (0 to 1) of its own median,
    so a faint line is as long as a bright one.

    The evidence of a segment is its heat above `threshold`, summed over its seconds: the geometric mean of the query's
    and the reference's. Segments with less than `min_evidence` seconds are dropped. The score is eᵏ / (eᵏ + hᵏ) with e
    the evidence, h `half_evidence` and k `sharpness`: a logistic model of the logarithm of the evidence.

    Segments play at 1 / `max_speed` to `max_speed` times the reference's speed, `speeds` (odd) of them voted for;
    backwards too if `backwards` is set, and there only `backwards_share` of their evidence counts while lines compete:
    a bright blot fits both directions. Of segments in one direction that overlap by more than `max_overlap`
    (intersection over union) the best is kept; at most `max_segments` are returned.

    Raises `ConfigError` for a threshold or a speed out of range.
    """

    threshold: float = 0.15
    max_penalty: float = 0.6
    end_share: float = 0.4
    min_evidence: float = 0.5
    half_evidence: float = 3.0
    sharpness: float = 2.0
    max_speed: float = 2.5
    speeds: int = 25
    backwards: bool = True
    backwards_share: float = 0.9
    max_overlap: float = 0.5
    max_segments: int = 16

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold < 1.0:
            raise ConfigError(f"heat threshold {self.threshold} is not between 0 and 1; 0.15 is usual")
        if self.max_speed <= 1.0:
            raise ConfigError(f"max_speed {self.max_speed} leaves no speed to look for; set it above 1")


def heat_map_segments(heat: NDArray[np.float32], matrix: SimilarityMatrix, rules: HeatMapRules) -> list[Segment]:
    """Return the segments that a heat map shows, best first, with scores 0 to 1; none for an empty map.

    `heat` is float32 [Q, R], 0 to 1: how probably each cell of `matrix` lies on a copied diagonal. Only the times of
    `matrix` are used: segments are in its seconds, within its first and last frame, and their ends are unbiased where
    a frame that is at least half copied is hot. Raises `ValueError` for a map of another shape, or one with NaN.
    """
    if heat.shape != matrix.shape:
        raise ValueError(f"heat map is {heat.shape}, but its similarity matrix is {matrix.shape}")
    if not np.isfinite(heat).all():
        raise ValueError("heat map holds NaN or infinity; the network that drew it needs finite weights and values")
    if heat.size == 0 or heat.max() <= rules.threshold:
        return []
    whole = HeatMap(heat.astype(np.float64), matrix.query_times, matrix.reference_times)
    # The finder takes the penalty off again: to it a second without a frame then costs as much as a black cell.
    raised = (contrast(whole.heat, rules.threshold, rules.max_penalty) + rules.max_penalty).astype(np.float32)
    rough = _finder(rules).align(SimilarityMatrix(raised, matrix.query_times, matrix.reference_times))
    found: list[Segment] = []
    for backwards in (False, True):  # lines that cross share their box
        heat_map = whole.mirrored() if backwards else whole
        lines = [segment for segment in rough if segment.reversed == backwards]
        exact = [
            piece
            for segment in lines
            for piece in _pieces(heat_map, _line(segment.mirrored() if backwards else segment), rules)
        ]
        kept = suppress_overlapping(exact, rules.max_overlap)
        found += [segment.mirrored() for segment in kept] if backwards else kept
    return sorted(found, key=lambda segment: -segment.score)[: rules.max_segments]


def _finder(rules: HeatMapRules) -> HoughAligner:
    return HoughAligner(
        threshold=rules.max_penalty,
        max_penalty=rules.max_penalty,
        # It counts seconds of the query alone: the fastest line that is worth it must pass.
        min_evidence=rules.min_evidence / np.sqrt(rules.max_speed),
        backwards=rules.backwards,
        backwards_share=rules.backwards_share,
        max_overlap=1.0,  # judged once the lines are exact
        max_segments=rules.max_segments,
        speeds=rules.speeds,
        max_speed=rules.max_speed,
        speed_cost=0.0,  # the network has weighed what is likely
    )


def _line(segment: Segment) -> Line:
    return Line(segment.speed, segment.reference_at(0.0), segment.box[:2], segment.box[2:])


def _pieces(heat: HeatMap, line: Line, rules: HeatMapRules) -> Iterator[Segment]:
    """The exact segment near a rough line, and those on what it leaves of the line: a rough one may be several."""
    exact = refine_line(heat, line, Cutting(rules.threshold, rules.max_penalty, rules.end_share))
    if exact is None:
        return
    segment = _plausible(*exact, rules)
    if segment is not None:
        yield segment
    (start, end), (cut_start, cut_end) = line.query, exact[0].query
    for left in ((start, min(end, cut_start)), (max(start, cut_end), end)):
        if left[1] - left[0] > LEFTOVER * heat.frames[0] and left != line.query:
            shown = line.speed * left[0] + line.offset, line.speed * left[1] + line.offset
            yield from _pieces(heat, Line(line.speed, line.offset, left, shown), rules)


def _plausible(line: Line, evidence: float, rules: HeatMapRules) -> Segment | None:
    fastest = rules.max_speed * SPEED_SLACK
    if not 1.0 / fastest <= line.speed <= fastest or evidence < rules.min_evidence:
        return None
    if line.query[0] >= line.query[1] or line.reference[0] >= line.reference[1]:
        return None
    score = 1.0 / (1.0 + (rules.half_evidence / evidence) ** rules.sharpness)
    return Segment(*line.query, *line.reference, float(score))
