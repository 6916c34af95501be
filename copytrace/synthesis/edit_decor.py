"""Edits that draw on the photo or around it: stickers, text, stripes, memes, screenshots."""

from __future__ import annotations

import math
import textwrap
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from copytrace.synthesis.edit_tracking import Color, Draw, EditedPicture

_WORDS = (  # noqa: SIM905 - sixty words are easier to read as sentences
    "when you finally see the weekend coming and nobody told me about this monday morning again best day ever "
    "look at that wait for it so true every single time my friends be like this is fine not today thanks share if "
    "you agree photo of the year breaking news summer sale only now follow for more"
).split()
_NAMES = ("daily.pictures", "anna_b", "worldnews", "funny.pics.24", "the.real.tom", "street_view")
_STICKER_SCALE = 2  # stickers are drawn larger and then reduced, for smooth edges
_INK: Color = (20, 20, 24)


def emoji(edited: EditedPicture, draw: Draw) -> EditedPicture:
    """Paste one to three stickers (faces, hearts, stars, bubbles) of 12-50 % of the short side."""
    image = edited.image.copy()
    for _ in range(draw.integer(1, 3)):
        side = max(12, round(min(image.size) * draw.amount(0.12, 0.5)))
        sticker = draw.choice((_face, _face, _face, _heart, _star, _bubble))(side * _STICKER_SCALE, draw)
        sticker = sticker.reduce(_STICKER_SCALE).rotate(draw.between(-30, 30), Image.Resampling.BICUBIC)
        strength = draw.between(0.75, 1.0) if draw.chance(0.3) else 1.0
        alpha = sticker.getchannel("A").point([round(level * strength) for level in range(256)])
        corner = (draw.integer(0, max(0, image.width - side)), draw.integer(0, max(0, image.height - side)))
        image.paste(sticker, corner, alpha)
    return edited.replace_pixels(image)


