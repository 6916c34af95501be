"""Small pictures for the reports: decoded once per file, encoded as WebP, ready to embed in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from copytrace.errors import MediaError
from copytrace.media.decode import decode_image
from copytrace.progress import Progress, SilentProgress

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
    """A picture that cannot be shown, and the one-line reason."""

    reason: str


def make_thumbnail(path: str, side: int) -> Thumbnail | Unreadable:
    """Return the picture at `path`, its longer side at most `side` pixels, or why it cannot be read."""
    try:
        pixels = decode_image(path, short_side=side).pixels
    except MediaError as error:
        return Unreadable(str(error))
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP", quality=WEBP_QUALITY)
    return Thumbnail(picture.width, picture.height, base64.b64encode(encoded.getvalue()).decode())


def make_thumbnails(
    paths: Sequence[str], side: int, *, progress: Progress | None = None
) -> dict[str, Thumbnail | Unreadable]:
    """Return one thumbnail per distinct path, in the order of `paths`.

    The same files give the same bytes on the same machine and versions.

    Full-size pictures live only as long as it takes to shrink them, at most `THREADS` at a time.
    """
    distinct = list(dict.fromkeys(paths))
    thumbnails: dict[str, Thumbnail | Unreadable] = {}
    with (
        (progress or SilentProgress()).stage("pictures of the report", len(distinct), "pictures") as stage,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        for path, thumbnail in zip(
            distinct, threads.map(lambda path: make_thumbnail(path, side), distinct), strict=True
        ):
            thumbnails[path] = thumbnail
            stage.advance()
    return thumbnails
