"""Whether two pictures show the same, by their points and their ink: for pictures that a descriptor finds alike."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from configs.images import ImageSettings
from copytrace.features.points import Bytes, find_points
from copytrace.features.variants import VARIANTS
from copytrace.matching.confirmation import confirm
from copytrace.matching.content import compare_content, content_columns
from copytrace.matching.ground import SURELY_DRAWN, flat_ground
from copytrace.matching.score import LEAST_INLIERS, Calibration, uniqueness_share
from copytrace.matching.verification import verify

PLAIN_AND_MIRRORED = (0, 1)  # numbers of variants


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well two pictures agree.

    `probability` (0 to 1) is that of a copy, as opposed to two pictures of one template; 0 if hardly any points agree.
    `drawn` (0 to 1) says how much the agreeing points look like marks of drawn pictures, which repeat in a picture, and
    not like those of photographs; it is 1 where there is as much plain ground around ink as only in drawn pictures, in
    whose lines no mark may repeat. `points` is the number of points in the picture that has fewer. `compared` says that
    the probability also depends on where the ink of the pictures differs, and not only on their points.
    """

    probability: float
    drawn: float
    points: int
    compared: bool = False


def compare_pictures(query: Bytes, reference: Bytes, settings: ImageSettings, calibration: Calibration) -> Agreement:
    """Return how well two pictures, uint8 RGB [H, W, 3], agree, plain or mirrored."""
    shown = find_points(query, settings.local.query_points)
    original = find_points(reference, settings.local.reference_points)
    points = min(len(shown), len(original))
    found, number = max(
        ((verify(shown, original, VARIANTS[each], settings.verification), each) for each in PLAIN_AND_MIRRORED),
        key=lambda tried: (tried[0].inliers, tried[0].agreement),
    )
    confirmation = confirm(shown, original, VARIANTS[number], found)
    if found.inliers < LEAST_INLIERS or confirmation is None or found.transform is None:
        return Agreement(0.0, 0.0, points)
    has_ground = flat_ground(reference) >= SURELY_DRAWN
    drawn = 1.0 if has_ground else 1.0 - uniqueness_share(confirmation.uniqueness)
    content = compare_content(query, reference, found.transform) if drawn else None
    measured = content_columns(content) | {
        "agreement": found.agreement,
        "confirmed": confirmation.share,
        "distance": confirmation.distance,
        "uniqueness": confirmation.uniqueness,
        "fewest_points": confirmation.points,
    }
    evidence = pa.table({name: [value] for name, value in measured.items()})
    return Agreement(float(calibration.template_probability(evidence)[0]), drawn, points, content is not None)
