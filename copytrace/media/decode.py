"""Decoding of an image file, local or remote, into RGB pixels, in a process of its own; errors become one line."""

from __future__ import annotations

from dataclasses import dataclass

from copytrace.media.decoding_limits import DEFAULT_LIMITS, DecodingLimits
from copytrace.media.decoding_pool import decode
from copytrace.media.rgb import Pixels


@dataclass(frozen=True)
class DecodedImage:
    """Pixels of an image, uint8 RGB [H, W, 3], possibly reduced, and the size of the original in pixels.

    Both are upright: the EXIF orientation has been applied. `damage` says in one line what is wrong with the file, if
    it could not be decoded to its end; then the pixels, and the size, are of the part that could.
    """

    pixels: Pixels
    width: int
    height: int
    damage: str | None = None


def decode_image(
    path: str,
    *,
    short_side: int | None = None,
    max_pixels: int = 200_000_000,
    limits: DecodingLimits = DEFAULT_LIMITS,
) -> DecodedImage:
    """Decode a local file or a URI that fsspec opens; of several pages, decode the first.

    Of an animation, the first frame is decoded or, if that is plain, the one of the first frames with most contrast.
    Colors become RGB as `to_rgb` says. With `short_side` (pixels), an image whose shorter side is longer is reduced to
    exactly that by area averaging; no image is enlarged. Of a damaged file, what could be decoded is returned, and
    `damage` says so.

    Raises `NotMediumError` if the file is no image by its content and has no image's name. Raises `MediaError` with a
    one-line reason, without the path, if the file is missing, unreadable, not an image, damaged so that too little of
    it can be decoded, has a side under 8 pixels, has more than `max_pixels` pixels, crashes the decoder, or exceeds the
    `limits`. The number of pixels is read in its header, before anything is decoded.
    """
    settings = {"short_side": short_side, "max_pixels": max_pixels}
    ((facts, (pixels,)),) = decode("picture", path, settings, limits=limits)
    return DecodedImage(pixels, facts["width"], facts["height"], facts["damage"])
