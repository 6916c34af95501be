"""Training examples of the overlay detector: pictures with others pasted into them, and the exact boxes.

A composite is a photo after a few of the edits of queries. In most composites one of the edits makes a picture inside a
picture: the photo pasted onto another, another pasted onto it, or a frame around it.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from copytrace.arrays import Doubles
from copytrace.errors import InputError, MediaError
from copytrace.features.resize import resize_for_descriptor
from copytrace.synthesis.edit_tracking import (
    Draw,
    EditedPicture,
    Strength,
    clip_to_unit_square,
    map_points,
    polygon_area,
)
from copytrace.synthesis.edits import EDITS, apply_edit
from copytrace.training.photos import TrainingPhoto, load_photo, random_generator

MOST_BOXES = 4  # boxes of one composite in its labels
LARGEST_BOX = 0.85  # share of the area; matching does not crop larger boxes
SMALLEST_SIDE = 0.06  # of a box, as a share of the picture's
_LEAST_LEFT = 0.35  # a crop that leaves a smaller share of a pasted picture is dropped
_HIDDEN = 0.65  # a pasted picture of which a later one covers more is no longer labeled
_SAME_PICTURE = 0.55  # IoU of a box with an inner box above which only the inner one, the picture, is labeled
_FLAT = 8.0  # standard deviation in gray levels under which a photo is plain
_PHOTOS_KEPT = 192  # decoded photos in memory, some 400 KB each
_TRIES = 6

FRAMES = ("pad", "meme", "screenshot")
_PASTES = {"onto_photo": 0.46, "scene": 0.2, "with_photo": 0.16, "pad": 0.08, "meme": 0.04, "screenshot": 0.06}
_STRENGTHS = (Strength(0.0, 0.5), Strength(0.4, 1.0), Strength(0.0, 1.0))
_OTHERS = {
    kind: [edit.name for edit in EDITS.values() if edit.kind == kind and edit.name not in FRAMES]
    for kind in ("photo", "decor", "geometry")
}


@dataclass(frozen=True)
class Composite:
    """A picture under edit, and the normalized corners (4 or more, 2) of each picture that was pasted into it."""

    image: Image.Image
    outlines: tuple[Doubles, ...] = ()

    def apply(self, name: str, draw: Draw) -> Composite:
        """Apply an edit by its name in `EDITS`, or "scene"; outlines are transformed, and new pastes get one."""
        fresh = EditedPicture(self.image)
        step = paste_scene(fresh, draw) if name == "scene" else apply_edit(name, fresh, draw)
        if name == "with_photo":
            inset = _changed_outline(self.image, step.image)
            hidden = [outline for outline in self.outlines if _covered_share(outline, inset) > _HIDDEN]
            kept = tuple(outline for outline in self.outlines if not any(outline is other for other in hidden))
            return Composite(step.image, (*kept, inset))
        outlines = tuple(_transform_outline(outline, step) for outline in self.outlines)
        if name in ("onto_photo", "scene", *FRAMES):
            outlines = (*outlines, step.outline)
        return Composite(step.image, outlines)

    def boxes(self) -> Doubles:
        """Return upright boxes (x0, y0, x1, y1) of the pasted pictures that matching would crop, float64 [M, 4].

        Of a pasted picture with a frame, the box is that of the picture, unless the frame is wide.
        """
        boxes = [_box(outline) for outline in self.outlines if len(outline) > 2]
        candidates = [box for box in boxes if _is_crop_candidate(box)]
        inner = [
            box
            for box in candidates
            if not any(_iou(box, other) > _SAME_PICTURE and _area(other) < _area(box) for other in candidates)
        ]
        return np.array(inner[:MOST_BOXES]).reshape(-1, 4)


@dataclass
class Composites:
    """`Examples` of composites of `photos`: `image` uint8 [S, S, 3] and `boxes` float32 [4, 4], padded with zeros.

    `share` of them hold a pasted picture. Photos are read when they are needed, and the latest are kept in memory.
    """

    photos: Sequence[TrainingPhoto]
    count: int
    input_size: int
    long_side: int
    share: float
    seed: int
    _decoded: OrderedDict[str, Image.Image] = field(default_factory=OrderedDict, repr=False)

    def __len__(self) -> int:
        return self.count

    def example(self, epoch: int, index: int) -> dict[str, NDArray[np.generic]]:
        """Make the composite of that number; the same numbers give the same arrays."""
        composite = self.composite(epoch, index)
        boxes = np.zeros((MOST_BOXES, 4), np.float32)
        labels = composite.boxes()
        boxes[: len(labels)] = labels
        return {"image": resize_for_descriptor(np.asarray(composite.image), self.input_size), "boxes": boxes}

    def composite(self, epoch: int, index: int) -> Composite:
        """Make the composite of that number in its own size and shape."""
        rng = random_generator(self.seed, epoch, index)
        photo, image = self._photo(rng, exclude="")
        draw = Draw(rng, _STRENGTHS[int(rng.integers(len(_STRENGTHS)))], lambda rng: self._photo(rng, photo.group)[1])
        composite = Composite(image)
        for name in choose_edits(draw, self.share):
            composite = _try_edit(composite, name, draw)
        if draw.chance(0.7):
            composite = Composite(_compress_jpeg(composite.image, draw.integer(60, 96)), composite.outlines)
        return composite

    def _photo(self, rng: np.random.Generator, exclude: str) -> tuple[TrainingPhoto, Image.Image]:
        """Draw a photo of another group that is not plain, if there is one."""
        readable: tuple[TrainingPhoto, Image.Image] | None = None
        for _ in range(_TRIES):
            photo = self.photos[int(rng.integers(len(self.photos)))]
            try:
                image = self._load(photo)
            except MediaError as error:
                reason = f"{photo.path}: {error}"
                continue
            readable = photo, image
            if photo.group != exclude and np.asarray(image.convert("L")).std() > _FLAT:
                break
        if readable is None:
            raise InputError(f"{_TRIES} photos in a row cannot be read, such as {reason}; give photos that can")
        return readable

    def _load(self, photo: TrainingPhoto) -> Image.Image:
        if photo.path not in self._decoded:
            self._decoded[photo.path] = load_photo(photo.path, self.long_side)
            if len(self._decoded) > _PHOTOS_KEPT:
                self._decoded.popitem(last=False)
        self._decoded.move_to_end(photo.path)
        return self._decoded[photo.path]


def choose_edits(draw: Draw, share: float) -> list[str]:
    """Draw the edits of one composite in their order; a `share` of composites has one that makes a picture in one."""
    names = [_draw_edit(draw) for _ in range(draw.choice((0, 1, 1, 2, 2, 3)))]
    if draw.chance(share):
        paste = str(draw.rng.choice(list(_PASTES), p=list(_PASTES.values())))
        names.insert(draw.integer(0, len(names)), paste)
        if draw.chance(0.12):  # such as a post of a collage
            names.insert(draw.integer(0, len(names)), draw.choice(("with_photo", "onto_photo", *FRAMES)))
    if draw.chance(0.15):
        names.insert(0, "crop")
    return names


def paste_scene(edited: EditedPicture, draw: Draw) -> EditedPicture:
    """Paste the picture onto a photo with more variation than `onto_photo`: size, stretch, softness, opacity."""
    canvas = draw.donor().copy()
    limit = min(canvas.width / edited.image.width, canvas.height / edited.image.height)
    scale, stretch = draw.between(0.15, 0.92) * limit, draw.between(1.0, 1.35) ** draw.sign()
    width = min(canvas.width, max(24, round(edited.image.width * scale * stretch)))
    height = min(canvas.height, max(24, round(edited.image.height * scale / stretch)))
    room = canvas.width - width, canvas.height - height
    at_border = draw.chance(0.25)
    left, top = (draw.choice((0, span, span // 2)) if at_border else draw.integer(0, span) for span in room)
    if draw.chance(0.2):
        canvas = canvas.resize((16, 16)).resize(canvas.size, Image.Resampling.BICUBIC)  # a blurred background
    if draw.chance(0.2):
        rim = draw.integer(1, 8)
        canvas.paste(draw.color(), (left - rim, top - rim, left + width + rim, top + height + rim))
    opacity = draw.between(0.5, 1.0) if draw.chance(0.25) else 1.0
    return edited.paste_onto(canvas, (left, top, left + width, top + height), opacity)


def _draw_edit(draw: Draw) -> str:
    kind = str(draw.rng.choice(["photo", "decor", "geometry"], p=[0.5, 0.25, 0.25]))
    return draw.choice(_OTHERS[kind])


def _try_edit(composite: Composite, name: str, draw: Draw) -> Composite:
    """Return the composite after an edit, or unchanged if the edit leaves too little of a pasted picture."""
    attempt = composite.apply(name, draw)
    before = [outline for outline in composite.outlines if len(outline) > 2]
    after = [outline for outline in attempt.outlines if len(outline) > 2]
    if len(after) < len(before):
        return composite
    if any(min(_sides(outline)) < SMALLEST_SIDE for outline in after):
        return composite
    if name == "crop" and any(
        polygon_area(b) * composite.image.width * composite.image.height * _LEAST_LEFT
        > polygon_area(a) * attempt.image.width * attempt.image.height
        for a, b in zip(after, before, strict=True)
    ):
        return composite
    return attempt


def _transform_outline(outline: Doubles, step: EditedPicture) -> Doubles:
    """Return the outline after `step`, an edit of the picture; (0, 2) if nothing of it is left."""
    if len(outline) < 3:
        return outline
    x0, y0, x1, y1 = _box(map_points(np.linalg.inv(step.transform).astype(np.float64), step.outline))
    # `step.transform` does not show which part the step cropped first, only the extent of the result does.
    kept = np.array([[x1 - x0, 0, x0], [0, y1 - y0, y0], [0, 0, 1.0]])
    inside = clip_to_unit_square(map_points(np.linalg.inv(kept).astype(np.float64), outline))
    if len(inside) < 3:
        return inside
    return clip_to_unit_square(map_points(step.transform @ kept, inside))


def _changed_outline(before: Image.Image, after: Image.Image) -> Doubles:
    """Return the corners of the box of all pixels that differ, as `with_photo` does not report its position."""
    differs = cv2.absdiff(np.asarray(before), np.asarray(after)).max(axis=2) > 0
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    if not len(rows):
        return np.zeros((0, 2))
    x0, x1 = columns[0] / before.width, (columns[-1] + 1) / before.width
    y0, y1 = rows[0] / before.height, (rows[-1] + 1) / before.height
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _covered_share(outline: Doubles, cover: Doubles) -> float:
    """Return the share of an outline's box that the box of `cover` hides."""
    if min(len(outline), len(cover)) < 3:
        return 0.0
    box = _box(outline)
    return _shared_area(box, _box(cover)) / max(_area(box), 1e-9)


def _is_crop_candidate(box: Doubles) -> bool:
    return _area(box) <= LARGEST_BOX and bool((box[2:] - box[:2]).min() >= SMALLEST_SIDE)


def _box(outline: Doubles) -> Doubles:
    return np.concatenate([outline.min(axis=0), outline.max(axis=0)])


def _sides(outline: Doubles) -> Doubles:
    sides: Doubles = np.ptp(outline, axis=0)
    return sides


def _area(box: Doubles) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _shared_area(a: Doubles, b: Doubles) -> float:
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    return float(sides[0] * sides[1])


def _iou(a: Doubles, b: Doubles) -> float:
    shared = _shared_area(a, b)
    return shared / (_area(a) + _area(b) - shared)


def _compress_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")
