"""The edits that people make to a picture that they copy, by name.

The names are those of the query edits of the Image Similarity Challenge (AugLy's catalog); the ranges of strength are
those that its competitors trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageOps

from copytrace.errors import ConfigError
from copytrace.synthesis import edit_decor, edit_geometry, edit_photo
from copytrace.synthesis.edit_tracking import Draw, EditedPicture, Strength, limit_size

EditKind = Literal["photo", "decor", "geometry", "crop", "overlay"]

KINDS: tuple[EditKind, ...] = ("photo", "decor", "geometry", "crop", "overlay")
"""Kinds of edits, the mildest first: a picture with several edits has the kind of the most severe one."""

_SMALLEST_PASTE = 24


@dataclass(frozen=True)
class Edit:
    """An edit: its name, its kind, and the function that makes the edited picture."""

    name: str
    kind: EditKind
    apply: Callable[[EditedPicture, Draw], EditedPicture]


def onto_photo(edited: EditedPicture, draw: Draw) -> EditedPicture:
    """Paste the picture, sometimes cropped, onto a donor photo, at 20-70 % of its width or height."""
    canvas = draw.donor().copy()
    if draw.chance(0.3):
        edited = edit_geometry.crop(edited, Draw(draw.rng, Strength(0, 0.5)))
    share = draw.amount(0.7, 0.2)
    width, height = edited.image.size
    scale = share * min(canvas.width / width, canvas.height / height)
    scale = max(scale, min(_SMALLEST_PASTE / min(width, height), canvas.width / width, canvas.height / height))
    width, height = max(1, int(width * scale)), max(1, int(height * scale))
    left, top = draw.integer(0, canvas.width - width), draw.integer(0, canvas.height - height)
    if draw.chance(0.25):
        rim = max(2, round(min(width, height) * 0.04))
        canvas.paste(draw.color(), (left - rim, top - rim, left + width + rim, top + height + rim))
    cover = draw.amount(1.0, 0.5) if draw.chance(0.2) else 1.0
    return edited.paste_onto(canvas, (left, top, left + width, top + height), cover)


def with_photo(edited: EditedPicture, draw: Draw) -> EditedPicture:
    """Paste a donor photo onto the picture, in a corner or anywhere, so that it hides 8-40 %."""
    donor, image = draw.donor(), edited.image.copy()
    area = draw.amount(0.08, 0.4) * image.width * image.height
    shape = donor.width / donor.height
    width = min(round(math.sqrt(area * shape)), round(image.width * 0.9))
    height = min(round(math.sqrt(area / shape)), round(image.height * 0.9))
    inset = ImageOps.fit(donor, (max(1, width), max(1, height)))
    span = image.width - inset.width, image.height - inset.height
    in_corner = draw.chance(0.5)
    left, top = (draw.choice((0, room)) if in_corner else draw.integer(0, room) for room in span)
    image.paste(inset, (left, top))
    return edited.replace_pixels(image)


def _edit_pixels(change: Callable[[Image.Image, Draw], Image.Image]) -> Callable[[EditedPicture, Draw], EditedPicture]:
    def apply(edited: EditedPicture, draw: Draw) -> EditedPicture:
        return edited.replace_pixels(change(edited.image, draw))

    return apply


_PHOTO_EDITS = (
    edit_photo.downscale,
    edit_photo.brightness,
    edit_photo.contrast,
    edit_photo.saturation,
    edit_photo.color_jitter,
    edit_photo.grayscale,
    edit_photo.invert,
    edit_photo.colormap,
    edit_photo.blur,
    edit_photo.sharpen,
    edit_photo.noise,
    edit_photo.jpeg,
    edit_photo.pixelate,
    edit_photo.shuffle,
    edit_photo.opacity,
)
_OTHER_EDITS: dict[EditKind, tuple[Callable[[EditedPicture, Draw], EditedPicture], ...]] = {
    "crop": (edit_geometry.crop,),
    "geometry": (
        edit_geometry.hflip,
        edit_geometry.vflip,
        edit_geometry.rotate90,
        edit_geometry.rotate,
        edit_geometry.aspect,
        edit_geometry.pad,
        edit_geometry.perspective,
        edit_geometry.skew,
    ),
    "decor": (edit_decor.emoji, edit_decor.text, edit_decor.stripes, edit_decor.meme, edit_decor.screenshot),
    "overlay": (onto_photo, with_photo),
}

EDITS: dict[str, Edit] = {
    **{change.__name__: Edit(change.__name__, "photo", _edit_pixels(change)) for change in _PHOTO_EDITS},
    **{edit.__name__: Edit(edit.__name__, kind, edit) for kind, edits in _OTHER_EDITS.items() for edit in edits},
}


def apply_edit(name: str, edited: EditedPicture, draw: Draw) -> EditedPicture:
    """Apply one edit by its name in `EDITS`.

    The result has no side under `edit_tracking.MIN_SIDE` and at most `edit_tracking.MAX_PIXELS` pixels.

    Raises:
        ConfigError: there is no edit of that name.
        InputError: an overlay edit has no donor photos in `draw`.
    """
    if name not in EDITS:
        raise ConfigError(f"unknown edit {name!r}; it must be one of {', '.join(EDITS)}")
    result = EDITS[name].apply(edited, draw)
    return result.replace_pixels(limit_size(result.image))


def kind_of_edits(names: list[str]) -> EditKind:
    """Return the kind of the most severe edit of `names`, which holds at least one; see `KINDS` for the order."""
    return max((EDITS[name].kind for name in names), key=KINDS.index)
