"""Whether two pictures show the same, by their points alone: for pictures that a descriptor finds alike."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from configs.images import ImageSettings
from copytrace.features.points import Points
from copytrace.features.variants import VARIANTS
from copytrace.matching.confirmation import confirm
from copytrace.matching.score import LEAST_INLIERS, Calibration, template_features_of, uniqueness_share
from copytrace.matching.verification import verify

PLAIN_AND_MIRRORED = (0, 1)  # numbers of variants


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well the points of two pictures agree.

    `probability` (0 to 1) is that of a copy, as opposed to two pictures of one template; 0 if hardly any points agree.
    `drawn` (0 to 1) says how much the agreeing points look like marks of drawn pictures, which repeat in a picture, and
    not like those of photographs. `points` is the number of points in the picture that has fewer.
    """

    probability: float
    drawn: float
    points: int


def compare_points(query: Points, reference: Points, settings: ImageSettings, calibration: Calibration) -> Agreement:
    """Return how well the points of two pictures agree, plain or mirrored."""
    points = min(len(query), len(reference))
    found, number = max(
        ((verify(query, reference, VARIANTS[each], settings.verification), each) for each in PLAIN_AND_MIRRORED),
        key=lambda tried: (tried[0].inliers, tried[0].agreement),
    )
    confirmation = confirm(query, reference, VARIANTS[number], found)
    if found.inliers < LEAST_INLIERS or confirmation is None:
        return Agreement(0.0, 0.0, points)
    evidence = pa.table(
        {
            "agreement": [found.agreement],
            "confirmed": [confirmation.share],
            "distance": [confirmation.distance],
            "uniqueness": [confirmation.uniqueness],
            "fewest_points": [confirmation.points],
        }
    )
    probability = float(calibration.template.probability(template_features_of(evidence))[0])
    return Agreement(probability, 1.0 - uniqueness_share(confirmation.uniqueness), points)
