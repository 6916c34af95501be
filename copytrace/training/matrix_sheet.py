"""A sheet of matrices side by side, as a picture: similarities, heat maps and labels."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats
from copytrace.training.matrix_edits import pad_to_canvas
from models.aligner_network import HIGHEST, LOWEST

TILE, ACROSS = 96, 4  # pixels of a matrix in a sheet, and rows beside each other
WHITE = 255


def similarity_picture(values: Floats) -> Floats:
    """Return similarities as gray levels, 0 to 1, of the range that the networks use."""
    return ((values - LOWEST) / (HIGHEST - LOWEST)).clip(0, 1)


def matrix_sheet(rows: Sequence[tuple[Floats, ...]]) -> NDArray[np.uint8]:
    """Return rows of matrices, 0 to 1, side by side as a picture uint8 [H, W, 3], white elsewhere."""
    tiles = [np.concatenate([_tile(values) for values in row], axis=1) for row in rows]
    tiles += [np.full_like(tiles[0], WHITE)] * (-len(tiles) % ACROSS)
    lines = [np.concatenate(tiles[start : start + ACROSS], axis=1) for start in range(0, len(tiles), ACROSS)]
    return np.repeat(np.concatenate(lines)[..., None], 3, axis=2)


def _tile(values: Floats) -> NDArray[np.uint8]:
    scale = TILE / max(values.shape)
    size = [max(1, round(side * scale)) for side in values.shape]
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    scaled = cv2.resize(values, (size[1], size[0]), interpolation=how).reshape(size)
    shades = pad_to_canvas(np.asarray(scaled - 1, np.float32), TILE + 4) + 1  # what is left of the tile is white
    return np.asarray(np.rint(shades.clip(0, 1) * WHITE), np.uint8)
