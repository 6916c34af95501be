"""The score of a segment depends on what its frames prove, not on seconds."""

from __future__ import annotations

import numpy as np
import pytest

from copytrace.alignment.aligners import SimilarityMatrix, build_aligner

Vectors = np.ndarray


def frames(count: int, seed: int, *, alike: float = 0.0, template: Vectors | None = None) -> Vectors:
    """Return descriptors of the frames of a video, as like one another, and those of others, as a shared template."""
    random = np.random.default_rng(seed)
    vectors = random.normal(0, 1, (count, 64))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    if template is not None:
        vectors = np.sqrt(1 - alike) * vectors + np.sqrt(alike) * template
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def best_score(query: Vectors, reference: Vectors, fps: float) -> float:
    query_times, reference_times = (
        np.stack([np.arange(len(each)), np.arange(1, len(each) + 1)], axis=1) / fps for each in (query, reference)
    )
    matrix = SimilarityMatrix((query @ reference.T).astype(np.float32), query_times, reference_times)
    return max((segment.score for segment in build_aligner("hough").align(matrix)), default=0.0)


@pytest.fixture(scope="module")
def template() -> Vectors:
    return frames(1, 99)[0]


@pytest.mark.parametrize(("count", "fps"), [(4, 2.0), (4, 4.0)])
def test_a_cut_of_four_different_frames_is_a_copy_at_any_rate(count: int, fps: float) -> None:
    reference = frames(60, 1)
    assert best_score(reference[20 : 20 + count], reference, fps) > 0.5


def test_unrelated_pages_of_one_layout_are_no_copies_of_one_another(template: Vectors) -> None:
    reference, other = (frames(30, seed, alike=0.93, template=template) for seed in (1, 2))
    assert best_score(other, reference, 1.0) < 0.1


def test_scenes_that_are_alike_are_copies_if_the_very_frames_return(template: Vectors) -> None:
    reference = frames(30, 1, alike=0.8, template=template)
    assert best_score(reference[5:25], reference, 1.0) > 0.9


def test_a_still_that_two_videos_share_proves_no_more_the_longer_it_is_shown() -> None:
    still, moving = np.tile(frames(1, 5), (12, 1)), frames(12, 6)
    short, long, other = (
        best_score(*(np.concatenate([frames(20, seed), shared, frames(20, seed + 10)]) for seed in (1, 2)), 1.0)
        for shared in (still[:4], still, moving)
    )
    assert max(short, long) < 0.6
    assert long <= short + 0.01
    assert other > 0.9
