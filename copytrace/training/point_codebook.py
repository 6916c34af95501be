"""Training of a codebook of local points from photographs that belong to no library."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from configs.images import ImageSettings
from copytrace.arrays import Floats, Numbers
from copytrace.errors import InputError, MediaError
from copytrace.features.points import DIMENSIONS, Bytes, find_points
from copytrace.features.variants import fit_canonical_form
from copytrace.index.image_index import WORKING_SIDE, ImageIndex
from copytrace.index.point_quantizer import LENGTHS, PointCode
from copytrace.media.decode import decode_image
from copytrace.step import current_progress
from copytrace.storage import atomic_path, resolve_path
from models.point_codebook import PointCodebook, write_point_codebook

# Of 7,400 pairs of points of edited photos, 4 in 100 have projections with different signs and none within these
# margins, in standard deviations of the projection: a query's point has 1.5 forms on average.
MARGINS = (0.35, 0.25)
PRODUCTS, CODED_DIMENSIONS = 30, 120
ROTATION_ROUNDS = 12
GRID = np.float32(1 / 8)  # sums of multiples of it are exact, and do not depend on their order
LENGTHS_BEYOND = 0.001  # share of squared lengths on each side that the code cuts off
CODED_POINTS = 1 << 17  # to which codes are fitted
POINTS_AT_ONCE = 1 << 14
POINTS_PER_CENTER = 256
ROUNDS = 12
SEED = 1


@dataclass(frozen=True, slots=True)
class CodebookSize:
    """The number of cells, of lists of each cell, of fine lists of each list, and of points of the sample."""

    cells: int = 64
    lists: int = 64
    fine: int = 16
    sample: int = 1 << 14


def train_point_codebook(index: str | Path, out: str | Path, size: CodebookSize | None = None) -> Path:
    """Fit a codebook to the points of an index of photographs, write it to the file `out`, and return the path.

    The photographs should show what the library shows, but be others: a vote counts only as far as its point is nearer
    than the points of these. Lists are found by k-means, one level within the other, from points of the photographs and
    of their quarters, which are read once more; the sample has points of whole photographs. Raises `InputError` if
    there are fewer points than the sample needs.
    """
    size = size or CodebookSize()
    photos = ImageIndex.open(resolve_path(index))
    with current_progress().step("train codebook", len(photos.items) + size.cells + 2, "parts") as shown:
        whole = np.concatenate([np.zeros((0, DIMENSIONS), np.uint8), *_whole(photos)])
        if len(whole) < size.sample:
            raise InputError(
                f"{index} holds {len(whole):,} points, and a codebook needs {size.sample:,}; index more photos"
            )
        parts = [whole]
        for quarters in _quarters(photos):
            parts.append(quarters)
            shown.advance()
        random = np.random.default_rng(SEED)
        form = fit_canonical_form(whole, np.array(MARGINS, np.float32))
        points = form.of(random.permutation(np.concatenate(parts)))[0].astype(np.float32)
        sample = form.of(random.permutation(whole)[: size.sample])[0].astype(np.float32)
        cells = np.rint(_centers(points, size.cells))
        members = _nearest(points, cells)
        lists = []
        for cell in range(size.cells):
            lists.append(np.rint(_centers(points[members == cell], size.lists)))
            shown.advance()
        coarse = np.concatenate(lists)
        fine = _divide(points, coarse, size.fine)
        shown.advance()
        middle = np.rint(sample.mean(axis=0, keepdims=True))
        some = points[:CODED_POINTS]
        nearest = _nearest(some, coarse)
        code = _fit_code(some, coarse[nearest])
        fine_code = _fit_code(some, _nearest_inside(some, fine, nearest, size.fine))
        sample_code = _fit_code(sample, np.repeat(middle, len(sample), axis=0))
        codebook = PointCodebook(
            *(form.axes, form.margins, cells),
            *(coarse, code.products, code.lengths),
            *(fine, fine_code.products, fine_code.lengths),
            *(middle, sample_code.products, sample_code.lengths),
            sample_code.encode(sample, np.repeat(middle, len(sample), axis=0)),
        )
        shown.advance()
    with atomic_path(resolve_path(out)) as temporary:
        write_point_codebook(temporary, codebook)
    return resolve_path(out)


def _whole(photos: ImageIndex) -> Iterator[Bytes]:
    for shard in photos.shards:
        for view in photos.views(shard):
            yield view.points.descriptor


def _quarters(photos: ImageIndex) -> Iterator[Bytes]:
    """Yield the points of the quarters of each photograph, enlarged: three times as many as of the whole."""
    settings = ImageSettings()
    for path in photos.paths.values():
        try:
            pixels = decode_image(path, short_side=WORKING_SIDE, max_pixels=settings.media.max_pixels).pixels
        except MediaError:
            yield np.zeros((0, DIMENSIONS), np.uint8)
            continue
        middle = pixels.shape[0] // 2, pixels.shape[1] // 2
        quarters = [
            np.ascontiguousarray(pixels[rows, columns])
            for rows in (slice(middle[0]), slice(middle[0], None))
            for columns in (slice(middle[1]), slice(middle[1], None))
        ]
        yield np.concatenate([find_points(each, settings.local.reference_points).descriptor for each in quarters])


def _divide(points: Floats, lists: Floats, count: int) -> Floats:
    """Return `count` centers for each list, float32 [L * count, 128], one list after another."""
    members = _nearest(points, lists)
    order = np.argsort(members, kind="stable")
    bounds = np.searchsorted(members[order], np.arange(len(lists) + 1))
    centers = []
    for number, center in enumerate(lists):
        inside = points[order[bounds[number] : bounds[number + 1]]]
        few = inside if len(inside) else center[None]
        centers.append(_centers(inside, count) if len(inside) >= count else np.resize(few, (count, DIMENSIONS)))
    return np.asarray(np.rint(np.concatenate(centers)), np.float32)


def _nearest_inside(points: Floats, fine: Floats, nearest: Numbers, count: int) -> Floats:
    """Return the nearest fine center of each point in its nearest list, float32 [N, 128]."""
    centers = np.zeros_like(points)
    for start in range(0, len(points), POINTS_AT_ONCE):
        part = slice(start, start + POINTS_AT_ONCE)
        children = fine.reshape(-1, count, DIMENSIONS)[nearest[part]]
        distance = ((points[part, None] - children) ** 2).sum(axis=2)
        centers[part] = children[np.arange(len(children)), distance.argmin(axis=1)]
    return centers


def _fit_code(points: Floats, centers: Floats) -> PointCode:
    """Return the code of the differences of points from the centers of their lists (OPQ, Ge et al. 2013)."""
    differences = points - centers
    rotation: Any = faiss.OPQMatrix(DIMENSIONS, PRODUCTS, CODED_DIMENSIONS)
    quantizer: Any = faiss.ProductQuantizer(CODED_DIMENSIONS, PRODUCTS, 4)
    quantizer.cp.seed, quantizer.cp.min_points_per_centroid = SEED, 1  # no warning: small samples are fine
    rotation.niter, rotation.pq = ROTATION_ROUNDS, quantizer
    rotation.train(differences)
    quantizer.train(rotation.apply(differences))
    turned = faiss.vector_to_array(quantizer.centroids).reshape(PRODUCTS, 16, CODED_DIMENSIONS // PRODUCTS)
    axes = faiss.vector_to_array(rotation.A).reshape(PRODUCTS, -1, DIMENSIONS)
    products = np.rint(np.einsum("mkd,mdn->mkn", turned, axes) / GRID).astype(np.float32) * GRID
    coded = PointCode(products, np.zeros(2, np.float32)).nearest(differences)[1] + centers
    lowest, highest = np.quantile((coded**2).sum(axis=1), [LENGTHS_BEYOND, 1 - LENGTHS_BEYOND])
    step = np.ceil((highest - lowest) / (LENGTHS - 1) / GRID) * GRID
    return PointCode(products, np.floor(lowest) + np.array([0, (LENGTHS - 1) * step], np.float32))


def _centers(points: Floats, count: int) -> Floats:
    clustering: Any = faiss.Clustering(DIMENSIONS, count)
    clustering.niter, clustering.seed = ROUNDS, SEED
    clustering.min_points_per_centroid = 1  # no warning: small cells are fine
    clustering.max_points_per_centroid = POINTS_PER_CENTER
    clustering.train(points, faiss.IndexFlatL2(DIMENSIONS))
    centers: Floats = faiss.vector_to_array(clustering.centroids).reshape(count, DIMENSIONS)
    return centers


def _nearest(points: Floats, centers: Floats) -> Numbers:
    index: Any = faiss.IndexFlatL2(DIMENSIONS)
    index.add(np.ascontiguousarray(centers, np.float32))
    _, nearest = index.search(points, 1)
    numbers: Numbers = nearest[:, 0]
    return numbers
