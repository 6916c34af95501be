"""Copied segments in seconds from the heat map of a trained aligner; training measures its networks with them.

Lines are found by Hough voting over the heat, which separates crossing, parallel, broken and reversed lines; connected
components would have to be split and joined. Then each line is fitted and cut again (`robust_lines`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from copytrace.alignment.greedy_aligners import HoughAligner
from copytrace.alignment.robust_lines import CutRules, HeatMap, Line, contrast, refine_line
from copytrace.alignment.segments import Segment, SimilarityMatrix, suppress_overlapping
from copytrace.errors import ConfigError

SPEED_SLACK = 1.1  # tolerance of the speed limit, since two or three frames do not determine a speed
LEFTOVER = 3.0  # frames; a longer rest of a rough line beside its exact segment may be another segment


@dataclass(frozen=True)
class HeatMapRules:
    """Rules for copied segments in a heat map.

    Heat (0 to 1) above `threshold` is evidence for a line. Heat below it is evidence against the line, up to
    `max_penalty` for heat 0. Both are per second. A broken line is one segment if the part beyond the gap has more
    evidence than the gap costs. A segment ends where its heat falls below `end_share` (0 to 1) of its own median, so
    that a faint line is as long as a bright one.

    The evidence of a segment is its heat above `threshold`, summed over its seconds: the geometric mean of the query's
    sum and the reference's. Segments with less than `min_evidence` seconds are dropped. The score is eᵏ / (eᵏ + hᵏ),
    where e is the evidence, h is `half_evidence` and k is `sharpness`: a logistic model of the logarithm of the
    evidence.

    Segments play at 1 / `max_speed` to `max_speed` times the reference's speed; the vote has `speeds` (odd) speeds. If
    `backwards` is set, segments that play backwards are found too. While lines compete, only `backwards_share` of the
    evidence of backwards lines counts, because a bright spot fits both directions. Of segments in one direction that
    overlap by more than `max_overlap` (intersection over union), the best is kept; at most `max_segments` are returned.

    Raises `ConfigError` if the threshold or a speed is out of range.
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
            raise ConfigError(f"max_speed {self.max_speed} leaves no speed to search; set it above 1")


def heat_map_segments(heat: NDArray[np.float32], matrix: SimilarityMatrix, rules: HeatMapRules) -> list[Segment]:
    """Return the segments of a heat map, best first, with scores 0 to 1; an empty map has none.

    `heat` is float32 [Q, R], 0 to 1: the probability that each cell of `matrix` lies on a copied diagonal. Of `matrix`,
    only the times are used. Segments are in its seconds, between its first and last frame; their ends are unbiased if
    exactly the frames of which at least half is copied are hot. Raises `ValueError` if the map has another shape or
    contains NaN or infinity.
    """
    if heat.shape != matrix.shape:
        raise ValueError(f"heat map is {heat.shape}, but its similarity matrix is {matrix.shape}")
    if not np.isfinite(heat).all():
        raise ValueError("heat map has NaN or infinity; the weights and inputs of its network must be finite")
    if heat.size == 0 or heat.max() <= rules.threshold:
        return []
    whole = HeatMap(heat.astype(np.float64), matrix.query_times, matrix.reference_times)
    # The Hough aligner subtracts the penalty again, so that a second without a frame costs as much as a cell of heat 0.
    raised = (contrast(whole.heat, rules.threshold, rules.max_penalty) + rules.max_penalty).astype(np.float32)
    rough = _finder(rules).align(SimilarityMatrix(raised, matrix.query_times, matrix.reference_times))
    found: list[Segment] = []
    for backwards in (False, True):  # lines that cross share their box
        heat_map = whole.mirror() if backwards else whole
        lines = [segment for segment in rough if segment.reversed == backwards]
        exact = [
            piece
            for segment in lines
            for piece in _pieces(heat_map, _line(segment.mirror() if backwards else segment), rules)
        ]
        kept = suppress_overlapping(exact, rules.max_overlap)
        found += [segment.mirror() for segment in kept] if backwards else kept
    return sorted(found, key=lambda segment: -segment.score)[: rules.max_segments]


def _finder(rules: HeatMapRules) -> HoughAligner:
    return HoughAligner(
        threshold=rules.max_penalty,
        max_penalty=rules.max_penalty,
        # The Hough aligner counts seconds of the query only, so its limit is lower by the most that speed can change.
        min_evidence=rules.min_evidence / np.sqrt(rules.max_speed),
        backwards=rules.backwards,
        backwards_share=rules.backwards_share,
        max_overlap=1.0,  # overlaps are judged once the lines are exact
        max_segments=rules.max_segments,
        speeds=rules.speeds,
        max_speed=rules.max_speed,
        speed_cost=0.0,  # the network has already weighed the speed
    )


def _line(segment: Segment) -> Line:
    return Line(segment.speed, segment.reference_at(0.0), segment.box[:2], segment.box[2:])


def _pieces(heat: HeatMap, line: Line, rules: HeatMapRules) -> Iterator[Segment]:
    """Yield the exact segment near a rough line, and the segments on the rest of the line, which may have several."""
    exact = refine_line(heat, line, CutRules(rules.threshold, rules.max_penalty, rules.end_share))
    if exact is None:
        return
    segment = _build_segment(*exact, rules)
    if segment is not None:
        yield segment
    (start, end), (cut_start, cut_end) = line.query, exact[0].query
    for rest in ((start, min(end, cut_start)), (max(start, cut_end), end)):
        if rest[1] - rest[0] > LEFTOVER * heat.frames[0] and rest != line.query:
            reference = line.speed * rest[0] + line.offset, line.speed * rest[1] + line.offset
            yield from _pieces(heat, Line(line.speed, line.offset, rest, reference), rules)


def _build_segment(line: Line, evidence: float, rules: HeatMapRules) -> Segment | None:
    fastest = rules.max_speed * SPEED_SLACK
    if not 1.0 / fastest <= line.speed <= fastest or evidence < rules.min_evidence:
        return None
    if line.query[0] >= line.query[1] or line.reference[0] >= line.reference[1]:
        return None
    score = 1.0 / (1.0 + (rules.half_evidence / evidence) ** rules.sharpness)
    return Segment(*line.query, *line.reference, float(score))
