"""Figures drawn from templates: charts, diagrams, plans, icons, logos, patterns, codes and plain pictures."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from copytrace.synthesis.drawn_text import FONTS, Color, Draw, choose, font, ink_and_ground, word, words


def _color(rng: np.random.Generator) -> Color:
    red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
    return red, green, blue


def chart(template: np.random.Generator) -> Draw:
    """Return a template of charts: the same axes and title, other bars or lines."""
    ink, ground = ink_and_ground(template)
    is_bars, title, series = template.random() < 0.5, words(template, 3).title(), _color(template)
    names = [word(template).title() for _ in range(8)]

    def draw_chart(rng: np.random.Generator) -> Image.Image:
        image = Image.new("RGB", (800, 560), ground)
        draw = ImageDraw.Draw(image)
        draw.text((400, 16), title, font=font("DejaVuSans", 26), fill=ink, anchor="ma")
        heights = rng.uniform(20, 400, 8)
        for step in range(6):
            y = 490 - step * 80
            draw.line((80, y, 770, y), fill=ink)
            draw.text((70, y - 8), str(step * 20), font=font("DejaVuSans", 14), fill=ink, anchor="ra")
        for place, height in enumerate(heights):
            x = 110 + place * 82
            draw.text((x + 20, 500), names[place], font=font("DejaVuSans", 13), fill=ink, anchor="ma")
            if is_bars:
                draw.rectangle((x, 490 - height, x + 44, 490), fill=series)
            elif place:
                draw.line((x - 82, 490 - heights[place - 1], x, 490 - height), fill=series, width=4)
        return image

    return draw_chart


def flowchart(template: np.random.Generator) -> Draw:
    """Return a template of diagrams: boxes with a word each, and arrows between them."""
    ink, ground = ink_and_ground(template)
    face = choose(template, FONTS[:4])

    def draw_flowchart(rng: np.random.Generator) -> Image.Image:
        image = Image.new("RGB", (820, 620), ground)
        draw = ImageDraw.Draw(image)
        cells = rng.permutation(12)[: int(rng.integers(5, 10))]
        centers = [(110 + cell % 4 * 200, 100 + cell // 4 * 200) for cell in cells.tolist()]
        for start, end in pairwise(centers):
            draw.line((*start, *end), fill=ink, width=3)
        for x, y in centers:
            box = (x - 70, y - 36, x + 70, y + 36)
            match int(rng.integers(3)):
                case 0:
                    draw.rectangle(box, fill=ground, outline=ink, width=3)
                case 1:
                    draw.ellipse(box, fill=ground, outline=ink, width=3)
                case _:
                    draw.polygon(
                        [(x - 76, y), (x, y - 44), (x + 76, y), (x, y + 44)], fill=ground, outline=ink, width=3
                    )
            draw.text((x, y - 12), word(rng)[:8], font=font(face, 20), fill=ink, anchor="ma")
        return image

    return draw_flowchart


def line_drawing(template: np.random.Generator) -> Draw:
    """Return a template of drawings of smooth lines."""
    ink, ground = ink_and_ground(template)
    width = int(template.integers(2, 7))

    def draw_lines(rng: np.random.Generator) -> Image.Image:
        image = Image.new("RGB", (640, 640), ground)
        draw = ImageDraw.Draw(image)
        for _ in range(int(rng.integers(4, 12))):
            time = np.linspace(0, 1, 60)[:, None]
            waves = [rng.uniform(-140, 140, 2) * np.sin(2 * np.pi * (k * time + rng.random(2))) for k in (0.5, 1, 2)]
            path = rng.uniform(100, 540, 2) + sum(waves)
            draw.line([(float(x), float(y)) for x, y in path], fill=ink, width=width, joint="curve")
        return image

    return draw_lines


def plan(template: np.random.Generator) -> Draw:
    """Return a template of floor plans or mazes: walls on a grid."""
    ink, ground = ink_and_ground(template)
    step, width, share = int(template.integers(30, 90)), int(template.integers(3, 9)), template.uniform(0.3, 0.6)

    def draw_plan(rng: np.random.Generator) -> Image.Image:
        image = Image.new("RGB", (720, 600), ground)
        draw = ImageDraw.Draw(image)
        draw.rectangle((20, 20, 700, 580), outline=ink, width=width)
        for x in range(20, 700 - step, step):
            for y in range(20, 580 - step, step):
                if rng.random() < share:
                    draw.line((x, y, x + step, y) if rng.random() < 0.5 else (x, y, x, y + step), fill=ink, width=width)
        return image

    return draw_plan


def _shape(
    draw: ImageDraw.ImageDraw, center: tuple[float, float], size: float, ink: Color, rng: np.random.Generator
) -> None:
    x, y = center
    box, width = (x - size, y - size, x + size, y + size), max(2, int(size * rng.uniform(0.15, 0.4)))
    match int(rng.integers(6)):
        case 0:
            draw.ellipse(box, outline=ink, width=width)
        case 1:
            draw.ellipse(box, fill=ink)
        case 2:
            draw.regular_polygon((x, y, size), int(rng.integers(3, 8)), rotation=int(rng.integers(0, 90)), fill=ink)
        case 3:
            draw.rounded_rectangle((x - size, y - size * 0.3, x + size, y + size * 0.3), size * 0.2, fill=ink)
        case 4:
            draw.arc(box, int(rng.integers(0, 180)), int(rng.integers(200, 360)), fill=ink, width=width)
        case _:
            draw.rectangle((x - size * 0.3, y - size, x + size * 0.3, y + size), fill=ink)


def icon(template: np.random.Generator) -> Draw:
    """Return a template of icons: a few flat shapes in two colors, sometimes on a tile."""
    ink, ground = ink_and_ground(template)
    has_tile, tile = template.random() < 0.4, _color(template)

    def draw_icon(rng: np.random.Generator) -> Image.Image:
        image = Image.new("RGB", (256, 256), ground)
        draw = ImageDraw.Draw(image)
        if has_tile:
            draw.rounded_rectangle((12, 12, 244, 244), 48, fill=tile)
        for _ in range(int(rng.integers(2, 5))):
            x, y = rng.uniform(60, 196, 2)
            _shape(draw, (float(x), float(y)), float(rng.uniform(20, 70)), ink, rng)
        return image

    return draw_icon


def logo(template: np.random.Generator) -> Draw:
    """Return a template of logos: shapes and a name, often white on nothing."""
    is_white, name = template.random() < 0.5, choose(template, FONTS[:4])
    ink = (255, 255, 255) if is_white else _color(template)
    low = float(template.uniform(0.6, 0.8))

    def draw_logo(rng: np.random.Generator) -> Image.Image:
        image = Image.new("RGBA", (420, 420), (0, 0, 0, 0))
        draw = ImageDraw.Draw(image)
        for _ in range(int(rng.integers(2, 6))):
            x, y = rng.uniform(90, 330), rng.uniform(70, 250)
            _shape(draw, (float(x), float(y)), float(rng.uniform(30, 90)), ink, rng)
        text = (word(rng) + word(rng))[:9].upper()
        draw.text((210, 420 * low), text, font=font(name, 54), fill=ink, anchor="ma")
        return image

    return draw_logo


def pattern(template: np.random.Generator) -> Draw:
    """Return a template of repeated patterns: stripes, checks, dots, bricks or crosses of the same family."""
    family = int(template.integers(5))

    def draw_pattern(rng: np.random.Generator) -> Image.Image:
        ink, ground = _color(rng), _color(rng)
        step = int(rng.integers(16, 70))
        image = Image.new("RGB", (512, 512), ground)
        draw = ImageDraw.Draw(image)
        for row, y in enumerate(range(-step, 512 + step, step)):
            for x in range(-step, 512 + step, step):
                x += (row % 2) * step // 2 if family in (2, 3) else 0  # noqa: PLW2901
                match family:
                    case 0:
                        draw.rectangle((0, y, 512, y + step // 2), fill=ink)
                    case 1:
                        if (x // step + row) % 2:
                            draw.rectangle((x, y, x + step - 1, y + step - 1), fill=ink)
                    case 2:
                        draw.ellipse((x, y, x + step * 0.6, y + step * 0.6), fill=ink)
                    case 3:
                        draw.rectangle((x + 2, y + 2, x + step - 2, y + step // 2), fill=ink)
                    case _:
                        draw.line((x, y, x + step // 2, y + step // 2), fill=ink, width=4)
                        draw.line((x + step // 2, y, x, y + step // 2), fill=ink, width=4)
        return image.rotate(int(rng.integers(0, 2)) * 45, fillcolor=ground)

    return draw_pattern


def barcode(template: np.random.Generator) -> Draw:
    """Return a template of bar codes with their number."""
    widest = int(template.integers(8, 12))

    def draw_barcode(rng: np.random.Generator) -> Image.Image:
        image = Image.new("RGB", (480, 320), "white")
        draw, x = ImageDraw.Draw(image), 40
        while x < 430:
            width = int(rng.integers(2, widest))
            draw.rectangle((x, 40, x + width - 1, 240), fill=0)
            x += width + int(rng.integers(2, widest))
        digits = " ".join(str(digit) for digit in rng.integers(0, 10, 12))
        draw.text((240, 255), digits, font=font("DejaVuSansMono", 20), fill=0, anchor="ma")
        return image

    return draw_barcode


def matrix_code(template: np.random.Generator) -> Draw:
    """Return a template of matrix codes: three equal marks in the corners, other cells."""
    count = int(template.integers(21, 30))

    def draw_matrix_code(rng: np.random.Generator) -> Image.Image:
        side, image = 16, Image.new("RGB", (16 * (count + 4), 16 * (count + 4)), "white")
        draw = ImageDraw.Draw(image)
        for row, column in (2 + np.argwhere(rng.random((count, count)) < 0.5)).tolist():
            draw.rectangle((side * column, side * row, side * column + 15, side * row + 15), fill=0)
        for column, row in ((2, 2), (count - 5, 2), (2, count - 5)):
            x, y = side * column, side * row
            for inset, fill in ((-16, "white"), (0, "black"), (16, "white"), (32, "black")):
                draw.rectangle((x + inset, y + inset, x + 111 - inset, y + 111 - inset), fill=fill)
        return image

    return draw_matrix_code


def sheet_music(template: np.random.Generator) -> Draw:
    """Return a template of notes on staves."""
    gap = int(template.integers(8, 13))

    def draw_music(rng: np.random.Generator) -> Image.Image:
        image = Image.new("RGB", (600, 520), "white")
        draw = ImageDraw.Draw(image)
        for staff in range(60, 460, 9 * gap):
            for line in range(5):
                draw.line((20, staff + gap * line, 580, staff + gap * line), fill=0)
            for x in range(60, 570, int(rng.integers(22, 34))):
                y = staff + gap * int(rng.integers(-1, 9)) / 2
                draw.ellipse((x, y - gap / 2, x + gap * 1.3, y + gap / 2), fill=0)
                draw.line((x + gap * 1.2, y, x + gap * 1.2, y - 3 * gap), fill=0, width=2)
        return image

    return draw_music


def plain(template: np.random.Generator) -> Draw:
    """Return a template of nearly plain pictures: one color, a gradient, a vignette, or faint noise."""
    family = int(template.integers(4))

    def draw_plain(rng: np.random.Generator) -> Image.Image:
        first, second = rng.uniform(0, 255, (2, 3))
        across, down = np.meshgrid(np.linspace(0, 1, 480), np.linspace(0, 1, 360))
        turn = rng.uniform(0, 2 * np.pi)
        share = [
            np.zeros_like(across),
            np.clip(0.5 + (across - 0.5) * np.cos(turn) + (down - 0.5) * np.sin(turn), 0, 1),
            np.clip(np.hypot(across - 0.5, down - 0.5) * 1.4, 0, 1),
            np.zeros_like(across),
        ][family]
        pixels = first + share[..., None] * (second - first)
        if family == 3:
            pixels = pixels + rng.normal(0, 4, pixels.shape)
        return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))

    return draw_plain


def shade(template: np.random.Generator) -> Draw:
    """Return a template of plain pictures of nearly one color: a scan's blank pages, or frames of a dark scene."""
    color = template.uniform(0, 255, 3)

    def draw_shade(rng: np.random.Generator) -> Image.Image:
        near = np.clip(color + rng.uniform(-12, 12, 3), 0, 255)
        return Image.new("RGB", (480, 360), tuple(int(value) for value in near))

    return draw_shade
