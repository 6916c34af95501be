from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from copytrace.errors import ConfigError, InputError
from copytrace.synthesis import edit_tracking
from copytrace.synthesis.edit_tracking import (
    MIN_SIDE,
    Draw,
    EditedPicture,
    Strength,
    clip_to_unit_square,
    map_points,
    polygon_area,
)
from copytrace.synthesis.edits import EDITS, KINDS, apply_edit, kind_of_edits

NAMES = """crop hflip vflip rotate90 rotate aspect pad perspective skew downscale brightness contrast saturation
color_jitter grayscale invert colormap blur sharpen noise jpeg pixelate shuffle opacity emoji text stripes meme
screenshot onto_photo with_photo""".split()  # noqa: SIM905 - a list literal would take thirty lines
MOVING = [*NAMES[:10], "meme", "screenshot", "onto_photo"]
LIME = (0, 255, 0)


def picture(width: int = 240, height: int = 180) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    grain = np.random.default_rng(5).integers(0, 60, (height, width))
    pixels = np.stack([columns % 196, rows % 196, (rows + columns) % 196], axis=-1) + grain[..., None]
    return Image.fromarray(pixels.astype(np.uint8))


def red_photo(rng: np.random.Generator) -> Image.Image:
    return Image.new("RGB", (320, 260), (int(rng.integers(150, 250)), 0, 0))


def draw_of(seed: int, strength: Strength | None = None) -> Draw:
    return Draw(np.random.default_rng(seed), strength or Strength(), red_photo)


def marked(x: float, y: float) -> Image.Image:
    image = Image.new("RGB", (240, 180), (90, 90, 90))
    ImageDraw.Draw(image).ellipse((x * 240 - 6, y * 180 - 6, x * 240 + 5, y * 180 + 5), fill=LIME)
    return image


def lime_centre(image: Image.Image) -> tuple[float, float, float]:
    """Where the lime pixels are (normalised), and how much of them there is."""
    pixels = np.asarray(image).astype(float)
    weight = np.clip(pixels[..., 1] - pixels[..., [0, 2]].max(axis=-1) - 40, 0, None)
    rows, columns = np.mgrid[0 : image.height, 0 : image.width] + 0.5
    total = weight.sum()
    if total == 0:
        return 0.0, 0.0, 0.0
    return (
        float((columns * weight).sum() / total / image.width),
        float((rows * weight).sum() / total / image.height),
        total,
    )


def fills_with_green(name: str, draw: Draw) -> bool:
    """Whether this draw's fill or drawing could be taken for the mark."""
    return lime_centre(apply_edit(name, EditedPicture(Image.new("RGB", (240, 180), (90, 90, 90))), draw).image)[2] > 0


def test_the_registry_holds_every_edit_of_the_catalogue_under_its_own_name() -> None:
    assert sorted(EDITS) == sorted(NAMES)
    assert all(edit.name == name and edit.kind in KINDS for name, edit in EDITS.items())


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_changes_the_picture_and_the_same_generator_gives_the_same_pixels(name: str) -> None:
    first, again = (apply_edit(name, EditedPicture(picture()), draw_of(3)) for _ in range(2))
    assert first.image.mode == "RGB"
    assert first.image.size == again.image.size
    assert first.image.tobytes() == again.image.tobytes()
    assert first.image.size != (240, 180) or first.image.tobytes() != picture().tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_leaves_the_picture_that_it_was_given_alone(name: str) -> None:
    original = picture()
    apply_edit(name, EditedPicture(original), draw_of(4))
    assert original.tobytes() == picture().tobytes()


def test_edits_leave_the_global_generators_of_torch_and_numpy_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1:3]
    for name in NAMES:
        apply_edit(name, EditedPicture(picture()), draw_of(3))
    after = torch.get_rng_state(), np.random.get_state()[1:3]
    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1][0], after[1][0])
    assert before[1][1] == after[1][1]


def test_threads_that_edit_at_the_same_time_get_the_pixels_of_one_that_edits_alone() -> None:
    def edit(name: str) -> bytes:
        return apply_edit(name, EditedPicture(picture()), draw_of(5)).image.tobytes()

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(edit, NAMES * 2))
    assert together == [edit(name) for name in NAMES] * 2


def harshest(name: str, image: Image.Image, seed: int = 0) -> Image.Image:
    return apply_edit(name, EditedPicture(image), draw_of(seed, Strength(1, 1))).image


def test_the_harshest_brightness_is_30_or_220_percent_and_contrast_25_or_300_round_the_mean() -> None:
    halves = Image.new("RGB", (40, 40), (80, 80, 80))
    halves.paste((120, 120, 120), (20, 0, 40, 40))
    for name, levels in (("brightness", {24, 176}), ("contrast", {95, 40})):
        assert {harshest(name, halves, seed).getpixel((5, 5)) for seed in range(12)} == {(x,) * 3 for x in levels}


