"""Speed of each stage of image matching, beside what it could reach at best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import faiss
import numpy as np
import onnxruntime
import pyarrow as pa

from benchmarks.evaluation_sets import choose_set
from benchmarks.results import Row, Section, beside_limit
from benchmarks.timing import fewest_seconds
from configs.images import ImageSettings, PointSettings
from copytrace.features.descriptors import OnnxDescriptor, descriptor_graph
from copytrace.features.points import find_points
from copytrace.features.variants import PLAIN
from copytrace.index.image_reading import WORKING_SIDE
from copytrace.index.image_segments import Segment
from copytrace.index.point_lists import PointLists
from copytrace.matching.verification import squared_distances, verify
from copytrace.media.decode import decode_image
from copytrace.media.files import list_media
from copytrace.runtime import WEIGHTS
from copytrace.search.descriptor_search import DescriptorSearch
from models.configs import read_descriptor_config
from models.export import DESCRIPTOR_OUTPUT, INPUT

PICTURES = 24
VECTORS, SEARCHED = 200_000, 16  # descriptors in the index, and query descriptors
VERIFIED = 60  # pairs


def measure(given: Sequence[Path], work: Path) -> list[Section]:
    """Measure the stages on the first pictures of a set."""
    cv2.setNumThreads(1)
    faiss.omp_set_num_threads(1)
    paths = [item.path for item in list_media(choose_set("images", given, work).references)][:PICTURES]
    pictures = [decode_image(path, short_side=WORKING_SIDE).pixels for path in paths]
    rows = [
        _reading(paths),
        _points(pictures),
        _description(pictures),
        _descriptor_search(),
        _verification(pictures),
    ]
    text = "The limit is what the library below a stage does alone, with everything ready in memory."
    return [Section("Speed of the stages of image matching", text, rows)]


def _reading(paths: Sequence[str]) -> Row:
    ours, bare = fewest_seconds(
        [
            lambda: [decode_image(path, short_side=WORKING_SIDE) for path in paths],
            lambda: [cv2.imread(path, cv2.IMREAD_COLOR) for path in paths],
        ]
    )
    count = len(paths)
    return beside_limit("reading", count / ours, count / bare, "pictures/s", "OpenCV's decoder, without checks")


def _points(pictures: Sequence[np.ndarray]) -> Row:
    settings = ImageSettings().local.reference_points
    gray = [_reduce_to_gray(picture, settings) for picture in pictures]
    sift = cv2.SIFT.create(settings.max_points, settings.levels, settings.contrast, settings.edge, 1.6)
    ours, bare = fewest_seconds(
        [
            lambda: [find_points(picture, settings) for picture in pictures],
            lambda: [sift.detectAndCompute(picture, None) for picture in gray],
        ]
    )
    count = len(pictures)
    return beside_limit("points", count / ours, count / bare, "pictures/s", "OpenCV's SIFT on ready gray pictures")


def _reduce_to_gray(picture: np.ndarray, settings: PointSettings) -> np.ndarray:
    found = find_points(picture, settings)
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return cv2.resize(gray, (found.width, found.height), interpolation=cv2.INTER_AREA)


def _description(pictures: Sequence[np.ndarray]) -> Row:
    config = read_descriptor_config(WEIGHTS / "descriptor.safetensors", None)
    descriptor = OnnxDescriptor(config, threads=1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(descriptor_graph(config), options, providers=["CPUExecutionProvider"])
    squares = np.stack([descriptor.resize(picture) for picture in pictures])
    batch = ImageSettings().descriptor.batch_size
    starts = range(0, len(pictures), batch)

    def ours() -> None:
        for start in starts:
            part = pictures[start : start + batch]
            descriptor.describe(np.stack([descriptor.resize(each) for each in part]))

    def bare() -> None:
        for start in starts:
            session.run([DESCRIPTOR_OUTPUT], {INPUT: squares[start : start + batch]})

    seconds = fewest_seconds([ours, bare])
    figures = [len(pictures) / each for each in seconds]
    return beside_limit("description", figures[0], figures[1], "pictures/s", "bare ONNX Runtime on ready tensors")


def _descriptor_search() -> Row:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((VECTORS, 256), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = pa.array([str(number) for number in range(VECTORS)], pa.large_string())
    nowhere = PointLists(None, np.ones((VECTORS, 2), np.float32), np.ones(VECTORS, bool))
    search = DescriptorSearch([Segment(ids, vectors.astype(np.float16), nowhere)])
    peer = faiss.IndexFlatIP(256)
    peer.add(vectors)
    queries = vectors[:SEARCHED] + random.normal(0, 0.02, (SEARCHED, 256)).astype(np.float32)
    faiss.cvar.distance_compute_blas_threshold = SEARCHED + 1  # its default takes three times as long here
    ours, bare = fewest_seconds([lambda: search.nearest(queries, 10), lambda: peer.search(queries, 10)])
    what = f"faiss IndexFlatIP, with twice the memory; {SEARCHED} queries at once"
    done = SEARCHED * VECTORS / 1e6
    return beside_limit("search of descriptors", done / ours, done / bare, "million comparisons/s", what)


def _verification(pictures: Sequence[np.ndarray]) -> Row:
    local, rules = ImageSettings().local, ImageSettings().verification
    references = [find_points(picture, local.reference_points) for picture in pictures]
    queries = [find_points(picture[picture.shape[0] // 5 :], local.query_points) for picture in pictures]
    pairs = [(q, r) for q in queries for r in references][:: max(1, len(pictures) ** 2 // VERIFIED)]

    def each(work: Callable[[int], object]) -> Callable[[], object]:
        return lambda: [work(number) for number in range(len(pairs))]

    ours, bare = fewest_seconds(
        [
            each(lambda n: verify(*pairs[n], PLAIN, rules)),
            each(lambda n: squared_distances(pairs[n][0].descriptor, pairs[n][1].descriptor)),
        ]
    )
    what = "the distances of all points of a pair, by one product"
    return beside_limit("verification", len(pairs) / ours, len(pairs) / bare, "pairs/s", what)
