"""Pictures of words: pages, slides, credits, posters and program text, drawn from templates.

A template fixes what pictures of one origin share: fonts, colors, layout. Words are made of syllables.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

T = TypeVar("T")
Draw = Callable[[np.random.Generator], Image.Image]
Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSansMono",
    "cmr10",
    "cmss10",
    "STIXGeneral",
)
_CONSONANTS, _VOWELS = "bcdfghklmnprstvwz", ("a", "e", "i", "o", "u", "ai", "ou", "er", "an", "in", "or", "en")


@lru_cache(maxsize=256)
def font(name: str, size: int) -> Font:
    """Return a font that comes with matplotlib, in pixels."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size)


def choose(rng: np.random.Generator, options: tuple[T, ...]) -> T:
    """Return one of the options."""
    return options[int(rng.integers(len(options)))]


def word(rng: np.random.Generator) -> str:
    """Return a word of one to four syllables."""
    return "".join(
        _CONSONANTS[int(rng.integers(len(_CONSONANTS)))] + choose(rng, _VOWELS) for _ in range(int(rng.integers(1, 5)))
    )


def words(rng: np.random.Generator, count: int) -> str:
    """Return words with spaces between."""
    return " ".join(word(rng) for _ in range(count))


def ink_and_ground(rng: np.random.Generator) -> tuple[Color, Color]:
    """Return a dark color on a light one, or the other way round."""
    dark, light = (tuple(int(v) for v in rng.integers(*span, 3)) for span in ((0, 90), (200, 256)))
    pair = ((0, 0, 0), (255, 255, 255)) if rng.random() < 0.4 else (dark, light)
    return pair if rng.random() < 0.75 else pair[::-1]  # type: ignore[return-value]


def fill_box(
    draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], face: Font, ink: Color, rng: np.random.Generator
) -> None:
    """Fill the box x0, y0, x1, y1 with paragraphs of words."""
    x0, y, x1, y1 = box
    height = face.size * 1.45
    while y + height < y1:
        line = words(rng, 40)
        share = rng.uniform(0.2, 0.8) if rng.random() < 0.15 else 1.0  # the last line of a paragraph
        while face.getlength(line) > (x1 - x0) * share and " " in line:
            line = line.rpartition(" ")[0]
        draw.text((x0, y), line[0].upper() + line[1:], font=face, fill=ink)
        y += height * (1.0 if share == 1.0 else 1.5)


def page(template: np.random.Generator) -> Draw:
    """Return a template of pages: a heading, and one or two columns of text."""
    ink, ground = ink_and_ground(template)
    size = choose(template, ((820, 1060), (700, 990), (1000, 760)))
    face, points = choose(template, FONTS), int(template.integers(13, 23))
    columns, header = int(template.integers(1, 3)), words(template, 3).title()

    def draw_page(rng: np.random.Generator) -> Image.Image:
        image = Image.new("RGB", size, ground)
        draw = ImageDraw.Draw(image)
        draw.text((50, 22), header, font=font(face, points), fill=ink)
        draw.text((50, 60), words(rng, 3).title(), font=font(face, points * 2), fill=ink)
        width = (size[0] - 100) / columns
        for column in range(columns):
            left = 50 + column * width
            box = (left, 80 + 3 * points, left + width - 20 * (columns > 1), size[1] - 70)
            fill_box(draw, box, font(face, points), ink, rng)
        draw.text((size[0] / 2, size[1] - 45), str(int(rng.integers(1, 400))), font=font(face, points), fill=ink)
        return image

    return draw_page


