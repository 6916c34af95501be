"""Conversion of what Pillow decodes into 8-bit RGB: gray of any depth, palettes, transparency."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from copytrace.errors import MediaError
from copytrace.media.pillow_memory import pixels_of_rgb
from copytrace.media.transparency import choose_ground

Pixels = npt.NDArray[np.uint8]

# Bits per value that cameras, scanners and microscopes use; files with 16 bits often hold values of fewer.
_DEPTHS = (8, 10, 12, 14, 16)
_RANGE_TOPS = (1.0, *(float((1 << depth) - 1) for depth in _DEPTHS))
_LEAST_SHARE = 0.25  # of its range that a picture fills; one that fills less is stretched to its own extremes
_OUTLIERS = 0.1  # percent of the values at each end that may be anything, such as marks for missing data
_SAMPLE = 1 << 20  # values from which extremes are estimated


def to_rgb(image: Image.Image) -> Pixels:
    """Return the pixels of an opened picture as uint8 RGB [H, W, 3]; load them if that has not been done.

    Gray of more than 8 bits is scaled from the smallest usual range (0 to 1, or 8, 10, 12, 14 or 16 bits) that
    contains its values, or from its own extremes if it fills less than a quarter of that; NaN and infinity count as 0.
    Transparent pictures are laid on the ground that `choose_ground` returns. Color profiles are not applied.

    Raises `MediaError` for LAB colors.
    """
    if image.mode.startswith("I;16"):
        return _gray_to_rgb(_short_to_bytes(np.asarray(image), _stated_depth(image)))
    if image.mode in {"I", "F"}:
        return _gray_to_rgb(_scale_to_bytes(np.asarray(image)))
    if image.mode == "LAB":
        raise MediaError("LAB colors are not supported; convert the file to RGB")
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        backdrop = Image.new("RGB", image.size, (choose_ground(np.asarray(image)),) * 3)
        backdrop.paste(image, mask=image.getchannel("A"))
        image = backdrop
    return pixels_of_rgb(image if image.mode == "RGB" else image.convert("RGB"))


def _gray_to_rgb(gray: Pixels) -> Pixels:
    return np.repeat(gray[..., np.newaxis], 3, axis=2)


def _stated_depth(image: Image.Image) -> int | None:
    """Return the bits per value that a TIFF states, if they are fewer than 16."""
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(ExifTags.Base.BitsPerSample, (16,))
    return bits[0] if len(bits) == 1 and bits[0] in _DEPTHS[:-1] else None


def _short_to_bytes(values: npt.NDArray[np.uint16], depth: int | None) -> Pixels:
    """Return 16-bit values in 8 bits; those that are 16-bit by their range keep their high byte."""
    low, high = int(values.min()), int(values.max())
    depth = depth or next(each for each in _DEPTHS if high < 1 << each)
    if high - low >= _LEAST_SHARE * (1 << depth) or low == high:
        return (values >> (depth - 8)).astype(np.uint8)
    return _scale_to_bytes(values)


def _scale_to_bytes(values: npt.NDArray[Any]) -> Pixels:
    values = np.nan_to_num(values.astype(np.float64), copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    top = next((top for top in _RANGE_TOPS if low >= 0 and high <= top), None)
    if top is None or 0 < high - low < _LEAST_SHARE * top:
        low, high = _extremes(values)
        values, top = np.clip(values, low, high) - low, (high - low) or 1.0
    return np.rint(values * 255.0 / top).astype(np.uint8)


def _extremes(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the least and the greatest value, without outliers if there are many values between."""
    sample = values.ravel()[:: max(1, values.size // _SAMPLE)]
    low = float(np.percentile(sample, _OUTLIERS, method="lower"))
    high = float(np.percentile(sample, 100 - _OUTLIERS, method="higher"))
    return (low, high) if low < high else (float(values.min()), float(values.max()))
