"""Damaged pictures: the part of them that can be decoded."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
from PIL.ImageFile import ImageFile

from copytrace.media.formats import open_picture

# Formats that are decoded row by row. Of the others, nothing comes out before all of it is decoded.
_BY_ROWS = {"JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM"}
_LEAST_SHARE = 0.1  # of the rows; fewer say too little about the picture
_SAME = 2  # levels; what stands in for lost rows varies by no more

_END_OF_JPEG = b"\xff\xd9"
_JPEG_FILL = 128  # the level of what libjpeg puts in place of lost blocks
_BLOCK, _BLOCK_ROWS = 8, 16  # pixels; a row of blocks has at most as many rows


def salvage(kind: str, stream: IO[bytes], image: ImageFile) -> tuple[ImageFile, slice]:
    """Return a damaged picture and those of its rows that were decoded; none if they are too few.

    `image` is as its failed decoding left it. A progressive JPEG, which stores the whole picture several times and ever
    finer, comes out whole, as fine as it was decoded.
    """
    if kind not in _BY_ROWS or _is_interlaced(kind, image):
        return image, slice(0, 0)
    if kind == "JPEG":
        # libjpeg fills up a picture whose file says that it ends here; what it did not read before, it does not need.
        length = stream.tell()
        stream.seek(0)
        with suppress(Exception):
            whole = open_picture(kind, io.BytesIO(stream.read(length) + _END_OF_JPEG))
            whole.load()
            image = whole
    image.tile = []  # what the decoder wrote before it failed is all that there is
    image.load()
    pixels = np.asarray(image)
    if kind == "BMP":  # its rows are stored from the bottom
        return image, _slice(len(pixels) - _count_decoded(pixels[::-1]), len(pixels), len(pixels))
    decoded = _count_decoded(pixels)
    return image, _slice(0, decoded - (_count_cut(pixels[:decoded]) if kind == "JPEG" else 0), len(pixels))


def _slice(start: int, stop: int, rows: int) -> slice:
    return slice(start, stop) if stop - start >= _LEAST_SHARE * rows else slice(0, 0)


def _is_interlaced(kind: str, image: ImageFile) -> bool:
    """Return whether rows are stored in another order than one after the other."""
    if kind == "GIF":
        _, interlaced, *_ = cast(tuple[int, ...], image.tile[0].args)
        return bool(interlaced)
    return kind == "PNG" and bool(image.info.get("interlace"))


def _count_decoded(pixels: npt.NDArray[Any]) -> int:
    """Return the number of rows above the plain ones at the bottom, which stand in for those that are lost."""
    fill = np.asarray(pixels[-1, -1], np.float64)
    for number in range(len(pixels), 0, -1):
        if np.abs(pixels[number - 1] - fill).max() > _SAME:
            return number
    return 0


def _count_cut(pixels: npt.NDArray[Any]) -> int:
    """Return the number of rows at the bottom of a JPEG in which the last blocks are lost."""
    ends = pixels[-_BLOCK_ROWS:, -_BLOCK:].reshape(min(len(pixels), _BLOCK_ROWS), -1)
    lost = np.asarray(np.abs(ends - np.float64(_JPEG_FILL)).max(axis=1) <= _SAME)
    return int(len(lost) - 1 - np.flatnonzero(~lost)[-1]) if not lost.all() else len(lost)
