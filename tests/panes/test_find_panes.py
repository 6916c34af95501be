from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from copytrace.errors import InputError
from copytrace.overlays.boxes import Box
from copytrace.panes.find_panes import Pane, crop, find_panes

Frames = NDArray[np.uint8]
Corners = tuple[float, float, float, float]

SHOT = 4  # frames


def video(seed: int, count: int, width: int, height: int) -> Frames:
    """Drifting smooth shapes without a straight line, with a new shot every four frames."""
    random = np.random.default_rng(seed)
    frames = []
    for index in range(count):
        if index % SHOT == 0:
            scene = random.integers(0, 256, (9, 12, 3), np.uint8)
        large = cv2.resize(scene, (width + 40, height + 40), interpolation=cv2.INTER_CUBIC)
        shift = 10 * (index % SHOT)
        frames.append(large[shift : shift + height, shift : shift + width])
    return np.stack(frames)


def overlaps(pane: Pane, truth: Corners) -> NDArray[np.float64]:
    """IoU with `truth` in every frame, 0 where the pane is not there."""
    expected = Box(*truth, 1.0)
    return np.array([0.0 if np.isnan(row).any() else expected.iou(Box(*map(float, row), 1.0)) for row in pane.boxes])


def holds(panes: list[Pane], truth: Corners) -> bool:
    """Whether some pane is `truth` in all frames."""
    return any(overlaps(pane, truth).min() > 0.9 for pane in panes)


class PasteFinder:
    """A detector that knows its pictures: it boxes the saturated green that the tests paste."""

    digest = "0" * 16

    def detect(self, pixels: Frames) -> list[Box]:
        rows, columns = np.nonzero((pixels == (0, 255, 0)).all(axis=2))
        if not len(rows):
            return []
        height, width = pixels.shape[:2]
        box = (columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height)
        return [Box(*map(float, box), 0.9)]


def test_a_plain_video_is_one_pane_over_all_of_every_frame() -> None:
    panes = find_panes(video(0, 24, 320, 180), detector=None)
    assert [pane.name for pane in panes] == ["whole"]
    assert panes[0].boxes.dtype == np.float32
    assert panes[0].boxes.tolist() == [[0, 0, 1, 1]] * 24


@pytest.mark.parametrize(("left", "top", "right", "bottom"), [(0, 24, 0, 30), (50, 0, 40, 0), (30, 20, 30, 20)])
@pytest.mark.parametrize("colour", [0, 255, 90])
def test_solid_borders_are_taken_off(left: int, top: int, right: int, bottom: int, colour: int) -> None:
    frames = np.full((12, 180, 320, 3), colour, np.uint8)
    frames[:, top : 180 - bottom, left : 320 - right] = video(1, 12, 320 - left - right, 180 - top - bottom)
    panes = find_panes(frames, detector=None)
    assert holds(panes, (left / 320, top / 180, 1 - right / 320, 1 - bottom / 180))
    assert len(panes) == 2


def test_a_still_picture_around_the_video_is_taken_off() -> None:
    frames = np.repeat(video(2, 1, 320, 180), 16, axis=0)
    frames[:, 20:160, 50:270] = video(3, 16, 220, 140)
    assert holds(find_panes(frames, detector=None), (50 / 320, 20 / 180, 270 / 320, 160 / 180))


def test_a_blurred_copy_around_the_video_is_taken_off() -> None:
    frames = []
    for frame in video(4, 16, 120, 180):
        blurred = cv2.GaussianBlur(cv2.resize(frame, (320, 480))[150:330], (0, 0), 12)
        blurred[:, 100:220] = frame
        frames.append(blurred)
    assert holds(find_panes(frames, detector=None), (100 / 320, 0, 220 / 320, 1))


@pytest.mark.parametrize(
    ("cells", "size"),
    [
        ([(0, 0, 160, 180), (160, 0, 320, 180)], (320, 180)),
        ([(0, 0, 320, 180), (0, 180, 320, 360)], (320, 360)),  # too low for the rank-1 rules of VSC2022
        ([(0, 0, 160, 90), (160, 0, 320, 90), (0, 90, 160, 180), (160, 90, 320, 180)], (320, 180)),
        ([(0, 0, 110, 180), (110, 0, 210, 180), (210, 0, 320, 180)], (320, 180)),
        ([(0, 0, 200, 180), (200, 0, 320, 70), (200, 70, 320, 180)], (320, 180)),
    ],
    ids=["two side by side", "two rows", "two by two", "three side by side", "one and two, unequal"],
)
def test_every_pane_of_a_split_screen_is_found(cells: list[tuple[int, int, int, int]], size: tuple[int, int]) -> None:
    width, height = size
    frames = np.zeros((16, height, width, 3), np.uint8)
    for seed, (x0, y0, x1, y1) in enumerate(cells):
        frames[:, y0:y1, x0:x1] = video(10 + seed, 16, x1 - x0, y1 - y0)
    panes = find_panes(frames, detector=None)
    for x0, y0, x1, y1 in cells:
        assert holds(panes, (x0 / width, y0 / height, x1 / width, y1 / height))


@pytest.mark.parametrize("count", [1, 3])
def test_a_split_is_found_in_few_frames(count: int) -> None:
    frames = np.concatenate([video(20, count, 160, 180), video(21, count, 160, 180)], axis=2)
    assert holds(find_panes(frames, detector=None), (0.5, 0, 1, 1))


