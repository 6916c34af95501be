"""Inverted lists of the frames of videos: a frame is found among those of the few lists that are nearest to it.

They take 2·D + 8 bytes a frame. They are made once, when videos are indexed, and a search maps them into memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats, Numbers
from copytrace.checked_files import checked_copy
from copytrace.errors import CopytraceError
from copytrace.storage import atomic_path

try:
    import faiss
except ImportError as error:  # faiss is an extra: the CPU and GPU builds exclude one another
    raise CopytraceError("faiss is not installed; pip install 'copytrace[cpu]', or [gpu] beside CUDA") from error

SMALLEST_WITH_LISTS = 10_000  # frames; with fewer, comparing with all of them is as fast
TRAINING_ROWS_PER_LIST = 64
SEED = 1234
ROWS_AT_ONCE = 1 << 16


def build_frame_lists(vectors: NDArray[np.float16]) -> Any:
    """Return inverted lists of N frames, float16 [N, D], numbered by their rows.

    They depend on the vectors only: centers come from a sample of rows at even distances, by k-means with a fixed seed.
    """
    count, dimensions = vectors.shape
    # With about √N lists, comparing with their centers costs about as much as comparing with the frames of a few.
    lists = 1 << round(np.log2(2 * count**0.5))
    coarse, kind = faiss.IndexFlatIP(dimensions), faiss.ScalarQuantizer.QT_fp16
    index: Any = faiss.IndexIVFScalarQuantizer(coarse, dimensions, lists, kind, faiss.METRIC_INNER_PRODUCT, False)
    index.cp.niter, index.cp.seed, index.cp.spherical = 10, SEED, True
    index.cp.min_points_per_centroid = 1  # no warning: small lists are fine
    index.train(vectors[:: max(count // (lists * TRAINING_ROWS_PER_LIST), 1)].astype(np.float32))
    for block in _blocks(vectors):
        index.add(block)
    return index


def write_frame_lists(lists: Any, path: Path) -> Path:
    """Write inverted lists and return `path`."""
    with atomic_path(path) as temporary:
        faiss.write_index(lists, str(temporary))
    return path


def read_frame_lists(path: Path, record: Path | None = None) -> Any:
    """Open inverted lists that `write_frame_lists` wrote; local ones stay on disk and are mapped into memory.

    Raises `DamagedFileError` if they are missing, or not what the record says.
    """
    with checked_copy(path, record or path.with_suffix(".json")) as file:
        return faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC if file == path else 0)


def nearest_lists(lists: Any, queries: Floats, count: int) -> Numbers:
    """Return the numbers of the lists whose centers are nearest to each query, int64 [Q, min(count, lists)]."""
    numbers: Numbers = lists.quantizer.search(queries, min(count, lists.nlist))[1]
    return numbers


def frames_of_list(lists: Any, number: int) -> tuple[Numbers, NDArray[np.float16]]:
    """Return the rows int64 [N] and the vectors float16 [N, D] of a list, as they lie in its file."""
    stored, count = lists.invlists, lists.invlists.list_size(number)
    if not count:
        return np.zeros(0, np.int64), np.zeros((0, lists.d), np.float16)
    codes = faiss.rev_swig_ptr(stored.get_codes(number), count * lists.code_size)
    return faiss.rev_swig_ptr(stored.get_ids(number), count), codes.view(np.float16).reshape(count, lists.d)


def _blocks(vectors: NDArray[np.float16]) -> Iterator[Floats]:
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        yield vectors[start : start + ROWS_AT_ONCE].astype(np.float32)
