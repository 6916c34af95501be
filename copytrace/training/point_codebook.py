"""Training of a codebook of local points from photographs that belong to no library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from configs.images import ImageSettings
from configs.training import CodebookTraining
from copytrace.arrays import Floats, Numbers
from copytrace.errors import InputError, MediaError
from copytrace.features.points import DIMENSIONS, Bytes, find_points
from copytrace.features.variants import fit_canonical_form
from copytrace.index.image_reading import WORKING_SIDE
from copytrace.index.point_quantizer import LENGTHS, PointCode
from copytrace.media.decode import decode_image
from copytrace.media.files import MediaItem, list_media
from copytrace.media.prefetch import prefetch
from copytrace.runtime import usable_cores
from copytrace.step import Progress, SilentProgress, StepProgress
from copytrace.storage import atomic_path, require_writable
from models.point_codebook import PointCodebook, write_point_codebook

# Of 10,759 pairs of points of edited photos, 2 in 100 have projections with different signs and not within these
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
class CodebookResult:
    """A codebook that was written to `path`: the photos and points that it was fitted to, and the unread photos.

    `failures` are pairs of an id and the reason.
    """

    path: Path
    photos: int
    points: int
    failures: list[tuple[str, str]]


def train_point_codebook(
    photos: str,
    out: str | Path,
    settings: CodebookTraining | None = None,
    progress: Progress | None = None,
) -> CodebookResult:
    """Fit a codebook to the points of `photos` (see `list_media`), and write it to the file `out`.

    The photos should show what the library shows, but be others: a vote counts only as far as its point is nearer than
    the points of these. Lists are found by k-means, one level within the other, from points of the photos and of their
    quarters; the sample has points of whole photos. On one machine, the same photos, settings and number of threads
    give the same file. Raises `InputError` if there are too few points.
    """
    settings, shown = settings or CodebookTraining(), progress or SilentProgress()
    path = require_writable(out)
    items = _choose_photos(list_media(photos, "image"), settings.photos)
    with shown.step("find points", len(items), "photos") as step:
        whole, quarters, failures = _find_all_points(items, step)
    needed = max(settings.sample, settings.cells * settings.lists)
    if len(whole) < needed:
        raise InputError(
            f"{photos} has {len(whole):,} points, and a codebook of this size needs {needed:,}; give more photos, or "
            "lower sample, cells and lists"
        )
    with shown.step("train codebook", settings.cells + 4, "parts") as step:
        codebook = _fit_codebook(whole, quarters, settings, step)
    with atomic_path(path) as temporary:
        write_point_codebook(temporary, codebook)
    return CodebookResult(path, len(items) - len(failures), len(whole) + len(quarters), failures)


def _choose_photos(items: Sequence[MediaItem], most: int) -> list[MediaItem]:
    """Return the photos or, if there are more than `most`, so many of them, drawn at random, in their order."""
    chosen = np.random.default_rng(SEED).permutation(len(items))[:most]
    return [items[number] for number in np.sort(chosen)]


def _find_all_points(items: Sequence[MediaItem], shown: StepProgress) -> tuple[Bytes, Bytes, list[tuple[str, str]]]:
    """Return the points of photos and of their quarters, uint8 [N, 128], and the id and reason of those unread."""
    whole, quarters = [np.zeros((0, DIMENSIONS), np.uint8)], [np.zeros((0, DIMENSIONS), np.uint8)]
    failures: list[tuple[str, str]] = []
    threads = usable_cores()
    for item, found in prefetch(items, _find_points, threads=threads, ahead=2 * threads):
        shown.advance()
        if isinstance(found, MediaError):
            failures.append((item.id, str(found)))
            continue
        whole.append(found[0])
        quarters += found[1:]
    return np.concatenate(whole), np.concatenate(quarters), failures


def _find_points(item: MediaItem) -> list[Bytes]:
    """Return the points of a photo, and of each of its quarters, enlarged: three times as many in all."""
    settings = ImageSettings()
    pixels = decode_image(item.path, short_side=WORKING_SIDE, max_pixels=settings.media.max_pixels).pixels
    middle = pixels.shape[0] // 2, pixels.shape[1] // 2
    quarters = [
        np.ascontiguousarray(pixels[rows, columns])
        for rows in (slice(middle[0]), slice(middle[0], None))
        for columns in (slice(middle[1]), slice(middle[1], None))
    ]
    views = [pixels, *(quarter for quarter in quarters if quarter.size)]
    return [find_points(view, settings.local.reference_points).descriptor for view in views]


def _fit_codebook(whole: Bytes, quarters: Bytes, settings: CodebookTraining, shown: StepProgress) -> PointCodebook:
    random = np.random.default_rng(SEED)
    form = fit_canonical_form(whole, np.array(MARGINS, np.float32))
    points = form.of(random.permutation(np.concatenate([whole, quarters])))[0].astype(np.float32)
    sample = form.of(random.permutation(whole)[: settings.sample])[0].astype(np.float32)
    cells = np.rint(_centers(points, settings.cells))
    shown.advance()
    coarse = _divide(points, cells, settings.lists, shown)
    fine = _divide(points, coarse, settings.fine)
    shown.advance()
    some = points[:CODED_POINTS]
    nearest = _nearest(some, coarse)
    code = _fit_code(some, coarse[nearest])
    shown.advance()
    fine_code = _fit_code(some, _nearest_inside(some, fine, nearest, settings.fine))
    shown.advance()
    middle = np.rint(sample.mean(axis=0, keepdims=True))
    middles = np.repeat(middle, len(sample), axis=0)
    sample_code = _fit_code(sample, middles)
    return PointCodebook(
        *(form.axes, form.margins, cells),
        *(coarse, code.products, code.lengths),
        *(fine, fine_code.products, fine_code.lengths),
        *(middle, sample_code.products, sample_code.lengths),
        sample_code.encode(sample, middles),
    )


def _divide(points: Floats, lists: Floats, count: int, shown: StepProgress | None = None) -> Floats:
    """Return `count` centers for each list, float32 [L * count, 128], one list after another; show each of them."""
    members = _nearest(points, lists)
    order = np.argsort(members, kind="stable")
    bounds = np.searchsorted(members[order], np.arange(len(lists) + 1))
    centers = []
    for number, center in enumerate(lists):
        inside = points[order[bounds[number] : bounds[number + 1]]]
        few = inside if len(inside) else center[None]
        centers.append(_centers(inside, count) if len(inside) >= count else np.resize(few, (count, DIMENSIONS)))
        if shown:
            shown.advance()
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