def slide(template: np.random.Generator) -> Draw:
    """Return a template of slides: a bar, a title, points, and a footer."""
    ink, ground = ink_and_ground(template)
    accent = tuple(int(v) for v in template.integers(30, 220, 3))
    face, footer, bar = choose(template, FONTS[:4]), words(template, 4).title(), template.uniform(0.0, 0.2)
    mark = choose(template, ("•", "–", "»", "○"))

    def draw_slide(rng: np.random.Generator) -> Image.Image:
        image = Image.new("RGB", (960, 540), ground)
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, 960, 540 * bar), fill=accent)
        draw.text((60, 40), words(rng, int(rng.integers(2, 5))).title(), font=font(face, 44), fill=ink)
        for row in range(int(rng.integers(2, 6))):
            text = f"{mark} {words(rng, int(rng.integers(3, 9)))}"
            draw.text((80, 150 + 62 * row), text, font=font(face, 28), fill=ink)
        draw.text((60, 500), footer, font=font(face, 18), fill=accent)
        draw.text((900, 500), str(int(rng.integers(1, 60))), font=font(face, 18), fill=accent)
        return image

    return draw_slide


def credits(template: np.random.Generator) -> Draw:
    """Return a template of credits: centered names, light on dark."""
    face, points = choose(template, FONTS), int(template.integers(18, 30))
    ground = choose(template, ((0, 0, 0), (10, 10, 40), (40, 0, 0)))

    def draw_credits(rng: np.random.Generator) -> Image.Image:
        image = Image.new("RGB", (854, 480), ground)
        draw = ImageDraw.Draw(image)
        for y in range(int(rng.integers(0, points)), 480, int(points * 1.6)):
            draw.text((412, y), words(rng, 2).title(), font=font(face, points), fill=(230, 230, 230), anchor="ra")
            draw.text((442, y), words(rng, 2).title(), font=font(face, points), fill=(255, 255, 255))
        return image

    return draw_credits


def poster(template: np.random.Generator) -> Draw:
    """Return a template of posters: large words, one below the other."""
    ink, ground = ink_and_ground(template)
    face = choose(template, FONTS[:4])

    def draw_poster(rng: np.random.Generator) -> Image.Image:
        image = Image.new("RGB", (600, 800), ground)
        draw = ImageDraw.Draw(image)
        y = 60
        for _ in range(int(rng.integers(3, 6))):
            points = int(rng.integers(36, 100))
            draw.text((300, y), word(rng).upper(), font=font(face, points), fill=ink, anchor="ma")
            y += int(points * 1.3)
        draw.text((300, 740), words(rng, 5), font=font(face, 22), fill=ink, anchor="ma")
        return image

    return draw_poster


def program(template: np.random.Generator) -> Draw:
    """Return a template of program text in an editor: line numbers, indentation, colored words."""
    ground = choose(template, ((30, 30, 30), (255, 255, 255), (0, 43, 54), (250, 244, 230)))
    dark = sum(ground) < 300
    inks = [tuple(int(v) for v in template.integers(*((120, 256) if dark else (0, 140)), 3)) for _ in range(4)]
    keywords = ("def", "return", "if", "for", "class", "import", "while", "else")
    points = int(template.integers(14, 20))

    def draw_program(rng: np.random.Generator) -> Image.Image:
        image = Image.new("RGB", (900, 640), ground)
        draw = ImageDraw.Draw(image)
        face, indent, first = font("DejaVuSansMono", points), 0, int(rng.integers(1, 500))
        for row, y in enumerate(range(12, 620, int(points * 1.5))):
            draw.text((44, y), str(first + row), font=face, fill=inks[3], anchor="ra")
            indent = int(np.clip(indent + rng.integers(-1, 2), 0, 5))
            if rng.random() < 0.12:
                continue
            start = 60 + indent * 4 * points * 0.6
            key = choose(rng, keywords)
            draw.text((start, y), key, font=face, fill=inks[0])
            rest = f"{word(rng)}({word(rng)}, {word(rng)}_{word(rng)}) = {int(rng.integers(0, 999))}"
            draw.text((start + face.getlength(key + " "), y), rest, font=face, fill=inks[int(rng.integers(1, 3))])
        return image

    return draw_program