def test_a_negative_and_a_grey_picture_have_the_levels_of_the_textbook() -> None:
    blue = Image.new("RGB", (40, 40), (10, 20, 200))
    assert apply_edit("invert", EditedPicture(blue), draw_of(0)).image.getpixel((3, 3)) == (245, 235, 55)
    # ITU-R 601: 0.299 * 10 + 0.587 * 20 + 0.114 * 200 = 37.5
    assert apply_edit("grayscale", EditedPicture(blue), draw_of(0)).image.getpixel((3, 3)) in {(37,) * 3, (38,) * 3}


def test_jitter_turns_the_hue_and_leaves_greys_grey() -> None:
    red, grey = (Image.new("RGB", (40, 40), colour) for colour in ((200, 60, 60), (120, 120, 120)))
    turned, left = (harshest("color_jitter", image, seed=1) for image in (red, grey))
    pixel = turned.getpixel((9, 9))
    assert pixel[0] < max(pixel)  # 0.3 of a turn from red is nearer to green or to blue
    assert len(set(left.getpixel((9, 9)))) == 1


def test_sharpening_overshoots_on_both_sides_of_an_edge_by_a_halo_of_pixels() -> None:
    edge = Image.new("RGB", (60, 40), (90, 90, 90))
    edge.paste((150, 150, 150), (30, 0, 60, 40))
    row = np.asarray(apply_edit("sharpen", EditedPicture(edge), draw_of(0, Strength(0, 0))).image)[20, :, 0].astype(int)
    assert row[29] < 70
    assert row[30] > 170
    assert row[27] < 85  # three pixels away, where a 3x3 filter would reach no more
    assert (row[[5, 55]] == [90, 150]).all()


def test_a_harsher_jpeg_is_farther_from_the_picture() -> None:
    mild, hard = (
        np.abs(
            np.subtract(apply_edit("jpeg", EditedPicture(picture()), draw_of(0, strength)).image, picture(), dtype=int)
        )
        for strength in (Strength(0, 0), Strength(1, 1))
    )
    assert 0 < mild.mean() < 0.8 * hard.mean()


@pytest.mark.parametrize("seed", range(6))
def test_margins_hold_the_whole_photo_unchanged_where_the_box_says(seed: int) -> None:
    padded = apply_edit("pad", EditedPicture(picture()), draw_of(seed))
    edges = np.array(padded.box) * [*padded.image.size, *padded.image.size]
    assert padded.image.crop(tuple(np.rint(edges).astype(int).tolist())).tobytes() == picture().tobytes()


@pytest.mark.parametrize("name", MOVING)
def test_a_marked_point_lands_where_the_transform_says(name: str) -> None:
    checked = 0
    for seed in range(24):
        spot = [(0.5, 0.45), (0.3, 0.55), (0.65, 0.4)][seed % 3]
        edited = apply_edit(name, EditedPicture(marked(*spot)), draw_of(seed))
        if fills_with_green(name, draw_of(seed)):
            continue
        expected = map_points(edited.transform, np.array([spot]))[0]
        if not (0.06 < expected[0] < 0.94 and 0.06 < expected[1] < 0.94):
            continue
        x, y, found = lime_centre(edited.image)
        if found == 0 and name == "onto_photo":
            continue  # cropped away before the rest was pasted
        assert abs(x - expected[0]) * edited.image.width < 1.5, (seed, x, expected)
        assert abs(y - expected[1]) * edited.image.height < 1.5, (seed, y, expected)
        checked += 1
    assert checked >= 4  # or the edit has not been looked at


