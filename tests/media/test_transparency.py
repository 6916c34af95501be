"""The ground on which transparent pictures are laid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from copytrace.media.decode import decode_image
from copytrace.media.transparency import BLACK, GRAY, WHITE, choose_ground, lay_on_ground


def art(*colors: str, ground: tuple[int, ...] = (0, 0, 0, 0)) -> Image.Image:
    """Rings of these colors, side by side."""
    image = Image.new("RGBA", (100 * len(colors), 100), ground)
    for number, color in enumerate(colors):
        ImageDraw.Draw(image).ellipse((100 * number + 10, 10, 100 * number + 90, 90), outline=color, width=12)
    return image


@pytest.mark.parametrize(
    ("colors", "ground"),
    [
        (["white"], BLACK),
        (["#fffff0"], BLACK),
        (["black"], WHITE),
        (["red"], WHITE),
        (["white", "black"], GRAY),
        (["white", "red", "blue", "green"], WHITE),
        ([], WHITE),
    ],
)
def test_the_ground_is_white_unless_the_art_cannot_be_seen_on_it(colors: list[str], ground: int) -> None:
    image = art(*colors) if colors else Image.new("RGBA", (100, 100), (9, 9, 9, 0))
    assert choose_ground(np.asarray(image)) == ground


def test_an_opaque_picture_has_no_ground_to_choose() -> None:
    assert choose_ground(np.asarray(art("white", ground=(250, 250, 250, 255)))) == WHITE


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"), ("WEBP", "RGBA")])
def test_a_white_logo_is_decoded_as_white_on_black(kind: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "logo"
    logo = art("white")
    (logo.quantize(4) if mode == "P" else logo.convert(mode)).save(path, kind)
    pixels = decode_image(str(path)).pixels
    assert pixels[0, 0].max() < 20
    assert pixels[50, 15].min() > 230


def test_half_transparent_pixels_are_blended_with_the_ground() -> None:
    image = np.asarray(art("white")).copy()
    image[50, 50] = (255, 255, 255, 51)
    assert lay_on_ground(image)[50, 50].tolist() == [51, 51, 51]
