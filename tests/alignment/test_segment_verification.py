from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from copytrace.alignment import picture_look
from copytrace.alignment.align import VideoRows
from copytrace.alignment.picture_evidence import Moment, verified_score
from copytrace.alignment.picture_look import SURE, Job, Look
from copytrace.alignment.segments import Segment
from copytrace.errors import MediaError
from copytrace.matching.same_picture import Agreement
from copytrace.media.decoding_limits import DEFAULT_LIMITS
from copytrace.media.encode import write_video
from copytrace.synthesis.drawn_text import page

SHOWN = Segment(0.0, 4.0, 0.0, 4.0, 0.3)


Compare = Callable[..., list[Moment]]


@pytest.fixture(scope="module")
def compare(tmp_path_factory: pytest.TempPathFactory) -> Compare:
    """A look at videos of a page: a reference, a coarse copy of it, and another page of the same template."""
    folder = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(5)
    draw = page(rng)
    original, other = (np.asarray(draw(rng).convert("RGB").resize((480, 640))) for _ in range(2))
    files = {"reference": (original, 2), "copy": (original, 12), "other": (other, 2)}
    for name, (picture, quantizer) in files.items():
        write_video([picture] * 8, folder / f"{name}.mp4", rate=2, quantizer=quantizer)
    paths = {name: str(folder / f"{name}.mp4") for name in [*files, "absent"]}
    look = Look.at(paths, paths, DEFAULT_LIMITS)

    def run(query: str, segment: Segment = SHOWN, similarity: float = 0.95) -> list[Moment]:
        times = np.array([[second, second + 1.0] for second in range(4)], np.float64)
        vectors = np.tile(np.float32([1.0, 0.0]), (4, 1))
        turned = np.tile(np.float32([similarity, np.sqrt(1 - similarity**2)]), (4, 1))
        rows = [VideoRows(["whole"] * 4, times, each, np.zeros(4, np.float32)) for each in (turned, vectors)]
        job: Job = (0, (query, "reference"), segment, rows[0], rows[1])
        return look.compare(job)

    return run


def test_points_tell_a_copied_page_from_another_page_of_the_same_template(compare: Compare) -> None:
    copied, unrelated = compare("copy"), compare("other")
    assert len(copied) == len(unrelated) == 3
    assert all(seen.similarity == pytest.approx(0.95, abs=1e-6) for seen in copied + unrelated)
    assert verified_score(0.02, copied) > 0.5
    assert verified_score(0.98, unrelated) < 0.1


def test_pictures_that_are_not_alike_are_not_looked_at(compare: Compare) -> None:
    sure = Segment(0.0, 4.0, 0.0, 4.0, SURE)
    assert compare("absent", sure, similarity=0.6) == []
    assert compare("absent", similarity=0.45) == []
    with pytest.raises(MediaError):
        compare("absent", sure, similarity=0.95)


def test_of_a_photograph_one_moment_is_enough(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_look, "compare_pictures", lambda *_: Agreement(0.9, 0.0, 300))
    assert len(compare("copy")) == 1


def test_moments_after_the_end_of_a_video_are_left_out(compare: Compare) -> None:
    assert len(compare("copy", Segment(0.0, 12.0, 0.0, 12.0, 0.3))) == 1
    assert compare("copy", Segment(8.0, 12.0, 8.0, 12.0, 0.3)) == []


def test_black_pictures_that_two_talks_share_prove_nothing_and_two_black_videos_are_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    draw = page(rng)
    pages = [np.asarray(draw(rng).convert("RGB").resize((480, 640))) for _ in range(2)]
    black = np.zeros_like(pages[0])
    shown = {"first": [black] * 8 + [pages[0]] * 4, "second": [black] * 8 + [pages[1]] * 4, "black": [black] * 12}
    for name, pictures in shown.items():
        write_video(pictures, tmp_path / f"{name}.mp4", rate=2)
    paths = {name: str(tmp_path / f"{name}.mp4") for name in shown}
    look = Look.at(paths, paths, DEFAULT_LIMITS)
    times = np.array([[second, second + 1.0] for second in range(6)], np.float64)
    rows = VideoRows(["whole"] * 6, times, np.tile(np.float32([1.0, 0.0]), (6, 1)), np.zeros(6, np.float32))
    segment = Segment(0.0, 4.0, 0.0, 4.0, 0.9)
    pairs = [("black", "black"), ("first", "second")]
    scores = [look.verify((0, pair, segment, rows, rows))[0].score for pair in pairs]
    assert scores == [0.9, pytest.approx(0.05)]