@pytest.mark.parametrize("name", [name for name in NAMES if name not in MOVING])
def test_an_edit_that_moves_nothing_keeps_the_transform(name: str) -> None:
    edited = apply_edit(name, EditedPicture(picture()), draw_of(1))
    assert np.array_equal(edited.transform, np.eye(3))
    assert edited.box == (0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize("name", ["rotate", "perspective", "skew", "pad", "onto_photo"])
def test_the_box_is_where_the_photo_lies(name: str) -> None:
    checked = 0
    mild = Strength(0, 0.5)
    for seed in range(20):
        if fills_with_green(name, draw_of(seed, mild)):
            continue
        edited = apply_edit(name, EditedPicture(Image.new("RGB", (240, 180), LIME)), draw_of(seed, mild))
        pixels = np.asarray(edited.image).astype(int)
        is_lime = pixels[..., 1] - pixels[..., [0, 2]].max(axis=-1) > 120
        if name == "pad" and is_lime[0, 0]:
            continue  # filled with the blurred photo, which is lime
        rows, columns = np.nonzero(is_lime)
        lime = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        box = np.array(edited.box) * [*edited.image.size, *edited.image.size]
        assert np.abs(box - lime).max() <= 2.0, (seed, box, lime)
        checked += 1
    assert checked >= 5


def test_a_photo_pasted_after_a_quarter_turn_is_followed_through_both() -> None:
    draw = draw_of(8)
    edited = apply_edit("onto_photo", apply_edit("rotate90", EditedPicture(marked(0.4, 0.4)), draw), draw)
    x, y, _ = lime_centre(edited.image)
    expected = map_points(edited.transform, np.array([[0.4, 0.4]]))[0]
    assert abs(x - expected[0]) < 0.01
    assert abs(y - expected[1]) < 0.01


@pytest.mark.parametrize(("name", "mirrored"), [("hflip", True), ("vflip", True), ("rotate90", False), ("skew", False)])
def test_only_flips_mirror(name: str, mirrored: bool) -> None:
    assert apply_edit(name, EditedPicture(picture()), draw_of(2)).mirrored is mirrored


def test_a_crop_to_the_left_half_doubles_x_and_leaves_half_to_see() -> None:
    edited = EditedPicture(Image.new("RGB", (100, 60))).crop((0, 0, 50, 60))
    assert np.allclose(edited.transform, [[2, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert edited.visible_share == pytest.approx(0.5)
    assert edited.visible_pixels == pytest.approx(50 * 60)


def test_a_photo_placed_in_the_lower_right_quarter_has_that_box() -> None:
    edited = EditedPicture(Image.new("RGB", (30, 40))).paste_onto(Image.new("RGB", (200, 100)), (100, 50, 200, 100))
    assert edited.box == pytest.approx((0.5, 0.5, 1.0, 1.0))
    assert edited.visible_share == pytest.approx(1.0)


def test_a_photo_cropped_out_of_sight_has_an_empty_box() -> None:
    placed = EditedPicture(Image.new("RGB", (30, 40))).paste_onto(Image.new("RGB", (200, 100)), (100, 50, 200, 100))
    assert placed.crop((0, 0, 90, 40)).box == (0.0, 0.0, 0.0, 0.0)
    assert placed.crop((0, 0, 90, 40)).visible_share == 0.0


@given(st.tuples(*[st.floats(-1, 2, allow_nan=False)] * 6))
def test_a_clipped_triangle_lies_in_the_unit_square_and_is_no_larger(numbers: tuple[float, ...]) -> None:
    triangle = np.array(numbers).reshape(3, 2)
    clipped = clip_to_unit_square(triangle)
    assert ((clipped >= 0) & (clipped <= 1)).all()
    assert polygon_area(clipped) <= min(1.0, polygon_area(triangle)) + 1e-9


def test_a_diamond_round_the_unit_square_is_clipped_to_it() -> None:
    diamond = np.array([[0.5, -1.0], [2.0, 0.5], [0.5, 2.0], [-1.0, 0.5]])
    assert polygon_area(clip_to_unit_square(diamond)) == pytest.approx(1.0)


@pytest.mark.parametrize("size", [(33, 300), (40, 40), (300, 198)])
@pytest.mark.parametrize("name", NAMES)
def test_results_are_neither_tiny_nor_huge(name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit_tracking, "MAX_PIXELS", 60_000)  # so that 300 by 198 pixels are nearly too many
    image = apply_edit(name, EditedPicture(picture(*size)), draw_of(6, Strength(1, 1))).image
    assert min(image.size) >= MIN_SIDE
    assert image.width * image.height <= 60_000


def test_a_harsher_strength_pastes_a_smaller_picture() -> None:
    mild, hard = (
        np.mean(
            [apply_edit("onto_photo", EditedPicture(picture()), draw_of(s, strength)).visible_pixels for s in range(8)]
        )
        for strength in (Strength(0, 0.2), Strength(0.8, 1))
    )
    assert hard < mild / 2


def test_a_picture_counts_as_the_kind_of_its_most_severe_edit() -> None:
    assert kind_of_edits(["blur", "meme"]) == "decor"
    assert kind_of_edits(["hflip", "meme"]) == "geometry"
    assert kind_of_edits(["crop", "rotate", "jpeg"]) == "crop"
    assert kind_of_edits(["crop", "onto_photo"]) == "overlay"


def test_an_unknown_edit_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="unknown edit 'melt'"):
        apply_edit("melt", EditedPicture(picture()), draw_of(0))


def test_an_overlay_without_donors_says_what_to_give() -> None:
    with pytest.raises(InputError, match="needs donor photos"):
        apply_edit("onto_photo", EditedPicture(picture()), Draw(np.random.default_rng(0)))


def test_a_strength_outside_0_to_1_is_refused() -> None:
    with pytest.raises(InputError, match=r"0\.5\.\.1\.5"):
        Strength(0.5, 1.5)
