from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from copytrace.alignment import segment_verification
from copytrace.alignment.align import VideoRows
from copytrace.alignment.segment_verification import REFUTED_SCORE, SURE, Job, Look, Moment, verified_score
from copytrace.alignment.segments import Segment
from copytrace.errors import MediaError
from copytrace.matching.same_picture import Agreement
from copytrace.media.decoding_limits import DEFAULT_LIMITS
from copytrace.media.encode import write_video
from copytrace.synthesis.drawn_text import page

SHOWN = Segment(0.0, 4.0, 0.0, 4.0, 0.3)


def moment(
    probability: float,
    *,
    similarity: float = 0.95,
    drawn: float = 1.0,
    points: int = 300,
    compared: bool = False,
    ground: float = 0.2,
    is_plain: bool = False,
) -> Moment:
    return Moment(similarity, Agreement(probability, drawn, points, compared), ground, is_plain)


@pytest.mark.parametrize(
    ("moments", "above"),
    [
        pytest.param([moment(0.99), moment(0.99), moment(0.0)], True, id="two moments support it"),
        pytest.param([moment(0.99)], True, id="the only one that can be seen supports it"),
        pytest.param([moment(0.99), moment(0.0), moment(0.0)], False, id="one of three supports it"),
        pytest.param([moment(0.99, drawn=0.0)] * 3, False, id="photographs of one place"),
        pytest.param([moment(0.99, points=40)] * 3, False, id="the few points of a frame"),
        pytest.param([], False, id="nothing can be seen"),
        pytest.param([moment(0.0, points=5)] * 3, False, id="hardly any points"),
        pytest.param([moment(0.0, similarity=0.5)] * 3, False, id="not alike"),
        pytest.param([moment(0.0, similarity=0.99)] * 3, False, id="the same"),
    ],
)
def test_a_segment_is_raised_by_two_moments_of_drawn_pictures_and_otherwise_kept(
    moments: list[Moment], above: bool
) -> None:
    if above:
        assert verified_score(0.1, moments) > 0.9
    else:
        assert verified_score(0.1, moments) == pytest.approx(0.1)


def test_a_segment_of_alike_pictures_whose_points_disagree_is_refuted() -> None:
    assert verified_score(0.99, [moment(0.1)] * 3) == pytest.approx(REFUTED_SCORE)
    assert verified_score(0.01, [moment(0.1)] * 3) == pytest.approx(0.01)


def test_one_moment_that_agrees_is_not_enough_where_the_ink_of_two_others_differs() -> None:
    differs = moment(0.05, similarity=0.6, compared=True)
    assert verified_score(0.99, [differs, moment(0.99), differs]) == pytest.approx(REFUTED_SCORE)
    assert verified_score(0.99, [differs, moment(0.99), moment(0.99)]) > 0.99


def test_points_of_drawn_pictures_refute_a_segment_at_less_similarity_than_those_of_photographs() -> None:
    photograph, page = (moment(0.0, similarity=0.7, ground=ground) for ground in (0.2, 0.7))
    assert verified_score(0.9, [photograph] * 3) == pytest.approx(0.9)
    assert verified_score(0.9, [page] * 3) == pytest.approx(REFUTED_SCORE)
    assert verified_score(0.9, [moment(0.0, similarity=0.5, ground=0.7)] * 3) == pytest.approx(0.9)


def test_plain_pictures_beside_others_refute_a_segment_without_points() -> None:
    plain = moment(0.0, points=0, is_plain=True)
    assert verified_score(0.9, [plain] * 3) == pytest.approx(REFUTED_SCORE)
    assert verified_score(0.9, [plain, plain, moment(0.0, points=0)]) == pytest.approx(0.9)
    assert verified_score(0.9, [plain, plain, moment(0.99)]) > 0.9


def test_the_order_of_supported_segments_is_kept() -> None:
    scores = [verified_score(score, [moment(0.99)] * 3) for score in (0.0, 0.2, 0.6, 0.99)]
    assert scores == sorted(set(scores))
    assert scores[-1] < 1.0


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
    monkeypatch.setattr(segment_verification, "compare_pictures", lambda *_: Agreement(0.9, 0.0, 300))
    assert len(compare("copy")) == 1


def test_moments_after_the_end_of_a_video_are_left_out(compare: Compare) -> None:
    assert len(compare("copy", Segment(0.0, 12.0, 0.0, 12.0, 0.3))) == 1
    assert compare("copy", Segment(8.0, 12.0, 8.0, 12.0, 0.3)) == []
