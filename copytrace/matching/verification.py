"""Verification of a pair: its points are matched by ratio tests, and one transform is fitted to the matches.

The transform is found by single matches and then by OpenCV's USAC. Descriptors are uint8 root-SIFT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from configs.images import VerificationSettings
from copytrace.arrays import Doubles, Floats, Numbers
from copytrace.features.points import MIRRORED_ORDER, Bytes, Points
from copytrace.features.variants import Variant

# The scale and rotation of one match give a whole transform (Philbin et al. 2007); matches that agree with it within
# these bounds are passed to USAC.
LOOSE_TOLERANCE = 0.15  # of the short side
LOOSE_OCTAVES = 1.0
LOOSE_RADIANS = np.pi / 4
FEWEST_FOR_AFFINE = 4

IMGFP_RATIO = 1.8  # of squared distances: 1.8·d1² < d2²
_NO_SECOND = np.float32(2**31 - 1)


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of the geometric verification of one pair.

    `transform` is None or float64 [2, 3], from reference to query, both in shares of the whole image's width and
    height; `placement` is the same from the reference to the view as its variant, both in short sides. `query_points`
    and `reference_points` are the inliers, float32 [inliers, 2], in shares of the whole image. `coverage` is the share
    of the reference within their convex hull, `agreement` their share of the matches. `rows` int64 [inliers, 2] are
    the inliers' rows in the points of both.
    """

    ratio_matches: int
    inliers: int
    mirrored: bool
    negative: bool
    transform: Doubles | None
    placement: Doubles | None
    query_points: Floats
    reference_points: Floats
    coverage: float
    agreement: float
    rows: Numbers


_NONE, _NO_ROWS = np.zeros((0, 2), np.float32), np.zeros((0, 2), np.int64)


def nothing(ratio_matches: int, variant: Variant) -> Verification:
    """Return the verification of a pair of which no matches agree."""
    mirrored, negative = variant.mirrored, variant.negative
    return Verification(ratio_matches, 0, mirrored, negative, None, None, _NONE, _NONE, 0.0, 0.0, _NO_ROWS)


def verify(query: Points, reference: Points, variant: Variant, settings: VerificationSettings) -> Verification:
    """Match one view of the query, read as `variant`, with the reference, and fit a transform to the matches."""
    geometry, descriptors = variant.read(query.relative_geometry(), query.descriptor)
    matches = ratio_matches(descriptors, reference.descriptor, settings.ratio)
    here, there = geometry[matches[:, 0]], reference.relative_geometry()[matches[:, 1]]
    agreeing = largest_agreeing_set(here, there)
    inliers = _inliers(here, there, agreeing, settings)
    if len(inliers) == 0:
        return nothing(len(matches), variant)
    query_points = query.image_positions()[matches[inliers, 0]]
    reference_points = reference.image_positions()[matches[inliers, 1]]
    return Verification(
        ratio_matches=len(matches),
        inliers=len(inliers),
        mirrored=variant.mirrored,
        negative=variant.negative,
        transform=_least_squares(reference_points, query_points),
        placement=_least_squares(there[inliers, :2], here[inliers, :2]),
        query_points=query_points,
        reference_points=reference_points,
        coverage=float(cv2.contourArea(cv2.convexHull(reference_points))),
        agreement=len(inliers) / len(matches),
        rows=matches[inliers],
    )


def largest_agreeing_set(here: Floats, there: Floats) -> Numbers:
    """Return the largest set of matches that agree with the similarity transform of one of them, int64 [M].

    `here` and `there` are float32 [K, 4]: x, y, scale, angle. All K transforms are tried, so nothing is random.
    """
    if len(here) == 0:
        return np.zeros(0, np.int64)
    octaves = np.log2(here[:, 2] / there[:, 2])
    rotation = here[:, 3] - there[:, 3]
    scale = 2.0**octaves
    cosine, sine = (np.cos(rotation) * scale)[:, None], (np.sin(rotation) * scale)[:, None]
    dx, dy = there[None, :, 0] - there[:, None, 0], there[None, :, 1] - there[:, None, 1]
    off_x = here[:, None, 0] + cosine * dx - sine * dy - here[None, :, 0]
    off_y = here[:, None, 1] + sine * dx + cosine * dy - here[None, :, 1]
    turn = np.abs((rotation[:, None] - rotation[None, :] + np.pi) % (2 * np.pi) - np.pi)
    close = off_x**2 + off_y**2 < LOOSE_TOLERANCE**2
    agree = close & (np.abs(octaves[:, None] - octaves[None, :]) < LOOSE_OCTAVES) & (turn < LOOSE_RADIANS)
    return np.flatnonzero(agree[agree.sum(axis=1).argmax()])


