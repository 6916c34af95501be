"""The search of points beside peers of faiss: speed, memory and recall, at the same points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import faiss
import numpy as np
import pyarrow as pa

from benchmarks.evaluation_sets import choose_set
from benchmarks.results import Figure, Row, Section
from benchmarks.timing import cpu_seconds, fewest_seconds
from configs.images import ImageSettings
from copytrace.errors import MediaError
from copytrace.features.points import DIMENSIONS, find_points
from copytrace.index.image_segments import Segment
from copytrace.index.point_lists import CodedPoints, PointLists, read_lists
from copytrace.index.point_quantizer import shipped_quantizer
from copytrace.index.shard_files import View
from copytrace.media.decode import decode_image
from copytrace.media.files import list_media
from copytrace.search.point_search import FoundPoints, ListSearch

TILES, TILE_SIDE = 4, 100  # of a side of a picture; least pixels of a tile's side
MOST_VIEWS = 300
QUERY_POINTS = 8000
NEIGHBOURS = 10
QUANTIZED, CODE_BYTES, LINKS = 1024, 16, 32  # lists and bytes of IVFPQ, links of HNSW


@dataclass(frozen=True)
class Built:
    """A search of descriptors uint8 [Q, 128], which `pictures` turns into numbers of pictures, int64 [Q, 10].

    `seconds` are those that it took to build, and `size` is in bytes per point.
    """

    search: Callable[[np.ndarray], Any]
    pictures: Callable[[Any], np.ndarray]
    seconds: float
    size: float


def measure(given: Sequence[Path], work: Path) -> list[Section]:
    """Measure all searches on points of tiles of pictures, whose edited copies are the queries."""
    faiss.omp_set_num_threads(1)
    cv2.setNumThreads(1)
    paths = [item.path for item in list_media(choose_set("images", given, work).references)]
    views, queries, truth = _points(paths)
    points = np.concatenate([view.points.descriptor for view in views]).astype(np.float32)
    owner = np.repeat(np.arange(len(views)), [len(view.points) for view in views])
    made = {"Copytrace": _ours(views, work)}
    for name, build in (("faiss exact", _exact), ("faiss IVFPQ", _ivfpq), ("faiss HNSW", _hnsw)):
        begin = cpu_seconds()
        made[name] = _peer(build(points), owner, begin)
    exact = made["faiss exact"]
    right = exact.pictures(exact.search(queries))[:, 0] == truth
    queries, truth = queries[right], truth[right]
    seconds = fewest_seconds([partial(each.search, queries) for each in made.values()])
    rows = []
    for (name, built), took in zip(made.items(), seconds, strict=True):
        found = built.pictures(built.search(queries))
        figures: dict[str, Figure] = {
            "recall": float((found == truth[:, None]).any(axis=1).mean()),
            "query points/s": len(queries) / took,
            "bytes/point": built.size,
            "seconds to build": built.seconds,
        }
        rows.append(Row(name, figures))
    text = (
        f"{len(points):,} points of {len(views)} pictures, on one core. The {len(queries):,} query points are of "
        "edited copies whose exactly nearest point is of the copied picture. *Recall*: that picture is among the ten "
        "nearest found. Copytrace finds points of mirrored and negative copies in the same search, for which the "
        "others must search four times; its lists and codes were trained on other pictures, those of IVFPQ on these "
        "points. Its bytes include the place of a point, and room for a multiple of 32 points in each of 4,096 lists, "
        "which counts little in large indexes."
    )
    return [Section("Search of points beside its peers", text, rows)]


def _points(paths: Sequence[str]) -> tuple[list[View], np.ndarray, np.ndarray]:
    """Return a view for each tile of pictures, and query points of edited tiles with the number of their view."""
    settings, views, edited = ImageSettings().local, [], []
    for path in paths:
        try:
            pixels = decode_image(path).pixels
        except MediaError:
            continue
        for rows in np.array_split(pixels, TILES):
            for tile in np.array_split(rows, TILES, axis=1):
                if min(tile.shape[:2]) < TILE_SIDE or len(views) == MOST_VIEWS:
                    continue
                found = find_points(np.ascontiguousarray(tile), settings.reference_points)
                edited.append(find_points(_edit(tile), settings.query_points).descriptor)
                views.append(View(str(len(views)), "whole", found))
    numbers = np.repeat(np.arange(len(views)), [len(each) for each in edited])
    chosen = np.random.default_rng(0).permutation(len(numbers))[:QUERY_POINTS]
    return views, np.concatenate(edited)[chosen], numbers[chosen]


def _edit(tile: np.ndarray) -> np.ndarray:
    smaller = cv2.resize(np.ascontiguousarray(tile), None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    brighter = cv2.convertScaleAbs(smaller, alpha=1.2, beta=10)
    return cv2.imdecode(cv2.imencode(".jpg", brighter, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_COLOR)


def _ours(views: list[View], work: Path) -> Built:
    begin, quantizer = cpu_seconds(), shipped_quantizer()
    coded = CodedPoints(quantizer.coarse, sum(len(view.points) for view in views))
    coded.add_views(quantizer.canonical_form, views)
    path = coded.write(work / "some.points")
    sides = np.array([(view.points.width, view.points.height) for view in views], np.float32)
    ids = pa.array([view.id for view in views], pa.large_string())
    lists = PointLists(read_lists(path, quantizer), sides, np.ones(len(views), bool))
    segment = Segment(ids, np.zeros((len(views), 2), np.float16), lists)
    index = ListSearch.of([segment], quantizer, lists_searched=ImageSettings().local.lists_searched)
    seconds, held = cpu_seconds() - begin, sum(len(view.points) for view in views)
    search = partial(index.search, neighbours=NEIGHBOURS)
    return Built(search, _best_ten, seconds, path.stat().st_size / held)


def _best_ten(found: FoundPoints) -> np.ndarray:
    """Return the ten nearest pictures of each query point, from its rows of several forms, int64 [Q, 10]."""
    query = np.repeat(found.query, found.image.shape[1])
    order = np.lexsort((found.distance.ravel(), query))
    starts = np.searchsorted(query[order], np.arange(found.query.max() + 1))
    return np.asarray(found.image.ravel()[order[starts[:, None] + np.arange(NEIGHBOURS)]])


def _peer(index: faiss.Index, owner: np.ndarray, begin: float) -> Built:
    seconds = cpu_seconds() - begin

    def search(descriptors: np.ndarray) -> np.ndarray:
        return np.asarray(index.search(descriptors.astype(np.float32), NEIGHBOURS)[1])

    size = len(faiss.serialize_index(index)) / index.ntotal
    return Built(search, lambda found: np.append(owner, -1)[found], seconds, size)


def _exact(points: np.ndarray) -> faiss.Index:
    index = faiss.IndexFlatL2(DIMENSIONS)
    index.add(points)
    return index


def _ivfpq(points: np.ndarray) -> faiss.Index:
    index = faiss.IndexIVFPQ(faiss.IndexFlatL2(DIMENSIONS), DIMENSIONS, QUANTIZED, CODE_BYTES, 8)
    index.cp.min_points_per_centroid = 1  # no warning
    index.train(points)
    index.add(points)
    index.nprobe = ImageSettings().local.lists_searched
    return index


def _hnsw(points: np.ndarray) -> faiss.Index:
    index = faiss.IndexHNSWFlat(DIMENSIONS, LINKS)
    index.hnsw.efSearch = 64
    index.add(points)
    return index
