"""Reading of images: what an index keeps of them, before the network describes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from configs.images import ImageSettings
from copytrace.errors import MediaError
from copytrace.features.descriptors import Descriptor
from copytrace.features.points import Bytes, find_points
from copytrace.features.thumbnails import thumbnail
from copytrace.index.given_up import limits_of
from copytrace.index.media_index import Role
from copytrace.index.shard_files import View
from copytrace.media.decode import DecodedImage, decode_image
from copytrace.media.files import MediaItem
from copytrace.media.prefetch import prefetch
from copytrace.overlays.boxes import Box, Branch, choose_crops
from copytrace.panes.names import WHOLE
from copytrace.runtime import usable_cores

T = TypeVar("T")

WORKING_SIDE = 1024  # pixels; images are decoded to this short side at most, and no step needs more
SMALLEST_CROP = 8  # pixels


@dataclass(frozen=True, slots=True)
class ReadImage:
    """An image with the pictures of its panes, for the network, its thumbnail, and the points of its views."""

    item: MediaItem
    panes: list[str]
    pictures: list[Bytes]
    thumbnail: Bytes
    views: list[View]
    damage: str | None


def read_image(
    item: MediaItem, boxes: Sequence[Box], descriptor: Descriptor, settings: ImageSettings, role: Role
) -> ReadImage:
    """Decode an image, and return what an index of this role needs of it; `boxes` are the pictures pasted into it.

    `descriptor` is the one that will describe its pictures. Raises `MediaError` if the image is unreadable.
    """
    image = decode_item(item, settings)
    local, small = settings.local, thumbnail(image.pixels)
    if role == "references":
        whole = View(item.id, WHOLE, find_points(image.pixels, local.reference_points))
        picture = descriptor.resize(image.pixels)
        return ReadImage(item, [WHOLE], [picture], small, [whole], image.damage)
    views = [View(item.id, WHOLE, find_points(image.pixels, local.query_points))]
    for stretch in local.stretches:
        points = find_points(image.pixels, local.stretched_points, stretch=stretch)
        views.append(View(item.id, f"stretched{stretch:g}", points))
    panes, pictures = [WHOLE], [descriptor.resize(image.pixels)]
    rules = settings.overlay
    for number, (box, crop) in enumerate(_crops(image, boxes, "local", rules.local_confidence, settings)):
        corners = (box.x0, box.y0, box.x1, box.y1)
        views.append(View(item.id, f"crop{number}", find_points(crop, local.crop_points, box=corners)))
    for number, (_, crop) in enumerate(_crops(image, boxes, "global", rules.global_confidence, settings)):
        panes.append(f"crop{number}")
        pictures.append(descriptor.resize(crop))
    return ReadImage(item, panes, pictures, small, views, image.damage)


def _crops(
    image: DecodedImage, boxes: Sequence[Box], branch: Branch, min_confidence: float, settings: ImageSettings
) -> Iterator[tuple[Box, Bytes]]:
    """Yield the boxes that a branch searches, with their pictures."""
    rules = settings.overlay
    height, width = image.pixels.shape[:2]
    for box in choose_crops(
        [box for box in boxes if box.branch in {"both", branch}],
        min_confidence=min_confidence,
        max_area=rules.max_area,
        max_aspect=rules.max_aspect,
        limit=rules.max_crops,
    ):
        x0, y0, x1, y1 = box.to_pixels(width, height)
        if min(x1 - x0, y1 - y0) >= SMALLEST_CROP:
            yield box, np.ascontiguousarray(image.pixels[y0:y1, x0:x1])


def decode_item(item: MediaItem, settings: ImageSettings) -> DecodedImage:
    """Decode an image at the size at which it is described. Raises `MediaError` if it is unreadable."""
    rules = settings.media
    return decode_image(item.path, short_side=WORKING_SIDE, max_pixels=rules.max_pixels, limits=limits_of(rules))


def load_in_threads(
    items: Sequence[MediaItem], load: Callable[[MediaItem], T], settings: ImageSettings
) -> Iterator[tuple[MediaItem, T | MediaError]]:
    """Yield each item with the result of `load` in threads, or with the `MediaError` that it raised; see `prefetch`."""
    threads = settings.media.threads or usable_cores()
    return prefetch(items, load, threads=threads, ahead=threads + settings.descriptor.batch_size)
