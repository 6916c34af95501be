from __future__ import annotations

import numpy as np
import pytest

from configs.images import VerificationSettings
from copytrace.features.points import Points
from copytrace.features.variants import VARIANTS
from copytrace.matching.confirmation import confirm, confirmed_share
from copytrace.matching.verification import verify

SAME = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
PLAIN, MIRRORED = VARIANTS[0], VARIANTS[1]


def picture(seed: int, count: int = 400, width: int = 400, height: int = 300) -> Points:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, width, count), rng.uniform(0, height, count)
    scale, angle = rng.uniform(3, 6, count), rng.uniform(-3, 3, count)
    geometry = (values.astype(np.float32) for values in (x, y, scale, angle))
    return Points(*geometry, rng.integers(0, 256, (count, 128), np.uint8), width, height)


def with_part_of(first: Points, second: Points, chosen: np.ndarray) -> Points:
    """Return the first picture with the second's points where they are chosen, bool [N]."""
    merged = {
        name: np.where(
            chosen.reshape(-1, *[1] * (getattr(first, name).ndim - 1)), getattr(second, name), getattr(first, name)
        )
        for name in ("x", "y", "scale", "angle", "descriptor")
    }
    return Points(**merged, width=first.width, height=first.height)


def test_a_picture_is_confirmed_by_itself_and_by_no_other() -> None:
    assert confirmed_share(picture(0), picture(0), PLAIN, SAME, 500.0) == 1.0
    assert confirmed_share(picture(0), picture(1), PLAIN, SAME, 500.0) == 0.0


def test_of_two_windows_only_the_frame_that_they_share_is_confirmed() -> None:
    window, other = picture(0), picture(1)
    frame = window.y < 75  # the upper quarter
    kept = with_part_of(other, window, frame)
    kept.y[~frame] = np.maximum(kept.y[~frame], 75)
    assert confirmed_share(kept, window, PLAIN, SAME, 500.0) == pytest.approx(0.25, abs=0.03)


def test_what_a_crop_leaves_out_does_not_count() -> None:
    whole = picture(0)
    left = whole.x < 200
    crop = Points(*(getattr(whole, name)[left] for name in ("x", "y", "scale", "angle", "descriptor")), 200, 300)
    to_crop = SAME * (300 / 200)  # short sides: 300 pixels of the whole, 200 of the crop
    assert confirmed_share(crop, whole, PLAIN, to_crop, 500.0) == 1.0


def test_a_mirrored_view_is_read_as_its_variant() -> None:
    whole = picture(0)
    geometry, descriptors = MIRRORED.read(whole.relative_geometry(), whole.descriptor)
    # Reading by the variant once more gives the picture back: it is the view of a mirror image.
    view = Points(whole.x, whole.height - whole.y, whole.scale, -whole.angle, descriptors, 400, 300)
    down = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, -1.0]])  # a mirrored view lies above the axis
    assert geometry.shape == (400, 4)
    assert confirmed_share(view, whole, MIRRORED, down, 500.0) == 1.0
    assert confirmed_share(view, whole, PLAIN, SAME, 500.0) < 0.1


def test_edited_points_are_confirmed_by_the_measure_of_the_inliers() -> None:
    whole, rng = picture(0), np.random.default_rng(5)
    noise = rng.integers(-12, 13, whole.descriptor.shape)
    noisy = np.clip(whole.descriptor + noise, 0, 255).astype(np.uint8)
    edited = Points(whole.x, whole.y, whole.scale, whole.angle, noisy, 400, 300)
    apart = float(np.median(((noisy.astype(float) - whole.descriptor) ** 2).sum(axis=1)))
    assert confirmed_share(edited, whole, PLAIN, SAME, apart) == 1.0
    assert confirmed_share(edited, whole, PLAIN, SAME, apart / 10) == 0.0


def test_pictures_without_points_confirm_nothing() -> None:
    empty = picture(0, count=0)
    for first, second in ((empty, picture(0)), (picture(0), empty), (empty, empty)):
        assert confirmed_share(first, second, PLAIN, SAME, 500.0) == 0.0


def test_marks_that_repeat_are_told_from_unique_ones() -> None:
    unique = picture(0, count=60)
    repeated = picture(0, count=60)
    repeated.descriptor[1::2] = np.clip(repeated.descriptor[::2].astype(int) + 2, 0, 255)  # every mark occurs twice
    found = {}
    for name, points in (("unique", unique), ("repeated", repeated)):
        verified = verify(points, points, PLAIN, VerificationSettings(ratio=1.0))
        confirmation = confirm(points, points, PLAIN, verified)
        assert confirmation is not None
        assert confirmation.distance == 0.0
        assert confirmation.share == 1.0
        found[name] = confirmation.uniqueness
    assert found["repeated"] < 1000
    assert found["unique"] > 100_000


def test_points_at_the_same_place_are_no_repetition() -> None:
    one = picture(0, count=60)
    names = ("x", "y", "scale", "angle", "descriptor")
    # SIFT gives a point with two directions twice.
    both = Points(*(np.concatenate([getattr(one, name)] * 2) for name in names), 400, 300)
    both.angle[60:] += 1.0
    both.descriptor[60:] = np.clip(both.descriptor[60:].astype(int) + 2, 0, 255)
    confirmation = confirm(both, both, PLAIN, verify(both, both, PLAIN, VerificationSettings(ratio=1.0)))
    assert confirmation is not None
    assert confirmation.uniqueness > 100_000


def test_without_a_transform_there_is_no_confirmation() -> None:
    first, second = picture(0), picture(1)
    assert confirm(first, second, PLAIN, verify(first, second, PLAIN, VerificationSettings())) is None
