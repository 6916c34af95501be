from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from configs.images import ImageSettings
from configs.videos import VideoSettings
from copytrace.alignment.align import VideoRows
from copytrace.alignment.picture_look import Job, Look
from copytrace.alignment.registration import Keyframes, Overlay, Registrar, choose_moments
from copytrace.alignment.same_pictures import Thumbnails, align_alike_pictures, read_thumbnails
from copytrace.alignment.segment_verification import NO_LINE
from copytrace.features.points import Bytes, find_points
from copytrace.features.thumbnails import thumbnail
from copytrace.matching.same_picture import compare_pictures
from copytrace.matching.score import load_calibration
from copytrace.media.decoding_limits import DEFAULT_LIMITS
from copytrace.media.encode import write_video
from copytrace.synthesis.drawn_screens import mail
from copytrace.synthesis.sample_photos import sample_photos
from copytrace.videos import match_videos

RATE = 2
CROP = (0.2, 0.15, 0.95, 0.9)  # of width and height: left, top, right, bottom
IN_CROP = np.array([[1 / 0.75, 0.0, -0.2 / 0.75], [0.0, 1 / 0.75, -0.15 / 0.75]])
RULES = ImageSettings()
PHOTOS = ("grass", "gravel")  # without any plain ground


def mails(count: int = 6) -> list[Image.Image]:
    """Return windows of one mail program, each with other mails."""
    rng = np.random.default_rng(4)
    draw = mail(rng)
    return [draw(rng).convert("RGB").resize((640, 408)) for _ in range(count)]


def crop(picture: Image.Image) -> Image.Image:
    box = [round(share * side) for share, side in zip(CROP, picture.size * 2, strict=True)]
    return picture.crop((box[0], box[1], box[2], box[3])).resize((480, 306))


def write(path: Path, pictures: Sequence[Image.Image], *, start: int = 0) -> str:
    """Write a video of pictures, each for three seconds, from frame `start` on, and return its path."""
    path.parent.mkdir(exist_ok=True)
    write_video([np.asarray(each) for each in pictures for _ in range(6)][start:], path, rate=RATE, quantizer=4)
    return str(path)


def keyframes(*pictures: Image.Image, is_query: bool = False) -> Keyframes:
    settings = RULES.local.query_points if is_query else RULES.local.reference_points
    return Keyframes(tuple(find_points(np.asarray(each), settings) for each in pictures), 1.0)


def registrar() -> Registrar:
    return Registrar(partial(read_thumbnails, limits=DEFAULT_LIMITS), DEFAULT_LIMITS, RULES)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_pictures_that_share_most_points_tell_which_part_is_shown(mirrored: bool) -> None:
    first, second, third, *_ = mails()
    part = crop(second)
    part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else part
    found = registrar().register(keyframes(crop(first), part, is_query=True), keyframes(third, second))
    assert found is not None
    assert found.box == pytest.approx(CROP, abs=0.02)
    assert (found.transform[0, 0] < 0) == mirrored


def test_pictures_without_points_are_not_registered() -> None:
    plain = Image.new("RGB", (480, 306), "white")
    assert registrar().register(keyframes(plain, is_query=True), keyframes(*mails(2))) is None


def test_what_a_crop_shows_is_laid_over_its_original() -> None:
    whole = mails(1)[0]
    overlay = Overlay.of(IN_CROP)
    assert overlay is not None
    assert overlay.box == pytest.approx(CROP)
    size = overlay.size_in(np.asarray(whole))
    assert size == (480, 306)
    laid, original = overlay.lay_query(np.asarray(crop(whole)), size), overlay.cut_reference(np.asarray(whole), size)
    assert np.abs(laid.astype(int) - original).mean() < 6
    assert np.abs(overlay.lay_query(np.asarray(crop(mails()[1])), size).astype(int) - original).mean() > 8


def test_a_turned_query_lies_over_a_reference_that_is_black_where_it_is() -> None:
    turned = Overlay.of(np.array([[0.7, -0.7, 0.5], [0.7, 0.7, -0.2]]))
    assert turned is not None
    white = np.full((100, 100, 3), 255, np.uint8)
    shown, original = turned.lay_query(white, (64, 64)), turned.cut_reference(white, (64, 64))
    assert 0.05 < (original == 0).mean() < 0.9
    assert ((original == 0) == (shown == 0)).mean() > 0.97


def test_a_sliver_of_a_reference_is_too_little_to_compare() -> None:
    assert Overlay.of(np.array([[10.0, 0.0, -2.0], [0.0, 1.0, 0.0]])) is None
    assert Overlay.of(np.zeros((2, 3))) is None


