"""The similarity matrix of two videos as a small picture whose rows and columns have equal lengths in seconds."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from copytrace.alignment.segments import SimilarityMatrix

# Colors from unrelated (0, dark) to equal (1, light), in one hue, so that colored segments stand out everywhere.
SHADES = ((11, 15, 20), (24, 38, 52), (54, 84, 104), (124, 160, 174), (236, 246, 246))


def even_values(matrix: SimilarityMatrix, side: int) -> NDArray[np.uint8]:
    """Return the matrix with rows and columns of equal length in seconds, at most `side` of each, as 0..255.

    Values are clipped to 0..1. Of several frames in one row or column the largest value remains, since a mean would
    blur short copies; seconds without a frame are 0.
    """
    values = np.rint(255 * np.clip(matrix.values, 0, 1)).astype(np.uint8)
    rows_even = _even_rows(values, matrix.query_times, side)
    return np.ascontiguousarray(_even_rows(rows_even.T, matrix.reference_times, side).T)


def _even_rows(values: NDArray[np.uint8], times: NDArray[np.float64], side: int) -> NDArray[np.uint8]:
    count = min(len(times), side)
    edges = np.linspace(times[0, 0], times[-1, 1], count + 1)
    bounds = np.searchsorted(times.mean(axis=1), edges)
    even = np.zeros((count, values.shape[1]), np.uint8)
    for index in range(count):
        first, end = bounds[index], bounds[index + 1]
        if first == end:  # no frame has its middle here, but one may still cover it
            middle = (edges[index] + edges[index + 1]) / 2
            end = int(np.searchsorted(times[:, 0], middle, side="right"))
            first = end - 1
            if times[first, 1] <= middle:
                continue
        even[index] = values[first:end].max(axis=0)
    return even


def similarity_picture(values: NDArray[np.uint8]) -> str:
    """Return `even_values` in `SHADES` as base64 of a lossless WebP picture."""
    ramp = np.linspace(0, 255, len(SHADES))
    palette = [np.interp(np.arange(256), ramp, channel) for channel in np.array(SHADES).T]
    shaded = np.rint(np.stack(palette, axis=1)).astype(np.uint8)[values]
    encoded = io.BytesIO()
    Image.fromarray(shaded).save(encoded, "WEBP", lossless=True, quality=80, method=4)
    return base64.b64encode(encoded.getvalue()).decode()
