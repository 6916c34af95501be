"""Distinct evidence: the evidence of a segment, of which only what its pictures prove counts.

Evidence by likeness alone grows with every second, but pages of text are all alike to a descriptor, a title may be
shared by videos that have nothing else in common, and a cut of one second proves as much as its frames differ.
"""

from __future__ import annotations

import numpy as np

from copytrace.alignment.moments import PAGES, STILL, Moments, measure_moments, ramp, weight
from copytrace.alignment.segments import Segment, SimilarityMatrix

ALIKE = (0.0, 0.3)  # similarity to most of a video; from there on, seconds prove nothing, as between pages of text
EXPLAINED = (0.4, 0.7)  # share of a segment's weight that the most similar other pictures have too
WHOLE = (0.8, 0.95)  # share of either video that shows what the segment shows; nothing else contradicts it then
ONE_STILL = (0.75, 0.88)  # share of a reference to which a picture is equally similar, in a roll of text and in a still
# In units of the evidence at which the score is 0.5; set by hand to cuts of one and two seconds among unrelated videos,
# and to drawn videos of text, screens and stills, while segment AP of runs with known copies does not fall.
CHANCE = 0.8  # weight of a picture that similar scenes reach
PER_WEIGHT = 0.8  # evidence of the weight beyond that
PER_CONTRAST = 0.25  # evidence of a picture that exceeds the other pictures of a video by a standard deviation
MOST_CONTRAST = 2.0  # standard deviations of a picture that count
MOST_PER_PAGE = 0.5  # evidence of one picture among others that are as alike as pages of one layout
MOST_AGAINST = 2.0  # weight that a picture counts against the segment, if another one is more similar
PER_EQUAL = 1.3  # evidence of the weight by which a whole video is more similar than two pages of text
ONE_PICTURE = (0.4, 0.995)  # most evidence of one picture amid other footage, however long: of a still, and of a scene
PER_PICTURE = 1.6  # more of it for each further picture
NORM = 3.0  # exponent of the sum of both kinds of evidence; they are of the same frames, so they do not add up


def distinct_evidence(evidence: float, segment: Segment, likeness: SimilarityMatrix) -> float:
    """Return the evidence of a segment, of which repeated structure counts once, with that of how distinct it is.

    Both are in units of the evidence at which the score is 0.5. `evidence` grows with the seconds of the segment, and
    `likeness` has the similarities of its frames.
    """
    moments = measure_moments(segment, likeness)
    doubt = ramp(moments.alike, ALIKE) * ramp(_explained(moments), EXPLAINED)
    # One page may be shared by talks of one layout, so no page proves enough alone.
    each = PER_CONTRAST * np.clip(moments.contrast, -MOST_CONTRAST, MOST_CONTRAST).sum(axis=0) * moments.independent
    pages = PER_WEIGHT * np.minimum(moments.new, np.maximum(moments.ahead, -MOST_AGAINST))
    proven = max(0.0, *(float(np.minimum(proof, MOST_PER_PAGE).sum()) for proof in (pages, each)))
    evidence = evidence ** (1.0 - doubt) * min(evidence, proven) ** doubt
    whole = ramp(max(moments.query_share, moments.reference_share), WHOLE)
    evidence = whole * evidence + (1.0 - whole) * min(evidence, _most_amid_others(moments))
    evidence = max(evidence, _evidence_of_equality(moments))
    # Amid other footage, one picture may be a title or a still that unrelated videos share.
    distinct = PER_WEIGHT * float(np.minimum(moments.new, np.maximum(moments.ahead, -MOST_AGAINST)).sum())
    distinct = (1.0 - doubt) * distinct + doubt * proven
    proof = max(0.0, distinct - PER_WEIGHT * ((1.0 - whole) * float(moments.own.max()) + CHANCE))
    return float((evidence**NORM + proof**NORM) ** (1.0 / NORM))


def _explained(moments: Moments) -> float:
    """Return the share of the weight that the other pictures have too; 1 without weight."""
    total = float(moments.own.sum())
    return 1.0 - float(moments.ahead_of_both.sum()) / total if total > 0 else 1.0


def _most_amid_others(moments: Moments) -> float:
    """Return the most evidence of pictures amid other footage, however long each is shown."""
    one = ONE_PICTURE[0] + (ONE_PICTURE[1] - ONE_PICTURE[0]) * ramp(moments.change, STILL)
    first = max(float(moments.own.max()), 1e-9)
    return one + PER_PICTURE * max(0.0, float(moments.new.sum()) / first - 1.0)


def _evidence_of_equality(moments: Moments) -> float:
    """Return the evidence of a reference that is one still and shown whole, by its likeness beyond that of two pages.

    It has no other pictures to compare with.
    """
    beyond = float(weight(moments.similarity) - weight(PAGES))
    return PER_EQUAL * max(0.0, beyond) * ramp(moments.reference_share, WHOLE) * ramp(moments.level, ONE_STILL)
