"""The score of a segment depends on what its pictures prove, not on seconds.

The kinds of videos are drawn as descriptors: unit vectors, of which those of one layout share a part.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from copytrace.alignment.aligners import SimilarityMatrix, build_aligner
from copytrace.alignment.distinct_evidence import distinct_evidence
from copytrace.alignment.networks import JointRules
from copytrace.alignment.segments import Segment

Vectors = np.ndarray
SIDE = 64
NOISE = 0.39  # cosine of unrelated frames, from which similarities count


def unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def pictures(count: int, seed: int) -> Vectors:
    """Return unrelated pictures."""
    return unit(np.random.default_rng(seed).normal(0, 1, (count, SIDE)))


def pages(count: int, seed: int, alike: float, layout: int = 99) -> Vectors:
    """Return pictures of one layout, each pair of them about as similar as `alike`."""
    return unit(np.sqrt(1 - alike) * pictures(count, seed) + np.sqrt(alike) * pictures(1, layout))


def held(shown: Vectors, seconds: int) -> Vectors:
    return np.repeat(shown, seconds, axis=0)


def tour(seed: int, count: int = 4, seconds: int = 4) -> Vectors:
    """Return photos, with a camera that moves over each."""
    drift = np.cumsum(np.random.default_rng(seed).normal(0, 0.05, (count * seconds, SIDE)), axis=0)
    return unit(held(pictures(count, seed), seconds) + drift)


def rolling(seed: int, lines: int, alike: float, seconds: int = 20) -> Vectors:
    """Return a roll of text: every frame shows `lines` lines, of which one is new each second."""
    each = pictures(seconds + lines - 1, seed)
    roll = np.stack([each[second : second + lines].sum(axis=0) for second in range(seconds)])
    return unit(np.sqrt(1 - alike) * unit(roll) + np.sqrt(alike) * pictures(1, 98))


def with_cursor(seed: int) -> Vectors:
    """Return an editor: pages of one layout, on which a line is typed and the cursor moves."""
    typed = np.cumsum(np.random.default_rng(seed).normal(0, 0.008, (20, SIDE)), axis=0)
    return unit(held(pages(4, seed, 0.85), 5) + typed)


KINDS: dict[str, Callable[[int], Vectors]] = {
    "talk": lambda seed: held(pages(6, seed, 0.9), 4),
    "document": lambda seed: held(pages(5, seed, 0.8), 5),
    "list": lambda seed: held(pages(5, seed, 0.95), 4),
    "credits": lambda seed: rolling(seed, 5, 0.85),
    "screencast": with_cursor,
    "talk amid photos": lambda seed: np.concatenate(
        [tour(seed + 50, 2), held(pages(4, seed, 0.9), 4), tour(seed + 60, 2)]
    ),
    "tour": tour,
}


def encoded(frames: Vectors, seed: int = 3, noise: float = 0.1) -> Vectors:
    """Return frames as another encoding shows them: a similarity of 0.99 and more to the original."""
    error = held(pictures(len(frames) // 4 + 1, seed), 4)[: len(frames)]
    return unit(frames + noise * error)


def cropped(frames: Vectors) -> Vectors:
    """Return frames that all lost the same border."""
    return unit(frames + 0.3 * pictures(1, 7))


def matrix_of(query: Vectors, reference: Vectors, fps: float = 1.0) -> SimilarityMatrix:
    query_times, reference_times = (
        np.stack([np.arange(len(each)), np.arange(1, len(each) + 1)], axis=1) / fps for each in (query, reference)
    )
    values = (query @ reference.T - NOISE) / (1.0 - NOISE)
    return SimilarityMatrix(values.astype(np.float32), query_times, reference_times)


def best_score(query: Vectors, reference: Vectors, fps: float = 1.0) -> float:
    segments = build_aligner("hough").align(matrix_of(query, reference, fps))
    return max((segment.score for segment in segments), default=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_unrelated_videos_of_one_layout_score_under_a_tenth(kind: str) -> None:
    for seed in (1, 20):
        assert best_score(KINDS[kind](seed + 1), KINDS[kind](seed)) < 0.1


@pytest.mark.parametrize("edit", [encoded, cropped])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stretch_of_a_video_of_any_kind_is_a_copy_when_encoded_again_or_cropped(
    kind: str, edit: Callable[[Vectors], Vectors]
) -> None:
    for seed in (1, 20):
        reference = KINDS[kind](seed)
        assert best_score(edit(reference[3:17]), reference) > 0.5
        assert best_score(edit(reference), reference) > 0.5


@pytest.mark.parametrize(("count", "fps"), [(4, 2.0), (4, 4.0)])
def test_a_cut_of_four_different_frames_is_a_copy_at_any_rate(count: int, fps: float) -> None:
    reference = pictures(60, 1)
    assert best_score(reference[20 : 20 + count], reference, fps) > 0.5


@pytest.mark.parametrize(
    "reference", [held(pictures(1, 5), 10), held(pages(1, 5, 0.9), 10), pictures(1, 5), pictures(2, 5)]
)
def test_a_video_of_one_still_or_of_one_or_two_frames_is_found_alone_and_within_footage(reference: Vectors) -> None:
    copy = encoded(reference)
    assert best_score(reference, reference) > 0.5
    assert best_score(copy, reference) > 0.5
    assert best_score(np.concatenate([tour(8), copy, tour(9)]), reference) > 0.5


def test_a_still_of_another_page_is_no_copy() -> None:
    page, other = (held(pages(1, seed, 0.93), 10) for seed in (1, 2))
    assert best_score(other, page) < 0.1
    assert best_score(np.concatenate([tour(8), other]), page) < 0.1


@pytest.mark.parametrize("seconds", [2, 5, 12])
def test_a_title_or_black_frame_that_two_videos_share_proves_nothing_however_long(seconds: int) -> None:
    card = held(pictures(1, 5), seconds)
    first = np.concatenate([card, tour(1), card])
    assert best_score(np.concatenate([card, tour(2), card]), first) < 0.1
    assert best_score(np.concatenate([tour(2), card, tour(3)]), first) < 0.1


def test_a_still_that_two_videos_share_proves_no_more_the_longer_it_is_shown() -> None:
    short, long, moving = (
        best_score(*(np.concatenate([pictures(20, seed), shared, pictures(20, seed + 10)]) for seed in (1, 2)))
        for shared in (held(pictures(1, 5), 4), held(pictures(1, 5), 12), pictures(12, 6))
    )
    assert max(short, long) < 0.1
    assert long <= short + 0.01
    assert moving > 0.9


def test_a_scene_that_moves_is_a_copy_amid_other_footage() -> None:
    scene = unit(pictures(1, 5) + np.cumsum(np.random.default_rng(6).normal(0, 0.05, (9, SIDE)), axis=0))
    assert best_score(*(np.concatenate([tour(seed), scene, tour(seed + 1)]) for seed in (1, 3))) > 0.5


def test_unrelated_pages_of_one_layout_are_no_copies_of_one_another() -> None:
    assert best_score(pages(30, 2, 0.93), pages(30, 1, 0.93)) < 0.1


def test_scenes_that_are_alike_are_copies_if_the_very_frames_return() -> None:
    reference = pages(30, 1, 0.8)
    assert best_score(reference[5:25], reference) > 0.9


def test_the_pages_of_a_long_talk_are_told_apart() -> None:
    reference, other = (held(pages(80, seed, 0.9), 3) for seed in (1, 2))
    line = Segment(0.0, 21.0, 60.0, 81.0, 0.0)
    assert distinct_evidence(8.0, line, matrix_of(encoded(reference[60:81]), reference)) > 1.0
    assert distinct_evidence(8.0, line, matrix_of(other[60:81], reference)) < 0.5


def test_a_page_that_two_talks_share_makes_neither_a_copy() -> None:
    first, other = (np.concatenate([held(pages(1, 5, 0.9), 4), held(pages(5, seed, 0.9), 4)]) for seed in (1, 2))
    line = Segment(0.0, 24.0, 0.0, 24.0, 0.0)
    evidence = distinct_evidence(9.0, line, matrix_of(other, first))
    assert evidence**JointRules.sharpness < 0.1


def test_a_loop_of_a_page_is_found_each_time() -> None:
    reference = held(pages(6, 1, 0.9), 4)
    assert best_score(np.concatenate([reference[4:12]] * 3), reference) > 0.5
