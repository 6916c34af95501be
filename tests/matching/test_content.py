from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from copytrace.arrays import Doubles
from copytrace.matching.content import Content, compare_content
from copytrace.synthesis.drawn_set import PICTURE_KINDS

UPRIGHT = np.array([[1.0, 0, 0], [0, 1, 0]])
MIRRORED = np.array([[-1.0, 0, 1], [0, 1, 0]])


def draw(kind: str, count: int) -> list[Image.Image]:
    """Return pictures of one template."""
    rng = np.random.default_rng(5)
    template = PICTURE_KINDS[kind](rng)
    return [template(rng).convert("RGB") for _ in range(count)]


def compare(
    query: Image.Image, reference: Image.Image, transform: Doubles = UPRIGHT, *, negative: bool = False
) -> Content:
    content = compare_content(np.asarray(query), np.asarray(reference), transform, negative=negative)
    assert content is not None
    return content


@pytest.mark.parametrize("kind", ["form", "calendar", "chart", "table", "mail", "program", "sheet-music"])
def test_pictures_of_one_template_have_other_ink_and_copies_have_the_same(kind: str) -> None:
    reference, other = draw(kind, 2)
    seen, copied = compare(other, reference), compare(reference.reduce(2), reference)
    assert seen.replaced > 0.08
    assert seen.spread > 0.15
    assert copied.replaced < 0.01
    assert copied.share > 0.9


def paste(picture: Image.Image, side: int) -> tuple[Image.Image, Doubles]:
    """Return a noisy picture with another one in it, whose shorter side is `side` pixels, and where that is."""
    scale = side / min(picture.size)
    width, height = (round(each * scale) for each in picture.size)
    noise = np.random.default_rng(1).integers(60, 200, (300, 400, 3), np.uint8)
    pasted = Image.fromarray(noise)
    pasted.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (100, 90))
    return pasted, np.array([[width / 400, 0, 0.25], [0, height / 300, 0.3]])


@pytest.mark.parametrize("kind", ["barcode", "matrix-code"])
def test_two_codes_have_other_ink_although_neither_tone_is_their_ground(kind: str) -> None:
    reference, other = draw(kind, 2)
    seen = compare(other, reference)
    assert seen.replaced > 0.4
    assert seen.spread_inside > 0.5
    covered = reference.resize((round(reference.width * 0.7), round(reference.height * 0.7)))
    ImageDraw.Draw(covered).ellipse((100, 60, 200, 160), fill=(250, 200, 40))
    copied = compare(covered, reference)
    assert copied.replaced < 0.02
    assert copied.share > 0.7


@pytest.mark.parametrize("kind", ["barcode", "matrix-code", "table"])
@pytest.mark.parametrize("side", [32, 64, 96])
def test_small_pictures_are_compared_at_the_resolution_that_is_left(kind: str, side: int) -> None:
    reference, other = draw(kind, 2)
    copied, seen = (
        compare(query, reference, place) for query, place in (paste(each, side) for each in (reference, other))
    )
    assert copied.replaced < 0.02
    assert copied.share > 0.95
    assert seen.share < 0.95


def test_straight_lines_that_two_pictures_share_are_no_evidence_of_a_copy() -> None:
    rulings = Image.new("RGB", (480, 480), "white")
    pen = ImageDraw.Draw(rulings)
    for place in range(20, 480, 40):
        pen.line((0, place, 480, place), fill=(40, 40, 40), width=3)
    other, reference = (rulings.copy() for _ in range(2))
    for picture, words in ((other, "Hansou Waic 7.3"), (reference, "Merkal Vord 508")):
        for place in range(44, 480, 40):
            ImageDraw.Draw(picture).text((30, place - 10), words, fill=(30, 30, 30), font_size=14)
    seen, copied = compare(other, reference), compare(reference.copy(), reference)
    assert seen.share < 0.5
    assert seen.replaced > 0.5
    assert copied.share == 1
    assert copied.replaced == 0


def test_cells_as_large_as_blocks_are_compared_at_another_size() -> None:
    cells = np.random.default_rng(3).random((2, 25, 25)) < 0.5
    first, second = (Image.fromarray(np.uint8(255 * np.kron(each, np.ones((16, 16))))).convert("RGB") for each in cells)
    assert compare(second, first).replaced > 0.4
    assert compare(first, first).replaced < 0.01


def test_what_covers_a_copy_is_not_held_against_it() -> None:
    (reference,) = draw("form", 1)
    covered = reference.copy()
    pen = ImageDraw.Draw(covered)
    pen.ellipse((320, 300, 620, 600), fill=(255, 204, 50), outline=(200, 140, 20), width=6)
    pen.rectangle((0, 700, 760, 780), fill=(20, 20, 24))
    seen = compare(covered, reference)
    assert seen.replaced < 0.02
    assert 0.5 < seen.share < 0.95


def test_what_lies_around_a_crop_is_not_inside_the_copy() -> None:
    page, other = draw("page", 2)
    width, height = page.size
    post = page.copy()
    pen = ImageDraw.Draw(post)
    for top, bottom in ((0, height // 4), (3 * height // 4, height)):
        pen.rectangle((0, top, width, bottom), fill=page.getpixel((1, 1)))
        for left in range(width // 8, width, width // 4):
            pen.ellipse((left, top + 30, left + 50, top + 80), outline=(30, 30, 40), width=5)
    seen = compare(post, page)
    assert seen.replaced > 0.1
    assert seen.spread > 0.1
    assert seen.replaced_inside < 0.02
    assert seen.spread_inside < 0.05
    assert compare(other, page).replaced_inside > 0.08


def test_a_transform_is_refined_and_colors_may_change() -> None:
    (reference,) = draw("calendar", 1)
    off = MIRRORED + np.array([[0, 0, 0.008], [0, 0, -0.008]])
    pale = Image.blend(reference, Image.new("RGB", reference.size, (90, 40, 60)), 0.4)
    seen = compare(pale.transpose(Image.Transpose.FLIP_LEFT_RIGHT), reference, off)
    assert seen.replaced < 0.01
    inverted = Image.fromarray(255 - np.asarray(reference))
    assert compare(inverted, reference, negative=True).replaced < 0.01


def test_pictures_that_share_too_little_are_not_compared() -> None:
    (reference,) = draw("form", 1)
    pixels = np.asarray(reference)
    plain = np.full_like(pixels, 255)
    assert compare_content(pixels, pixels, UPRIGHT + np.array([[0, 0, 0.99], [0, 0, 0.99]])) is None
    assert compare_content(plain, plain, UPRIGHT) is None
    assert compare_content(pixels, pixels, UPRIGHT * 0.02) is None