def _face(side: int, draw: Draw) -> Image.Image:
    sticker, pen = _blank(side)
    skin = draw.choice(((255, 204, 50), (255, 186, 60), (250, 214, 90), (240, 90, 70)))
    pen.ellipse(_scaled(side, 0.04, 0.04, 0.96, 0.96), fill=skin, outline=(200, 140, 20), width=max(1, side // 50))
    eyes = draw.choice(("round", "hearts", "glasses", "closed"))
    for left in (0.22, 0.57):
        if eyes == "hearts":
            heart = _heart(round(side * 0.3), draw)
            sticker.paste(heart, (round(side * (left - 0.04)), round(side * 0.2)), heart)
        elif eyes == "closed":
            pen.arc(_scaled(side, left, 0.3, left + 0.21, 0.5), 190, 350, fill=_INK, width=max(1, side // 25))
        elif eyes == "glasses":
            pen.rounded_rectangle(_scaled(side, left - 0.06, 0.28, left + 0.26, 0.5), side // 14, fill=_INK)
        else:
            pen.ellipse(_scaled(side, left + 0.04, 0.28, left + 0.17, 0.46), fill=(80, 50, 20))
    if draw.chance(0.5):
        pen.chord(_scaled(side, 0.24, 0.4, 0.76, 0.84), 0, 180, fill=(120, 40, 30))
        pen.chord(_scaled(side, 0.34, 0.66, 0.66, 0.84), 20, 160, fill=(230, 90, 100))
    else:
        pen.arc(_scaled(side, 0.28, 0.4, 0.72, 0.76), 20, 160, fill=(90, 50, 20), width=max(1, side // 20))
    if draw.chance(0.25):
        pen.ellipse(_scaled(side, 0.1, 0.46, 0.24, 0.72), fill=(90, 180, 250))
    return sticker


def _heart(side: int, draw: Draw) -> Image.Image:
    sticker, pen = _blank(side)
    turn = np.linspace(0, 2 * math.pi, 60)
    x = 0.5 + 0.46 * np.sin(turn) ** 3
    y = 0.46 - 0.028 * (13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn))
    pen.polygon([(float(a), float(b)) for a, b in zip(x * side, y * side, strict=True)], fill=(225, 40, 60))
    return sticker


def _star(side: int, draw: Draw) -> Image.Image:
    sticker, pen = _blank(side)
    points = draw.choice((5, 8, 12))
    for scale, color in (
        (0.48, (255, 255, 255)),
        (0.42, draw.choice(((255, 200, 30), (230, 30, 60), (40, 120, 230)))),
    ):
        corners = []
        for corner in range(2 * points):
            radius = scale * side * (1.0 if corner % 2 else 0.5 if points == 5 else 0.78)
            angle = math.pi * corner / points + math.pi / 2 * (points == 5)
            corners.append((side / 2 + radius * math.cos(angle), side / 2 + radius * math.sin(angle)))
        pen.polygon(corners, fill=color)
    if points > 5:
        word = draw.choice(("SALE", "NEW", "WOW", "HOT", "-50%"))
        pen.text((side / 2, side / 2), word, fill="white", font=_font(side // 5), anchor="mm")
    return sticker


def _bubble(side: int, draw: Draw) -> Image.Image:
    sticker, pen = _blank(side)
    pen.polygon([(side * 0.3, side * 0.6), (side * 0.45, side * 0.7), (side * 0.2, side * 0.95)], fill="white")
    pen.ellipse(_scaled(side, 0.02, 0.1, 0.98, 0.76), fill="white", outline=_INK, width=max(1, side // 50))
    pen.text(
        (side / 2, side * 0.43),
        draw.choice(("OMG", "LOL", "Hello!", "What?", "ha ha")),
        fill=_INK,
        font=_font(side // 5),
        anchor="mm",
    )
    return sticker


def text(edited: EditedPicture, draw: Draw) -> EditedPicture:
    """Write one or two lines of 6-20 % of the short side, straight or tilted, plain, outlined or on a bar."""
    image = edited.image.copy()
    for _ in range(draw.integer(1, 2)):
        size = max(10, round(min(image.size) * draw.amount(0.06, 0.2)))
        label = _draw_label(_phrase(draw, draw.integer(1, 4)), size, draw)
        if draw.chance(0.3):
            label = label.rotate(draw.between(-45, 45), Image.Resampling.BICUBIC, expand=True)
        label.thumbnail(image.size)
        corner = draw.integer(0, image.width - label.width), draw.integer(0, image.height - label.height)
        image.paste(label, corner, label)
    return edited.replace_pixels(image)


def _draw_label(words: str, size: int, draw: Draw) -> Image.Image:
    font, style = _font(size), draw.choice(("outlined", "plain", "bar"))
    stroke = max(1, size // 12) if style == "outlined" else 0
    left, top, right, bottom = (round(edge) for edge in font.getbbox(words, stroke_width=stroke))
    margin = size // 4
    label = Image.new("RGBA", (right - left + 2 * margin, bottom - top + 2 * margin))
    pen, color = ImageDraw.Draw(label), draw.color()
    opposite = (0, 0, 0) if sum(color) > 380 else (255, 255, 255)
    if style == "bar":
        pen.rectangle((0, 0, *label.size), fill=(*opposite, 215))
    pen.text((margin - left, margin - top), words, (*color, 255), font, stroke_width=stroke, stroke_fill=opposite)
    return label


def stripes(edited: EditedPicture, draw: Draw) -> EditedPicture:
    """Draw two to six stripes at any angle, which hide 20-50 % of the picture."""
    width, height = edited.image.size
    angle = draw.choice((0.0, 90.0, 45.0, -45.0, draw.between(0, 180)))
    across = np.arange(width) * math.cos(math.radians(angle))
    along = np.arange(height)[:, None] * math.sin(math.radians(angle))
    phase = (across + along) / max(width, height) * draw.integer(2, 6) + draw.between(0, 1)
    alpha = round(255 * (1.0 if draw.chance(0.5) else draw.between(0.4, 1.0)))
    mask = Image.fromarray((phase - np.floor(phase) < draw.amount(0.2, 0.5)) * np.uint8(alpha))
    image = edited.image.copy()
    image.paste(draw.color(), (0, 0, width, height), mask)
    return edited.replace_pixels(image)


def meme(edited: EditedPicture, draw: Draw) -> EditedPicture:
    """Put the picture into a white or black frame, with a caption above it and sometimes one below."""
    width, height = edited.image.size
    paper, ink = draw.choice((((255, 255, 255), (0, 0, 0)), ((255, 255, 255), (0, 0, 0)), ((0, 0, 0), (255, 255, 255))))
    size = max(10, round(width * draw.between(0.06, 0.1)))
    above, below = (_wrap(_phrase(draw, draw.integer(3, 9)), width, size) for _ in range(2))
    margin = draw.choice((0, 0, round(width * 0.04)))
    top = _caption_height(above, size)
    bottom = _caption_height(below, size) if draw.chance(0.3) else margin
    canvas = Image.new("RGB", (width + 2 * margin, top + height + bottom), paper)
    pen = ImageDraw.Draw(canvas)
    captions = [(top / 2, above)]
    if bottom > margin:
        captions.append((top + height + bottom / 2, below))
    for middle, caption in captions:
        pen.multiline_text((canvas.width / 2, middle), caption, ink, _font(size), anchor="mm", align="center")
    return edited.paste_onto(canvas, (margin, top, margin + width, top + height))


def _wrap(words: str, width: int, size: int) -> str:
    return textwrap.fill(words, max(8, round(width / size / 0.56)))


def _caption_height(caption: str, size: int) -> int:
    return round((caption.count("\n") + 1) * size * 1.3 + size * 0.8)


def screenshot(edited: EditedPicture, draw: Draw) -> EditedPicture:
    """Show the picture in a post on a phone or in an article in a browser, light or dark."""
    paper, ink, shade = draw.choice(
        (((255, 255, 255), _INK, (228, 230, 235)), ((24, 25, 28), (235, 235, 238), (58, 60, 66)))
    )
    return draw.choice((_on_phone, _in_browser))(edited, draw, paper, ink, shade)


def _on_phone(edited: EditedPicture, draw: Draw, paper: Color, ink: Color, shade: Color) -> EditedPicture:
    width, unit = 480, 24
    shown = min(round(width * edited.image.height / edited.image.width), 2 * width)
    top = unit * (3 + 2 * draw.integer(1, 2))
    canvas = Image.new("RGB", (width, top + shown + unit * draw.integer(7, 11)), paper)
    pen, name = ImageDraw.Draw(canvas), draw.choice(_NAMES)
    clock = f"{draw.integer(0, 23):02d}:{draw.integer(0, 59):02d}"
    pen.text((unit, unit * 0.7), clock, ink, _font(15), anchor="lm")
    pen.rounded_rectangle((width - 50, 11, width - 22, 23), 3, outline=ink)
    pen.rectangle((width - 48, 13, width - 48 + draw.integer(4, 24), 21), fill=ink)
    pen.ellipse((unit * 0.6, top - unit * 2.2, unit * 2.2, top - unit * 0.6), fill=draw.color(), outline=shade)
    pen.text((unit * 2.8, top - unit * 1.4), name, ink, _font(18), anchor="lm")
    for dot in range(3):
        pen.ellipse((width - 40 + 8 * dot, top - 36, width - 36 + 8 * dot, top - 32), fill=ink)
    row = top + shown + unit * 1.2
    for icon in range(3):
        pen.ellipse((18 + 46 * icon, row - 12, 42 + 46 * icon, row + 12), outline=ink, width=2)
    pen.text((18, row + unit * 1.4), f"{draw.integer(2, 9999)} likes", ink, _font(16), anchor="lm")
    pen.text((18, row + unit * 2.6), f"{name}  {_phrase(draw, 4)}", ink, _font(15), anchor="lm")
    pen.text((18, row + unit * 3.6), _phrase(draw, 6), ink, _font(15), anchor="lm")
    pen.rectangle((0, canvas.height - 2 * unit, width, canvas.height), fill=shade)
    # A picture taller than the screen shows two widths of it, squeezed, as feeds do.
    return edited.paste_onto(canvas, (0, top, width, top + shown))


def _in_browser(edited: EditedPicture, draw: Draw, paper: Color, ink: Color, shade: Color) -> EditedPicture:
    width, bar = draw.integer(680, 880), 58
    column = round(width * draw.amount(0.7, 0.45))
    left = draw.choice((30, (width - column) // 2))
    shown = min(round(column * edited.image.height / edited.image.width), width)
    top = bar + 90
    canvas = Image.new("RGB", (width, top + shown + draw.integer(40, 160)), paper)
    pen = ImageDraw.Draw(canvas)
    pen.rectangle((0, 0, width, bar), fill=shade)
    for button, color in enumerate(((237, 106, 94), (245, 191, 79), (98, 197, 84))):
        pen.ellipse((14 + 20 * button, 8, 26 + 20 * button, 20), fill=color)
    pen.rounded_rectangle((90, 29, width - 60, 51), 9, fill=paper)
    pen.text(
        (104, 40), f"www.{draw.choice(_NAMES).replace('_', '')}.com/{draw.choice(_WORDS)}", ink, _font(13), anchor="lm"
    )
    pen.text((left, bar + 34), _phrase(draw, 5).capitalize(), ink, _font(26), anchor="lm")
    pen.text((left, bar + 68), f"{draw.choice(_NAMES)} · {draw.integer(2, 59)} min", ink, _font(13), anchor="lm")
    for line in range((canvas.height - top - shown) // 22):
        right = left + column * (0.6 if line % 4 == 3 else 1.0)
        pen.rectangle((left, top + shown + 16 + 22 * line, right, top + shown + 26 + 22 * line), fill=shade)
    beside = left + column + 30
    for card in range((canvas.height - top) // 110 if width - beside > 80 else 0):
        pen.rounded_rectangle((beside, top + 110 * card, width - 24, top + 90 + 110 * card), 6, fill=shade)
    return edited.paste_onto(canvas, (left, top, left + column, top + shown))


def _phrase(draw: Draw, words: int) -> str:
    start = draw.integer(0, len(_WORDS) - words)
    return " ".join(_WORDS[start : start + words])


def _blank(side: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sticker = Image.new("RGBA", (side, side))
    return sticker, ImageDraw.Draw(sticker)


def _scaled(side: int, *box: float) -> list[float]:
    return [side * edge for edge in box]


@lru_cache(maxsize=256)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=max(6, size))
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType, which writes text; install Pillow's own wheel")
    return font
