"""Training of a codebook of local points from photographs that belong to no library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats
from copytrace.errors import InputError
from copytrace.features.points import DIMENSIONS, MIRRORED_ORDER, NEGATIVE_ORDER
from copytrace.index.image_index import ImageIndex
from copytrace.step import current_progress
from copytrace.storage import atomic_path, resolve_path
from models.point_codebook import PointCodebook, write_point_codebook

CELLS = 64
LISTS_PER_CELL = 64
FINE_PER_LIST = 16
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
        coarse = np.concatenate(lists).astype(np.float32)
        fine = _divide(points, coarse)
        sample_lists, products = _code(points, coarse)
        _, fine_products = _code(points, fine)
        codes = _quantizer(products).compute_codes(points[:SAMPLE] - coarse[sample_lists[:SAMPLE]])
        codebook = PointCodebook(
            cells.astype(np.float32), coarse, products, fine, fine_products, sample_lists[:SAMPLE], codes
        )
        shown.advance()
    with atomic_path(resolve_path(out)) as temporary:
        write_point_codebook(temporary, codebook)
    return resolve_path(out)


def _divide(points: Floats, lists: Floats) -> Floats:
    """Return `FINE_PER_LIST` centers for each list, float32 [L * C, 128], one list after another."""
    # Mirrored and negative photographs have points too, and these few make many centers.
    turned = [points, points[:, MIRRORED_ORDER], points[:, NEGATIVE_ORDER], points[:, MIRRORED_ORDER[NEGATIVE_ORDER]]]
    members = np.concatenate([_nearest(each, lists) for each in turned])
    order = np.argsort(members, kind="stable")
    bounds = np.searchsorted(members[order], np.arange(len(lists) + 1))
    centers = []
    for number, center in enumerate(lists):
        rows = order[bounds[number] : bounds[number + 1]]
        inside = (
            np.stack([turned[row // len(points)][row % len(points)] for row in rows]) if len(rows) else center[None]
        )
        missing = FINE_PER_LIST - len(inside)
        centers.append(
            _centers(inside, FINE_PER_LIST) if missing <= 0 else np.resize(inside, (FINE_PER_LIST, DIMENSIONS))
        )
    fine: Floats = np.rint(np.concatenate(centers)).astype(np.float32)
    return fine


def _code(points: Floats, lists: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Return the list of each point, int64 [N], and the products of what is left, float32 [32, 16, 4]."""
    members = _nearest(points, lists)
    quantizer: Any = faiss.ProductQuantizer(DIMENSIONS, SUBSPACES, 4)
    quantizer.cp.seed, quantizer.cp.min_points_per_centroid = SEED, 1  # no warning: small samples are fine
    quantizer.train(points - lists[members])
    products = faiss.vector_to_array(quantizer.centroids).reshape(SUBSPACES, 16, DIMENSIONS // SUBSPACES)
    return members, products.astype(np.float16).astype(np.float32)  # as they are stored


def _quantizer(products: Floats) -> Any:
    quantizer: Any = faiss.ProductQuantizer(DIMENSIONS, SUBSPACES, 4)
    faiss.copy_array_to_vector(products.ravel(), quantizer.centroids)
    return quantizer


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
