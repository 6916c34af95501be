"""Training of a codebook of local points from photographs that belong to no library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats
from copytrace.errors import InputError
from copytrace.features.points import DIMENSIONS
from copytrace.index.image_index import ImageIndex
from copytrace.step import current_progress
from copytrace.storage import atomic_path, resolve_path
from models.point_codebook import PointCodebook, write_point_codebook

CELLS = 64
LISTS_PER_CELL = 64
SUBSPACES = 32  # of four numbers each, coded by four bits each
SAMPLE = 1 << 16  # points that tell at which distance unrelated points are found
POINTS_PER_CENTER = 256
ROUNDS = 12
SEED = 1


def train_point_codebook(index: str | Path, out: str | Path) -> Path:
    """Fit a codebook to the points of an index of photographs, write it to the file `out`, and return the path.

    The photographs should show what the library shows, but be others: a vote counts only as far as its point is nearer
    than the points of these. Lists are found by k-means in two levels, and the codes by k-means of the differences from
    the lists' centers. Raises `InputError` if there are fewer points than the sample needs.
    """
    photos = ImageIndex.open(resolve_path(index))
    with current_progress().step("train codebook", CELLS + 1, "cells") as shown:
        parts = [view.points.descriptor for shard in photos.shards for view in photos.views(shard)]
        points = np.concatenate([np.zeros((0, DIMENSIONS), np.uint8), *parts]).astype(np.float32)
        if len(points) < SAMPLE:
            raise InputError(
                f"{index} holds {len(points):,} points, and a codebook needs {SAMPLE:,}; index more photos"
            )
        points = points[np.random.default_rng(SEED).permutation(len(points))]
        cells = np.rint(_centers(points, CELLS))
        members = _nearest(points, cells)
        lists = []
        for cell in range(CELLS):
            lists.append(np.rint(_centers(points[members == cell], LISTS_PER_CELL)))
            shown.advance()
        codebook = _with_codes(points, cells.astype(np.float32), np.concatenate(lists).astype(np.float32))
        shown.advance()
    with atomic_path(resolve_path(out)) as temporary:
        write_point_codebook(temporary, codebook)
    return resolve_path(out)


def _with_codes(points: Floats, cells: Floats, lists: Floats) -> PointCodebook:
    sample_lists = _nearest(points, lists)
    rest = points - lists[sample_lists]
    quantizer: Any = faiss.ProductQuantizer(DIMENSIONS, SUBSPACES, 4)
    quantizer.cp.seed, quantizer.cp.min_points_per_centroid = SEED, 1  # no warning: small samples are fine
    quantizer.train(rest)
    products = faiss.vector_to_array(quantizer.centroids).reshape(SUBSPACES, 16, DIMENSIONS // SUBSPACES)
    products = products.astype(np.float16).astype(np.float32)  # as they are stored
    faiss.copy_array_to_vector(products.ravel(), quantizer.centroids)
    codes = quantizer.compute_codes(rest[:SAMPLE])
    return PointCodebook(cells, lists, products, sample_lists[:SAMPLE], codes)


def _centers(points: Floats, count: int) -> Floats:
    clustering: Any = faiss.Clustering(DIMENSIONS, count)
    clustering.niter, clustering.seed = ROUNDS, SEED
    clustering.min_points_per_centroid = 1  # no warning: small cells are fine
    clustering.max_points_per_centroid = POINTS_PER_CENTER
    clustering.train(points, faiss.IndexFlatL2(DIMENSIONS))
    centers: Floats = faiss.vector_to_array(clustering.centroids).reshape(count, DIMENSIONS)
    return centers


def _nearest(points: Floats, centers: Floats) -> NDArray[np.int64]:
    index: Any = faiss.IndexFlatL2(DIMENSIONS)
    index.add(centers)
    _, nearest = index.search(points, 1)
    numbers: NDArray[np.int64] = nearest[:, 0]
    return numbers