def test_chosen_moments_show_clear_and_different_pictures() -> None:
    drawn = [thumbnail(np.asarray(each)) for each in mails(3)]
    black = np.zeros_like(drawn[0])
    shown = [black, drawn[0], drawn[0], drawn[1], drawn[1], black, drawn[2]]
    times = np.stack([np.arange(7), np.arange(1, 8)], axis=1).astype(np.float64)
    moments = choose_moments(Thumbnails(times, np.stack(shown)), 5)
    assert [int(second) for second in moments] in ([1, 3, 6], [1, 4, 6], [2, 3, 6], [2, 4, 6])
    assert len(choose_moments(Thumbnails(times, np.stack(shown)), 2)) == 2
    assert len(choose_moments(Thumbnails(times, np.stack([black] * 7)), 5)) == 1


def test_a_cropped_cut_is_aligned_where_its_whole_pictures_are_nowhere_alike(tmp_path: Path) -> None:
    shown = mails()
    reference = write(tmp_path / "reference.mp4", shown[:4])
    query = write(tmp_path / "query.mp4", [crop(shown[number]) for number in (5, 1, 2, 4)], start=3)
    found = registrar().align(query, reference)
    assert found is not None
    assert found.box == pytest.approx((1.5, 7.5, 3.0, 9.0), abs=0.5)
    assert found.score == 0.0
    whole = align_alike_pictures(*(read_thumbnails(path, DEFAULT_LIMITS) for path in (query, reference)))
    assert whole is None or whole.box != pytest.approx((1.5, 7.5, 3.0, 9.0), abs=1.0)


def test_photographs_are_not_registered_and_no_line_is_looked_for(tmp_path: Path) -> None:
    photos = [
        Image.open(photo.path).convert("RGB").resize((480, 320)) for photo in sample_photos() if photo.id in PHOTOS
    ]
    path, drawn = write(tmp_path / "photos.mp4", photos), write(tmp_path / "drawn.mp4", mails(2))
    assert not registrar().is_drawn(path, 6.0)
    assert registrar().is_drawn(drawn, 6.0)
    assert registrar().align(path, path) is None
    look = Look.at({"q": path}, {"r": str(tmp_path / "absent.mp4")}, DEFAULT_LIMITS)
    rows = VideoRows(["whole"], np.array([[0.0, 6.0]]), np.ones((1, 1), np.float32), np.zeros(1, np.float32))
    job: Job = (0, ("q", "r"), NO_LINE[1], rows, rows)
    assert look.find_unseen_line(job) is None


def test_a_cropped_cut_is_found_although_its_likenesses_show_no_line(tmp_path: Path) -> None:
    shown = mails()
    write(tmp_path / "references" / "inbox.mp4", shown[:4])
    write(tmp_path / "queries" / "cut.mp4", [crop(shown[number]) for number in (5, 1, 2, 4)], start=3)
    write(tmp_path / "queries" / "other.mp4", [crop(shown[number]) for number in (4, 5)])
    no_line = {"alignment": {"pair_threshold": 1.0}, "panes": {"detector": "none"}, "report": {"max_matches": 0}}
    settings = VideoSettings.model_validate(no_line)
    match_videos(tmp_path / "queries", tmp_path / "references", tmp_path / "out", settings)
    (copied,) = pd.read_csv(tmp_path / "out" / "segments.csv").to_dict("records")
    assert (copied["query_id"], copied["ref_id"], copied["pane"]) == ("cut", "inbox", "whole")
    assert copied["score"] > 0.5
    times = [copied[name] for name in ("query_start", "query_end", "ref_start", "ref_end")]
    assert times == pytest.approx([1.5, 7.5, 3.0, 9.0], abs=0.75)


def lines(seed: int) -> Bytes:
    """Return strokes of many directions and lengths on white, none like another."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (640, 480), "white")
    draw = ImageDraw.Draw(image)
    for _ in range(14):
        draw.line([tuple(point) for point in rng.uniform((20, 20), (620, 460), (6, 2))], fill="black", width=3)
    return np.asarray(image)


def test_lines_on_plain_ground_are_drawn_although_no_mark_repeats() -> None:
    original = lines(1)
    copied = np.asarray(Image.fromarray(original).crop((60, 40, 620, 460)).resize((420, 315)))
    same = compare_pictures(copied, original, RULES, load_calibration())
    assert (same.drawn, same.compared) == (1.0, True)
    assert same.probability > 0.85
