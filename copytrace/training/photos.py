"""The photos that a network learns from, and those kept out to validate it on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from configs.training import PhotoSettings
from copytrace.errors import InputError
from copytrace.media.decode import decode_image
from copytrace.media.ingest import MediaItem, list_media
from copytrace.storage import digest_of


@dataclass(frozen=True, slots=True)
class TrainingPhoto:
    """A photo to learn from.

    `group` is shared by pictures that may show the same scene, such as stills of a video: those in one subfolder of
    the source when photos are grouped by folder. They are never taken for different photos.
    """

    id: str
    path: str
    group: str


@dataclass(frozen=True, slots=True)
class PhotoSplit:
    """Photos to learn from and to validate on, which share no group; `digest` names them and their content."""

    train: list[TrainingPhoto]
    validation: list[TrainingPhoto]
    digest: str
    validation_digest: str


def split_photos(source: str, settings: PhotoSettings) -> PhotoSplit:
    """List the photos of `source` (see `list_media`) and keep some groups out.

    Which groups validate depends on their names alone, so photos that are added later leave the others where they
    were. Raises `InputError` when either side is left with fewer than two photos.
    """
    items = list_media(source)
    photos = [TrainingPhoto(item.id, item.path, _group_of(item, settings.grouped)) for item in items]
    kept_out = {photo.group for photo in photos if _draw_of(photo.group) < settings.validation_share}
    validation: dict[str, TrainingPhoto] = {}  # one per group: the others would be near-duplicates of it
    for photo in sorted(photos, key=lambda photo: _draw_of(photo.id)):
        if photo.group in kept_out and len(validation) < settings.validation_limit:
            validation.setdefault(photo.group, photo)
    train = [photo for photo in photos if photo.group not in kept_out]
    if min(len(train), len(validation)) < 2:
        raise InputError(
            f"{len(photos)} photos leave {len(train)} to learn from and {len(validation)} to validate on; "
            "give more photos, or another photos.validation_share"
        )
    stamps = {item.id: item.stamp for item in items}
    chosen = sorted(validation.values(), key=lambda photo: photo.id)
    return PhotoSplit(
        train,
        chosen,
        digest_of([(photo.id, stamps[photo.id]) for photo in train]),
        digest_of([(photo.id, stamps[photo.id]) for photo in chosen]),
    )


def load_photo(path: str, long_side: int) -> Image.Image:
    """Decode a photo as RGB, reduced to a long side of `long_side` pixels; raises `MediaError` if it cannot be read."""
    image = Image.fromarray(decode_image(path, short_side=long_side).pixels)
    image.thumbnail((long_side, long_side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return image


def generator_for(*numbers: int) -> np.random.Generator:
    """A generator of its own for each example: the same numbers (seed, epoch, index…) draw the same edits."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(numbers)))


def groups_of(photos: Sequence[TrainingPhoto]) -> np.ndarray:
    """Return int64 [N], the same number for photos of one group."""
    return np.unique([photo.group for photo in photos], return_inverse=True)[1].astype(np.int64)


def _group_of(item: MediaItem, grouped: str) -> str:
    return item.id.rpartition("/")[0] or item.id if grouped == "folder" else item.id


def _draw_of(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big") / (1 << 56)
