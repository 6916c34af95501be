from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copytrace.errors import ConfigError
from copytrace.overlays.boxes import Box, choose_crops
from copytrace.overlays.detectors import load_overlay_detector

edges = st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(1, 100), st.integers(1, 100))
random_boxes = st.lists(
    st.builds(
        lambda corners, confidence: Box(*(edge / 100 for edge in corners), confidence=confidence),
        edges.filter(lambda c: c[0] < c[2] and c[1] < c[3]),
        st.floats(0, 1),
    ),
    max_size=8,
)


def test_area_is_the_share_of_the_unit_square() -> None:
    assert Box(0.25, 0.5, 0.75, 1.0, 0.9).area == 0.25


def test_pixels_are_cut_down_and_not_rounded() -> None:
    assert Box(0.199, 0.0, 0.999, 0.599, 0.9).to_pixels(10, 20) == (1, 0, 9, 11)


def test_iou_of_two_halves_that_share_a_third_of_their_union() -> None:
    assert Box(0.0, 0.0, 0.5, 1.0, 1.0).iou(Box(0.25, 0.0, 0.75, 1.0, 1.0)) == pytest.approx(1 / 3)


def test_boxes_apart_share_nothing() -> None:
    assert Box(0.0, 0.0, 0.2, 0.2, 1.0).iou(Box(0.5, 0.5, 0.9, 0.9, 1.0)) == 0.0


def test_the_most_confident_box_is_the_only_crop() -> None:
    weak, strong = Box(0.0, 0.0, 0.4, 0.4, 0.6), Box(0.5, 0.5, 0.9, 0.9, 0.8)
    assert choose_crops([weak, strong], min_confidence=0.55) == [strong]


def test_a_confidence_equal_to_the_threshold_is_too_low() -> None:
    assert choose_crops([Box(0.0, 0.0, 0.4, 0.4, 0.55)], min_confidence=0.55) == []


@pytest.mark.parametrize(("side", "kept"), [(0.85, 1), (0.875, 0)])
def test_a_box_over_85_percent_of_the_picture_is_dropped(side: float, kept: int) -> None:
    assert len(choose_crops([Box(0.0, 0.0, side, 1.0, 0.9)], min_confidence=0.5)) == kept


@pytest.mark.parametrize(
    ("width", "height", "kept"), [(0.125, 0.5, 1), (0.125, 0.5625, 0), (0.5, 0.125, 1), (0.5625, 0.125, 0)]
)
def test_a_box_narrower_than_a_quarter_is_dropped(width: float, height: float, kept: int) -> None:
    assert len(choose_crops([Box(0.0, 0.0, width, height, 0.9)], min_confidence=0.5)) == kept


def test_a_dropped_box_does_not_hide_a_worse_one_that_fits() -> None:
    whole, part = Box(0.0, 0.0, 1.0, 1.0, 0.99), Box(0.0, 0.0, 0.5, 0.5, 0.6)
    assert choose_crops([whole, part], min_confidence=0.5) == [part]


def test_more_crops_pass_over_near_repeats_of_a_better_one() -> None:
    best, repeat, other = Box(0, 0, 0.5, 0.5, 0.9), Box(0, 0, 0.5, 0.48, 0.8), Box(0.5, 0.5, 1, 1, 0.7)
    assert choose_crops([repeat, other, best], min_confidence=0.5, limit=2) == [best, other]


def test_equal_confidences_keep_their_order() -> None:
    first, second = Box(0.0, 0.0, 0.4, 0.4, 0.7), Box(0.5, 0.5, 0.9, 0.9, 0.7)
    assert choose_crops([first, second], min_confidence=0.5) == [first]


@given(boxes=random_boxes, limit=st.integers(0, 4))
def test_crops_are_ordered_distinct_and_no_more_than_the_limit(boxes: list[Box], limit: int) -> None:
    crops = choose_crops(boxes, min_confidence=0.3, limit=limit)
    assert len(crops) <= limit
    assert all(crop in boxes and crop.confidence > 0.3 for crop in crops)
    assert [crop.confidence for crop in crops] == sorted((crop.confidence for crop in crops), reverse=True)
    assert all(a.iou(b) <= 0.7 for i, a in enumerate(crops) for b in crops[:i])


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ConfigError, match="give 0 or more"):
        choose_crops([], min_confidence=0.5, limit=-1)


def test_an_aspect_under_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="give 1 or more"):
        choose_crops([], min_confidence=0.5, max_aspect=0.25)


def test_the_detector_called_none_is_no_detector() -> None:
    assert load_overlay_detector("none") is None


def test_the_edges_detector_names_itself_the_same_every_time() -> None:
    first, second = load_overlay_detector("edges"), load_overlay_detector("edges")
    assert first is not None
    assert second is not None
    assert len(first.digest) == 16
    assert first.digest == second.digest


def test_an_unknown_detector_is_refused_with_the_known_names() -> None:
    with pytest.raises(ConfigError, match="give one of: edges, network, none"):
        load_overlay_detector("yolo")


def test_a_folder_beside_one_is_a_trained_detector_by_its_bare_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trained").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"overlay\.safetensors does not exist"):
        load_overlay_detector("trained")
