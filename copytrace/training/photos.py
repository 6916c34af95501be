"""Split of photos into those for training and those for validation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from configs.training import PhotoSettings
from copytrace.errors import InputError
from copytrace.media.decode import decode_image
from copytrace.media.files import MediaItem, list_media
from copytrace.media.stamps import size_and_time
from copytrace.storage import digest_of


@dataclass(frozen=True, slots=True)
class TrainingPhoto:
    """A photo for training or validation.

    Pictures that may show the same scene, such as stills of a video, share a `group`: that of their subfolder if photos
    are grouped by folder. They never count as different photos.
    """

    id: str
    path: str
    group: str


@dataclass(frozen=True, slots=True)
class PhotoSplit:
    """Photos for training and for validation, without a common group, and digests of each with their content."""

    train: list[TrainingPhoto]
    validation: list[TrainingPhoto]
    digest: str
    validation_digest: str


def split_photos(source: str, settings: PhotoSettings) -> PhotoSplit:
    """List the photos of `source` (see `list_media`) and hold out some groups.

    The names of the groups decide which of them validate, so that photos that are added later do not change the split
    of the others. Raises `InputError` when either side is left with fewer than two photos.
    """
    items = list_media(source, "image")
    photos = [TrainingPhoto(item.id, item.path, _photo_group(item, settings.grouped)) for item in items]
    held_out = {photo.group for photo in photos if _hash_share(photo.group) < settings.validation_share}
    validation: dict[str, TrainingPhoto] = {}  # one per group, as the others would be near-duplicates
    for photo in sorted(photos, key=lambda photo: _hash_share(photo.id)):
        if photo.group in held_out and len(validation) < settings.validation_limit:
            validation.setdefault(photo.group, photo)
    train = [photo for photo in photos if photo.group not in held_out]
    if min(len(train), len(validation)) < 2:
        raise InputError(
            f"{len(photos)} photos leave {len(train)} for training and {len(validation)} for validation; "
            "give more photos, or another photos.validation_share"
        )
    stamps = {item.id: size_and_time(item.stamp) for item in items}
    chosen = sorted(validation.values(), key=lambda photo: photo.id)
    return PhotoSplit(
        train,
        chosen,
        digest_of([(photo.id, stamps[photo.id]) for photo in train]),
        digest_of([(photo.id, stamps[photo.id]) for photo in chosen]),
    )


def load_photo(path: str, long_side: int) -> Image.Image:
    """Decode a photo as RGB, reduced to a long side of `long_side` pixels. Raises `MediaError` if it is unreadable."""
    image = Image.fromarray(decode_image(path, short_side=long_side).pixels)
    image.thumbnail((long_side, long_side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return image


def random_generator(*numbers: int) -> np.random.Generator:
    """Return a generator for one example: the same numbers (seed, epoch, index…) draw the same edits."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(numbers)))


def group_numbers(photos: Sequence[TrainingPhoto]) -> np.ndarray:
    """Return int64 [N], the same number for all photos of a group."""
    return np.unique([photo.group for photo in photos], return_inverse=True)[1].astype(np.int64)


def _photo_group(item: MediaItem, grouped: str) -> str:
    return item.id.rpartition("/")[0] or item.id if grouped == "folder" else item.id


def _hash_share(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big") / (1 << 56)
