"""Thumbnails for the reports: each file is decoded once and encoded as WebP for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image  # the latter, as Pillow would import all its formats to find this one

from copytrace.errors import MediaError
from copytrace.media.decode import decode_image
from copytrace.step import current_progress

WEBP_QUALITY = 72
THREADS = 4


@dataclass(frozen=True)
class Thumbnail:
    """A picture of `width` x `height` pixels as base64 of WebP bytes."""

    width: int
    height: int
    base64: str


@dataclass(frozen=True)
class Unreadable:
    """The one-line reason why a picture cannot be shown."""

    reason: str


def make_thumbnail(path: str, side: int) -> Thumbnail | Unreadable:
    """Return the picture at `path` with at most `side` pixels each way, or the reason why it cannot be read."""
    try:
        pixels = decode_image(path, short_side=side).pixels
    except MediaError as error:
        return Unreadable(str(error))
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP", quality=WEBP_QUALITY)
    return Thumbnail(picture.width, picture.height, base64.b64encode(encoded.getvalue()).decode())


def make_thumbnails(paths: Sequence[str], side: int) -> dict[str, Thumbnail | Unreadable]:
    """Return one thumbnail per distinct path, in the order of `paths`.

    The same files give the same bytes on the same machine and versions.

    Memory holds at most `THREADS` full-size pictures at a time.
    """
    distinct = list(dict.fromkeys(paths))
    thumbnails: dict[str, Thumbnail | Unreadable] = {}
    with (
        current_progress().step("pictures of the report", len(distinct), "pictures") as step,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        for path, thumbnail in zip(
            distinct, threads.map(lambda path: make_thumbnail(path, side), distinct), strict=True
        ):
            thumbnails[path] = thumbnail
            step.advance()
    return thumbnails
