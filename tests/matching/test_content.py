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
