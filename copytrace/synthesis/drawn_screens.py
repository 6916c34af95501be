"""Pictures of screens, tables and forms, drawn from templates: one program with other content each time."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from copytrace.synthesis.drawn_text import FONTS, Color, Draw, choose, fill_box, font, ink_and_ground, word, words


def _color(rng: np.random.Generator, low: int = 30, high: int = 225) -> Color:
    red, green, blue = (int(value) for value in rng.integers(low, high, 3))
    return red, green, blue


def chat(template: np.random.Generator) -> Draw:
    """Return a template of a conversation on a phone: bars above and below, bubbles of text between."""
    bar, mine, theirs = (_color(template) for _ in range(3))
    ground = choose(template, ((240, 240, 240), (20, 24, 30), (229, 221, 213)))
    points, name = int(template.integers(18, 26)), words(template, 2).title()

    def draw_chat(rng: np.random.Generator) -> Image.Image:
        image = Image.new("RGB", (540, 960), ground)
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, 540, 90), fill=bar)
        draw.ellipse((20, 20, 70, 70), fill=(250, 250, 250))
        draw.text((90, 30), name, font=font("DejaVuSans-Bold", 24), fill="white")
        draw.text(
            (500, 8),
            f"{rng.integers(0, 24):02}:{rng.integers(0, 60):02}",
            font=font("DejaVuSans", 14),
            fill="white",
            anchor="ra",
        )
        y = 110.0
        while y < 800:
            rows, is_mine = int(rng.integers(1, 4)), rng.random() < 0.5
            width, height = int(rng.integers(180, 400)), rows * points * 1.5 + 20
            left = 520 - width if is_mine else 20
            draw.rounded_rectangle((left, y, left + width, y + height), 16, fill=mine if is_mine else theirs)
            fill_box(
                draw,
                (left + 14, y + 8, left + width - 14, y + height),
                font("DejaVuSans", points),
                (255, 255, 255),
                rng,
            )
            y += height + int(rng.integers(10, 40))
        draw.rectangle((0, 880, 540, 960), fill=bar)
        draw.rounded_rectangle((20, 895, 440, 945), 24, fill="white")
        draw.regular_polygon((490, 920, 24), 3, rotation=270, fill="white")
        return image

    return draw_chat


def mail(template: np.random.Generator) -> Draw:
    """Return a template of a program with a side bar and a list: mail, files, a shop."""
    side, accent = _color(template), _color(template)
    ink, ground = ink_and_ground(template)
    entries = [words(template, 1).title() for _ in range(8)]
    title, row_height = words(template, 2).title(), int(template.integers(44, 80))

    def draw_mail(rng: np.random.Generator) -> Image.Image:
        image = Image.new("RGB", (1100, 700), ground)
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, 200, 700), fill=side)
        draw.rectangle((0, 0, 1100, 50), fill=accent)
        draw.text((20, 12), title, font=font("DejaVuSans-Bold", 22), fill="white")
        for number, entry in enumerate(entries):
            draw.text((24, 80 + 44 * number), entry, font=font("DejaVuSans", 18), fill="white")
            draw.rectangle((6, 84 + 44 * number, 16, 94 + 44 * number), fill="white")
        for y in range(70, 690 - row_height, row_height):
            draw.ellipse((220, y, 250, y + 30), fill=_color(rng))
            draw.text((270, y), words(rng, 2).title(), font=font("DejaVuSans-Bold", 16), fill=ink)
            draw.text((500, y), words(rng, int(rng.integers(3, 8))), font=font("DejaVuSans", 16), fill=ink)
            draw.line((210, y + row_height - 8, 1090, y + row_height - 8), fill=side)
        return image

    return draw_mail


def form(template: np.random.Generator) -> Draw:
    """Return a template of a filled form or a receipt: the same labels, other entries."""
    ink, ground = ink_and_ground(template)
    face, count = choose(template, FONTS[:5]), int(template.integers(6, 12))
    labels, title = [words(template, 2).title() for _ in range(count)], words(template, 3).upper()

    def draw_form(rng: np.random.Generator) -> Image.Image:
        image = Image.new("RGB", (760, 900), ground)
        draw = ImageDraw.Draw(image)
        draw.text((60, 40), title, font=font(face, 34), fill=ink)
        for row, label in enumerate(labels):
            y = 120 + row * 62
            draw.text((60, y), label, font=font(face, 18), fill=ink)
            draw.rectangle((300, y - 8, 700, y + 34), outline=ink, width=2)
            text = words(rng, 2).title() if rng.random() < 0.6 else f"{rng.integers(0, 10**6):,}"
            draw.text((312, y), text, font=font("STIXGeneral", 24), fill=ink)
        return image

    return draw_form


def table(template: np.random.Generator) -> Draw:
    """Return a template of a table of numbers with a heading row."""
    ink, ground = ink_and_ground(template)
    head, columns, row_height = _color(template), int(template.integers(4, 9)), int(template.integers(24, 40))
    names = [word(template).title() for _ in range(columns)]

    def draw_table(rng: np.random.Generator) -> Image.Image:
        image = Image.new("RGB", (900, 640), ground)
        draw = ImageDraw.Draw(image)
        width = 880 / columns
        draw.rectangle((10, 10, 890, 10 + row_height), fill=head)
        for column, name in enumerate(names):
            draw.text((16 + column * width, 14), name, font=font("DejaVuSans-Bold", 16), fill="white")
        for y in range(10 + row_height, 620, row_height):
            draw.line((10, y, 890, y), fill=head)
            for column in range(columns):
                text = word(rng) if column == 0 else f"{rng.uniform(0, 1000):.1f}"
                draw.text((16 + column * width, y + 4), text, font=font("DejaVuSans", 16), fill=ink)
        for column in range(columns + 1):
            draw.line((10 + column * width, 10, 10 + column * width, 620), fill=head)
        return image

    return draw_table


def calendar(template: np.random.Generator) -> Draw:
    """Return a template of a month's page: the same grid, other days and notes."""
    ink, ground = ink_and_ground(template)
    accent, days = _color(template), [word(template)[:3].title() for _ in range(7)]

    def draw_calendar(rng: np.random.Generator) -> Image.Image:
        image = Image.new("RGB", (840, 700), ground)
        draw = ImageDraw.Draw(image)
        draw.text((420, 20), word(rng).title(), font=font("DejaVuSerif-Bold", 44), fill=accent, anchor="ma")
        first = int(rng.integers(0, 7))
        for cell in range(42):
            x, y = cell % 7 * 120, 130 + cell // 7 * 92
            draw.rectangle((x, y, x + 120, y + 92), outline=accent)
            if cell < 7:
                draw.text((x + 60, 100), days[cell], font=font("DejaVuSans", 18), fill=ink, anchor="ma")
            if 0 <= cell - first < 31:
                draw.text((x + 8, y + 6), str(cell - first + 1), font=font("DejaVuSans", 20), fill=ink)
            if rng.random() < 0.2:
                draw.text((x + 8, y + 50), word(rng), font=font("DejaVuSans", 14), fill=accent)
        return image

    return draw_calendar
