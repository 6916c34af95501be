"""Places of points: what a search must know of each point, in one whole number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from copytrace.arrays import Floats, Numbers
from copytrace.index.shard_files import View

# 63 bits: the image, the variant that is the point's canonical form, x, y, scale and angle.
PLACE_BITS = {"x": 10, "y": 10, "scale": 8, "angle": 9}
_VARIANT_BITS = 2
IMAGE_SHIFT = _VARIANT_BITS + sum(PLACE_BITS.values())
MOST_IMAGES = 1 << (63 - IMAGE_SHIFT)  # that can be numbered
_SMALLEST_OCTAVE, _OCTAVES = -12.0, 16.0  # of the scale, in short sides


def pack_places(views: Sequence[View], variants: Numbers, first: int) -> Numbers:
    """Return the places int64 [N] of all points of views, whose canonical forms are `variants` int64 [N].

    `first` is the number of the first view.
    """
    geometry = np.concatenate([view.points.relative_geometry() for view in views])
    counts = [len(view.points) for view in views]
    sides = np.array([(view.points.width, view.points.height) for view in views], np.float64)
    extent = np.repeat(sides / sides.min(axis=1, keepdims=True), counts, axis=0)
    octave = (np.log2(np.maximum(geometry[:, 2], 2.0**_SMALLEST_OCTAVE)) - _SMALLEST_OCTAVE) / _OCTAVES
    turn = geometry[:, 3] / (2 * np.pi) % 1
    shares = {"x": geometry[:, 0] / extent[:, 0], "y": geometry[:, 1] / extent[:, 1], "scale": octave, "angle": turn}
    packed = np.repeat(np.arange(first, first + len(views), dtype=np.int64), counts) << _VARIANT_BITS | variants
    for name, bits in PLACE_BITS.items():
        steps = np.floor(shares[name] * (1 << bits)).astype(np.int64)
        packed = packed << bits | np.clip(steps, 0, (1 << bits) - 1)
    return packed


def unpack_places(packed: Numbers, sides: Floats) -> tuple[Numbers, Numbers, Floats]:
    """Return images int64, variants int64 and geometry float32 [..., 4] of places; image −1 stands for no point.

    `sides` float32 [R, 2] are the width and the height of each image.
    """
    rest, shares = packed.copy(), {}
    for name, bits in reversed(PLACE_BITS.items()):
        shares[name] = ((rest & ((1 << bits) - 1)) + 0.5) / (1 << bits)
        rest >>= bits
    variant, image = rest & ((1 << _VARIANT_BITS) - 1), rest >> _VARIANT_BITS
    # Of the images that were found alone: an index may have a million others.
    found = sides[np.maximum(image, 0)] if len(sides) else np.ones((*packed.shape, 2), np.float32)
    extent = found / found.min(axis=-1, keepdims=True)
    scale = 2.0 ** (shares["scale"] * _OCTAVES + _SMALLEST_OCTAVE)
    columns = (shares["x"] * extent[..., 0], shares["y"] * extent[..., 1], scale, shares["angle"] * 2 * np.pi)
    return image, variant, np.stack(columns, axis=-1).astype(np.float32)