def _inliers(here: Floats, there: Floats, agreeing: Numbers, settings: VerificationSettings) -> Numbers:
    """Return the rows of the inliers, one for each position; none if the transform is implausible."""
    if len(agreeing) >= FEWEST_FOR_AFFINE:
        source, target = there[agreeing, :2].astype(np.float64), here[agreeing, :2].astype(np.float64)
        transform, _ = cv2.estimateAffine2D(
            source, target, method=cv2.USAC_MAGSAC, ransacReprojThreshold=settings.tolerance, maxIters=500
        )
        if transform is None or not is_plausible(np.asarray(transform, np.float64), settings):
            return np.zeros(0, np.int64)
        agreeing = _within(here, there, transform, settings.tolerance)
        # USAC's transform is that of a sample; one that is fitted to all its inliers often has a few more inliers.
        refined = _least_squares(there[agreeing, :2], here[agreeing, :2])
        if refined is not None and is_plausible(refined, settings):
            again = _within(here, there, refined, settings.tolerance)
            agreeing = again if len(again) > len(agreeing) else agreeing
    # Several matches at one position are one piece of evidence.
    places = np.concatenate([np.rint(here[agreeing, :2] * 150), np.rint(there[agreeing, :2] * 150)], axis=1)
    for side in (slice(0, 2), slice(2, 4)):
        _, first = np.unique(places[:, side], axis=0, return_index=True)
        agreeing, places = agreeing[np.sort(first)], places[np.sort(first)]
    return agreeing


def _within(here: Floats, there: Floats, transform: NDArray[Any], tolerance: float) -> Numbers:
    off = here[:, :2] - (there[:, :2] @ transform[:, :2].T + transform[:, 2])
    return np.flatnonzero((off**2).sum(axis=1) < tolerance**2)


def is_plausible(transform: Doubles, settings: VerificationSettings) -> bool:
    """Return whether people may edit a picture so: whether the two scales of an affine [2, 3] are within the bounds."""
    scales = np.linalg.svd(transform[:, :2], compute_uv=False)
    return bool(
        scales[1] > 1 / settings.max_scale
        and scales[0] < settings.max_scale
        and scales[0] < settings.max_stretch * scales[1]
    )


def _least_squares(source: Floats, target: Floats) -> Doubles | None:
    if len(source) < FEWEST_FOR_AFFINE:
        return None
    design = np.concatenate([source, np.ones((len(source), 1), np.float32)], axis=1)
    solution, _, rank, _ = np.linalg.lstsq(design.astype(np.float64), target.astype(np.float64), rcond=None)
    return solution.T if rank == 3 else None


def squared_distances(first: Bytes, second: Bytes) -> Floats:
    """Return the squared Euclidean distances float32 [N, M] between uint8 [N, 128] and uint8 [M, 128]; exact."""
    a, b = first.astype(np.float32), second.astype(np.float32)
    distances = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b)[None, :] - 2 * (a @ b.T)
    return np.asarray(np.maximum(distances, 0), np.float32)


def ratio_matches(query: Bytes, reference: Bytes, ratio: float) -> Numbers:
    """Return matches int64 [K, 2]: rows of query and reference points that are nearer than `ratio` times the second.

    Each reference point is matched at most once, by its nearest query point (Lowe 2004 §7.1).
    """
    if len(query) == 0 or len(reference) == 0:
        return np.zeros((0, 2), np.int64)
    distances = squared_distances(query, reference)
    nearest, first, second = _two_smallest(distances)
    passed = np.flatnonzero(first < ratio**2 * second)
    order = passed[np.argsort(first[passed], kind="stable")]
    _, kept = np.unique(nearest[order], return_index=True)
    rows = order[np.sort(kept)]
    return np.stack([rows, nearest[rows]], axis=1)


def imgfp_score(query: Points, reference: Points) -> tuple[int, bool]:
    """Return imgFp's number of matches, and whether it counts those of the mirrored reference.

    A reference point matches its nearest query point if 1.8·d1² < d2². Of matches that share a
    rounded position in either picture, one counts: a later one replaces an earlier one unless it is farther
    (`match_score.cpp`).
    """
    plain = _imgfp_count(query, reference, reference.descriptor)
    mirrored = _imgfp_count(query, reference, reference.descriptor[:, MIRRORED_ORDER])
    return max(plain, mirrored), mirrored > plain


def _imgfp_count(query: Points, reference: Points, descriptors: Bytes) -> int:
    if len(query) == 0 or len(reference) == 0:
        return 0
    nearest, first, second = _two_smallest(squared_distances(descriptors, query.descriptor))
    passed = np.flatnonzero(first * IMGFP_RATIO < second)
    there = np.stack([np.rint(reference.x), np.rint(reference.y)], axis=1)[passed].astype(int).tolist()
    here = np.stack([np.rint(query.x), np.rint(query.y)], axis=1)[nearest[passed]].astype(int).tolist()
    distances = first[passed].tolist()
    accepted: list[tuple[list[int], list[int], float]] = []
    for match in zip(there, here, distances, strict=True):
        taken = next((n for n, old in enumerate(accepted) if old[0] == match[0] or old[1] == match[1]), None)
        if taken is None:
            accepted.append(match)
        elif match[2] <= accepted[taken][2]:
            accepted[taken] = match
    return len(accepted)


def _two_smallest(distances: Floats) -> tuple[Numbers, Floats, Floats]:
    rows = np.arange(len(distances))
    nearest = distances.argmin(axis=1)
    first = distances[rows, nearest]
    distances[rows, nearest] = _NO_SECOND
    return nearest, first, distances.min(axis=1)