def test_a_split_of_still_pictures_is_found() -> None:
    frames = np.repeat(np.concatenate([video(22, 1, 160, 180), video(23, 1, 160, 180)], axis=2), 20, axis=0)
    assert holds(find_panes(frames, detector=None), (0, 0, 0.5, 1))


def test_a_still_video_of_one_picture_has_no_other_pane() -> None:
    assert len(find_panes(np.repeat(video(24, 1, 320, 180), 20, axis=0), detector=None)) == 1


def test_text_and_compression_over_the_seam_do_not_hide_it() -> None:
    frames = np.concatenate([video(25, 16, 320, 90), video(26, 16, 320, 90)], axis=1)
    worn = []
    for frame in frames:
        cv2.putText(frame, "WATCH THIS", (60, 110), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 3)
        worn.append(cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR))
    panes = find_panes(worn, detector=None)
    assert holds(panes, (0, 0, 1, 0.5))
    assert holds(panes, (0, 0.5, 1, 1))


def test_a_split_that_lasts_a_while_is_there_only_then() -> None:
    frames = video(30, 40, 320, 180)
    frames[12:26] = np.concatenate([video(31, 14, 160, 180), video(32, 14, 160, 180)], axis=2)
    for truth in ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)):
        same = max((overlaps(pane, truth) for pane in find_panes(frames, detector=None)[1:]), key=np.sum) > 0.9
        assert same[12:26].all()
        assert not same[:8].any()
        assert not same[30:].any()


def test_an_inset_that_comes_and_goes_is_there_only_then() -> None:
    frames = video(33, 40, 320, 180)
    frames[10:22, 90:160, 20:140] = video(34, 12, 120, 70)
    truth = (20 / 320, 90 / 180, 140 / 320, 160 / 180)
    same = max((overlaps(pane, truth) for pane in find_panes(frames, detector=None)[1:]), key=np.sum) > 0.9
    assert same[10:22].all()
    assert not same[:6].any()
    assert not same[26:].any()


def test_a_moving_inset_has_a_box_for_every_frame_and_none_before_it_comes() -> None:
    frames = video(35, 40, 320, 180)
    truths: dict[int, Corners] = {}
    for index in range(14, 40):
        x, y = 5 + 8 * (index - 14), round(60 + 40 * np.sin(index / 5))
        frames[index, y : y + 60, x : x + 90] = 0, 255, 0
        truths[index] = (x / 320, y / 180, (x + 90) / 320, (y + 60) / 180)
    inset = next(pane for pane in find_panes(frames, detector=PasteFinder()) if pane.name == "inset0")
    assert np.isnan(inset.boxes[:14]).all()
    assert min(overlaps(inset, truth)[index] for index, truth in truths.items()) > 0.9


def test_what_the_lines_frame_already_is_no_inset_again() -> None:
    frames = video(36, 16, 320, 180)
    frames[:, 40:120, 60:200] = 0, 255, 0
    frames[:, 50:110, 70:190] = video(37, 16, 120, 60)
    names = [pane.name for pane in find_panes(frames, detector=PasteFinder())]
    assert names[:2] == ["whole", "pane0"]
    assert "inset0" not in names


def test_frames_may_come_one_by_one() -> None:
    frames = np.concatenate([video(38, 8, 160, 180), video(39, 8, 160, 180)], axis=2)
    at_once, one_by_one = find_panes(frames, detector=None), find_panes(iter(frames), detector=None)
    assert [pane.name for pane in at_once] == [pane.name for pane in one_by_one]
    for pane, same in zip(at_once, one_by_one, strict=True):
        assert np.array_equal(pane.boxes, same.boxes, equal_nan=True)


def test_frames_of_a_few_pixels_are_one_pane() -> None:
    for height, width in ((1, 1), (2, 3), (1, 64)):
        assert len(find_panes(np.zeros((3, height, width, 3), np.uint8), detector=None)) == 1


def test_no_frames_and_frames_of_another_kind_or_size_are_refused() -> None:
    with pytest.raises(InputError, match="at least one frame"):
        find_panes([], detector=None)
    with pytest.raises(InputError, match="uint8"):
        find_panes(np.zeros((2, 20, 20, 3), np.float32), detector=None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="frame 1 is"):
        find_panes([np.zeros((20, 20, 3), np.uint8), np.zeros((20, 30, 3), np.uint8)], detector=None)


def test_a_crop_holds_the_pixels_of_its_box() -> None:
    frame = video(40, 1, 320, 180)[0]
    cut = crop(frame, np.array([0.25, 0.5, 0.5, 1.0], np.float32))
    assert cut is not None
    assert np.array_equal(cut, frame[90:180, 80:160])


def test_a_crop_of_a_pane_that_is_not_there_or_tiny_is_none() -> None:
    frame = video(40, 1, 320, 180)[0]
    assert crop(frame, np.full(4, np.nan, np.float32)) is None
    assert crop(frame, np.array([0.5, 0.5, 0.51, 1.0], np.float32)) is None


def test_frames_in_a_row_that_are_the_same_are_searched_once() -> None:
    looked: list[int] = []

    class Looker(PasteFinder):
        def detect(self, pixels: Frames) -> list[Box]:
            looked.append(int(pixels[0, 0, 0]))
            return super().detect(pixels)

    scene = video(5, 1, 320, 180)[0]
    scene[40:100, 60:160] = (0, 255, 0)
    other = scene.copy()
    other[0, 0, 0] ^= 1
    panes = find_panes([scene] * 12 + [other] * 12, detector=Looker())
    assert looked == [int(scene[0, 0, 0]), int(other[0, 0, 0])]
    assert [pane.name for pane in panes] == ["whole", "inset0"]
