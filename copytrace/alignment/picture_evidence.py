"""What the pictures of a segment say of it, by their points, their ink, and whether they are plain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from copytrace.matching.ground import SURELY_DRAWN
from copytrace.matching.same_picture import Agreement

FEWEST_POINTS = 30  # with fewer in either picture, points say nothing
ENOUGH_POINTS = 45  # with fewer, they may be those of a frame or of axes, and support nothing
SUPPORTED = (0.85, 0.97)  # probability of a copy by the points, from which and at which a segment is supported fully
SUPPORTED_SCORE = 0.95  # of a segment that its points alone support fully
REFUTED = 0.5  # probability below which the points speak against a copy
CLEARLY_REFUTED = 0.1  # probability of pictures whose points agree, and whose ink does not
ALIKE = (0.7, 0.85)  # similarity from which pictures of a copy are so little edited that their points agree
DRAWN_ALIKE = (0.5, 0.7)  # the same of drawn pictures, whose points are clear
SAME = 0.985  # similarity from which pictures are the same whatever their points, as of repeated patterns
REFUTED_SCORE = 0.05


@dataclass(frozen=True, slots=True)
class Moment:
    """The pictures of a segment at one moment: their `similarity` (cosine), and how well their points agree.

    `ground` (0 to 1) says how drawn the reference looks, by the share of plain ground around its ink. `is_plain` says
    that one of the pictures is plain, and the other one is not the same; `is_blank`, that both are plain.
    """

    similarity: float
    agreement: Agreement
    ground: float = 0.0
    is_plain: bool = False
    is_blank: bool = False


def verified_score(score: float, moments: Sequence[Moment]) -> float:
    """Return the score of a segment, given what the points of its pictures say.

    A segment is supported by the second best of its moments, or the only one, as far as its pictures are drawn: in
    photographs, the points of a background agree at any two moments of one place. It is refuted if hardly any points
    agree, or their ink differs, although its pictures are alike; but for those that seem the same and have no points
    that agree. One picture whose points agree is not enough if the ink of two others differs. Pictures without points
    refute it if one of each two is plain, and the other one is not.
    """
    telling = [moment for moment in moments if moment.agreement.points >= FEWEST_POINTS]
    if not telling:
        return min(score, REFUTED_SCORE) if moments and all(moment.is_plain for moment in moments) else score
    differ = sum(m.agreement.compared and m.agreement.probability < CLEARLY_REFUTED for m in telling)
    if differ < 2 and max(moment.agreement.probability for moment in telling) >= REFUTED:
        support = sorted(_support(moment.agreement) for moment in telling)[-2:][0]
        return supported_score(score, _ramp(support, SUPPORTED))
    doubt = 1.0 if differ > 1 else _doubt(telling)
    return score * (1.0 - doubt) + min(score, REFUTED_SCORE) * doubt


def supported_score(score: float, support: float = 1.0) -> float:
    """Return the score of a segment whose pictures support it, as far as `support` (0 to 1) says."""
    return 1.0 - (1.0 - score) * (1.0 - SUPPORTED_SCORE * support)


def _doubt(moments: Sequence[Moment]) -> float:
    """Return how much it speaks against a copy, 0 to 1, that the points of no moment agree."""
    similarity = float(np.median([moment.similarity for moment in moments]))
    if similarity >= SAME and not any(moment.agreement.compared for moment in moments):
        return 0.0
    is_drawn = np.median([moment.ground for moment in moments]) >= SURELY_DRAWN
    return _ramp(similarity, DRAWN_ALIKE if is_drawn else ALIKE)


def _support(agreement: Agreement) -> float:
    return agreement.probability * agreement.drawn * (agreement.points >= ENOUGH_POINTS)


def _ramp(value: float, bounds: tuple[float, float]) -> float:
    return float(np.clip((value - bounds[0]) / (bounds[1] - bounds[0]), 0.0, 1.0))


def is_photograph(moment: Moment) -> bool:
    """Return whether the points of a moment agree and are those of photographs."""
    agreement = moment.agreement
    return agreement.points >= FEWEST_POINTS and agreement.probability >= REFUTED and agreement.drawn == 0.0


def speaks_against(moment: Moment) -> bool:
    """Return whether the pictures of a moment have points, and these do not agree as those of a copy do."""
    return moment.agreement.points >= FEWEST_POINTS and moment.agreement.probability < REFUTED
