"""Reading of images: what an index keeps of them, before the network describes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from configs.images import ImageSettings
from copytrace.errors import MediaError
from copytrace.features.descriptors import resize_for_descriptor
from copytrace.features.points import Bytes, find_points
from copytrace.features.thumbnails import thumbnail
from copytrace.index.given_up import limits_of
from copytrace.index.media_index import Role
from copytrace.index.shard_files import View
from copytrace.media.decode import DecodedImage, decode_image
from copytrace.media.files import MediaItem
from copytrace.media.prefetch import prefetch
from copytrace.overlays.detectors import Box, choose_crops
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
    item: MediaItem, boxes: Sequence[Box], input_size: int, settings: ImageSettings, role: Role
) -> ReadImage:
    """Decode an image, and return what an index of this role needs of it; `boxes` are the pictures pasted into it.

    `input_size` is the side of the pictures in pixels. Raises `MediaError` if the image is unreadable.
    """
    image = decode_item(item, settings)
    local, small = settings.local, thumbnail(image.pixels)
    if role == "references":
        whole = View(item.id, WHOLE, find_points(image.pixels, local.reference_points))
        picture = resize_for_descriptor(image.pixels, input_size)
        return ReadImage(item, [WHOLE], [picture], small, [whole], image.damage)
    views = [View(item.id, WHOLE, find_points(image.pixels, local.query_points))]
    for stretch in local.stretches:
        points = find_points(image.pixels, local.stretched_points, stretch=stretch)
        views.append(View(item.id, f"stretched{stretch:g}", points))
    panes, pictures = [WHOLE], [resize_for_descriptor(image.pixels, input_size)]
    for number, (box, crop) in enumerate(_crops(image, boxes, settings)):
        name = f"crop{number}"
        if box.confidence > settings.overlay.local_confidence:
            corners = (box.x0, box.y0, box.x1, box.y1)
            views.append(View(item.id, name, find_points(crop, local.crop_points, box=corners)))
        if box.confidence > settings.overlay.global_confidence:
            panes.append(name)
            pictures.append(resize_for_descriptor(crop, input_size))
    return ReadImage(item, panes, pictures, small, views, image.damage)


def _crops(image: DecodedImage, boxes: Sequence[Box], settings: ImageSettings) -> Iterator[tuple[Box, Bytes]]:
    rules = settings.overlay
    height, width = image.pixels.shape[:2]
    for box in choose_crops(
        boxes,
        min_confidence=min(rules.global_confidence, rules.local_confidence),
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
