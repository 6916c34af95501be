"""Time and memory of the steps of both challenges at their size, on drawn descriptors among which copies are planted.

Images: 1,000,000 references of 256 numbers and 50,000 queries, a fifth of them copies. Videos: 1.26 million reference
frames of 512 numbers, a tenth as many noise frames, and 8,000 queries of 40 frames, a quarter of which copy 12 frames.
COPYTRACE_QUERY_SHARE=0.1 takes a tenth of the queries; references stay whole. Each step runs in a process of its own.
Networks and points are not part of it: what `published_networks` and `growth` measure is to be added per picture.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.results import Row, Section
from benchmarks.timing import cpu_seconds
from configs.load import load_settings
from configs.videos import VideoSettings
from copytrace.exchange.hdf5_files import write_hdf5
from copytrace.exchange.npz_exchange import import_npz
from copytrace.index.image_segments import Segment
from copytrace.index.media_index import shards_of
from copytrace.index.point_lists import PointLists
from copytrace.memory import peak_memory_mib
from copytrace.metrics.descriptor_evaluation import evaluate_image_descriptors, evaluate_video_descriptors
from copytrace.run_folder import VideoRunFolder
from copytrace.search.descriptor_search import DescriptorSearch
from copytrace.search.video_candidates import read_video_candidates, search_frames

SHARE = float(os.environ.get("COPYTRACE_QUERY_SHARE", "1"))
IMAGES, IMAGE_QUERIES, IMAGE_SHARD, IMAGE_NEIGHBOURS = 1_000_000, round(50_000 * SHARE), 4096, 76
VIDEOS, NOISE_VIDEOS, QUERY_VIDEOS = 40_318, 4_032, round(8_000 * SHARE)
FRAMES, QUERY_FRAMES, COPIED = 31, 40, 12  # of a reference, of a query, and of a copy
LIKENESS = 0.75  # cosine of a copy and its original
LIKE_NEXT = 0.8  # cosine of a frame and its video's mean: frames of one video are alike
DRAWN = 1 << 16  # vectors drawn at a time

Floats = NDArray[np.float32]


def measure(given: Sequence[Path], work: Path) -> list[Section]:
    """Draw the descriptors, and measure each step in a process of its own."""
    rows = []
    for name, step in STEPS.items():
        command = [sys.executable, "-m", "benchmarks.challenge_size", name, str(work)]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        if step.__name__.startswith("draw"):
            continue
        rows.append(Row(name, json.loads(answer.splitlines()[-1])))
    text = (
        f"{IMAGES:,} references of 256 numbers and {IMAGE_QUERIES:,} queries; {VIDEOS:,} reference videos of {FRAMES} "
        f"frames of 512 numbers, {NOISE_VIDEOS:,} of noise, and {QUERY_VIDEOS:,} queries of {QUERY_FRAMES} frames. "
        "*Its own*: the most memory that is no mapped file."
    )
    return [Section("Both challenges at their size", text, rows)]


def draw_images(work: Path) -> dict[str, Any]:
    """Write the references as a segment holds them, and both sides as a file of the challenge."""
    references = np.lib.format.open_memmap(work / "references.npy", "w+", np.float16, (IMAGES, 256))
    for start, vectors in _drawn(0, IMAGES, 256):
        references[start : start + len(vectors)] = vectors
    queries = np.concatenate([vectors for _, vectors in _drawn(1, IMAGE_QUERIES, 256)])
    copies = np.arange(0, IMAGE_QUERIES, 5)
    originals = np.random.default_rng(2).permutation(IMAGES)[: len(copies)]
    queries[copies] = _copies(references[originals].astype(np.float32), queries[copies])
    np.save(work / "queries.npy", queries)
    ids = [f"Q{number:05}" for number in range(IMAGE_QUERIES)], [f"R{number:06}" for number in range(IMAGES)]
    write_hdf5(
        work / "images.h5", {"queries": (np.array(ids[0]), queries), "references": (np.array(ids[1]), references)}
    )
    originals_of = dict(zip(copies.tolist(), originals.tolist(), strict=True))
    truth = [f"{name},{ids[1][originals_of[n]] if n in originals_of else ''}" for n, name in enumerate(ids[0])]
    (work / "truth.csv").write_text("\n".join(["query_id,reference_id", *truth]) + "\n")
    return {}


def search_images(work: Path) -> dict[str, Any]:
    """Search the nearest references of each shard of queries, as the global branch does."""
    references, queries = np.load(work / "references.npy", mmap_mode="r"), np.load(work / "queries.npy", mmap_mode="r")
    ids = pa.array([f"R{number:06}" for number in range(IMAGES)], pa.large_string())
    nowhere = PointLists(None, np.ones((IMAGES, 2), np.float32), np.ones(IMAGES, bool))
    search, found = DescriptorSearch([Segment(ids, references, nowhere)]), []
    for start in range(0, IMAGE_QUERIES, IMAGE_SHARD):
        found.append(search.nearest(queries[start : start + IMAGE_SHARD], IMAGE_NEIGHBOURS)[1][:, 0])
    copies = np.arange(0, IMAGE_QUERIES, 5)
    originals = np.random.default_rng(2).permutation(IMAGES)[: len(copies)]
    return {"planted ones found": float((np.concatenate(found)[copies] == originals).mean())}


def evaluate_images(work: Path) -> dict[str, Any]:
    """Judge the file of the descriptor track of 2021."""
    evaluation, _ = evaluate_image_descriptors(work / "truth.csv", work / "images.h5")
    return {"planted ones found": evaluation.overall.micro_ap}


def draw_videos(work: Path) -> dict[str, Any]:
    """Write references, noise and queries as files of the challenge of 2022, row by row."""
    _write_videos(work / "references.npz", "R", VIDEOS, FRAMES, seed=3)
    _write_videos(work / "noise.npz", "N", NOISE_VIDEOS, FRAMES, seed=4)
    _write_videos(work / "queries.npz", "Q", QUERY_VIDEOS, QUERY_FRAMES, seed=5, copied_from=work / "references.npz")
    pairs = [f"Q{query:06},R{original:06},0,{COPIED},0,{COPIED}" for query, original in _planted().items()]
    header = "query_id,ref_id,query_start,query_end,ref_start,ref_end"
    (work / "segments.csv").write_text("\n".join([header, *pairs]) + "\n")
    return {}


def index_references(work: Path) -> dict[str, Any]:
    """Make an index of the references, with inverted lists for the approximate search."""
    import_npz(work / "references.npz", work / "references", "references", model="drawn", typical_noise=0.2)
    return {}


def index_queries(work: Path) -> dict[str, Any]:
    """Make the indexes of queries and of noise."""
    import_npz(work / "noise.npz", work / "noise", "references", model="drawn", typical_noise=0.2)
    import_npz(work / "queries.npz", work / "queries", "queries", model="drawn", typical_noise=0.2)
    return {}


def search_vsc22(work: Path) -> dict[str, Any]:
    """Search all queries by the rules of the winners of 2022: exact, all pairs above -0.1."""
    return _search(work, "vsc22", [])


def search_ours(work: Path) -> dict[str, Any]:
    """Search all queries by the preset a100, with the approximate search."""
    return _search(work, "a100", ["search.index=approximate"])


def evaluate_videos(work: Path) -> dict[str, Any]:
    """Judge the files of the descriptor track of 2022: 1,200 pairs of frames per query."""
    evaluation, _ = evaluate_video_descriptors(work / "segments.csv", work / "queries.npz", work / "references.npz")
    return {"planted ones found": evaluation.recall}


def _search(work: Path, preset: str, overrides: Sequence[str]) -> dict[str, Any]:
    settings = load_settings(VideoSettings, preset, overrides=[*overrides, f"search.noise={work / 'noise'}"])
    folder, found, count = VideoRunFolder(work / preset), set[tuple[str, str]](), 0
    for shard in shards_of(work / "queries"):
        pairs = read_video_candidates(search_frames(shard, work / "queries", work / "references", folder, settings))
        found |= {pair[:2] for pair in pairs}
        count += len(pairs)
    planted = {(f"Q{query:06}", f"R{original:06}") for query, original in _planted().items()}
    return {"planted ones found": len(planted & found) / len(planted), "pairs per query": count / QUERY_VIDEOS}


def _planted() -> dict[int, int]:
    """Return the reference video that every fourth query copies."""
    queries = range(0, QUERY_VIDEOS, 4)
    return dict(zip(queries, np.random.default_rng(6).permutation(VIDEOS)[: len(queries)].tolist(), strict=True))


def _drawn(seed: int, count: int, length: int, per_video: int = 1) -> Iterator[tuple[int, Floats]]:
    """Yield the first row and the unit vectors of parts of a set; frames of a video are alike if it has several."""
    generator, step = np.random.default_rng(seed), DRAWN // per_video * per_video
    for start in range(0, count, step):
        rows = min(step, count - start)
        vectors = _unit(generator.standard_normal((rows, length), np.float32))
        if per_video > 1:
            means = _unit(generator.standard_normal((rows // per_video, length), np.float32))
            vectors = _unit(LIKE_NEXT * means.repeat(per_video, axis=0) + (1 - LIKE_NEXT**2) ** 0.5 * vectors)
        yield start, vectors


def _copies(originals: Floats, others: Floats) -> Floats:
    return _unit(LIKENESS * originals + (1 - LIKENESS**2) ** 0.5 * others)


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _write_videos(
    path: Path, prefix: str, videos: int, frames: int, *, seed: int, copied_from: Path | None = None
) -> None:
    """Write a file of descriptors without holding it in memory."""
    rows = videos * frames
    names = np.char.add(prefix, np.char.zfill(np.arange(videos).astype(np.str_), 6)).repeat(frames)
    starts = np.tile(np.arange(frames, dtype=np.float32), videos)
    features = path.with_suffix(".features.npy")
    array = np.lib.format.open_memmap(features, "w+", np.float32, (rows, 512))
    for start, vectors in _drawn(seed, rows, 512, frames):
        array[start : start + len(vectors)] = vectors
    if copied_from:
        known = np.load(copied_from.with_suffix(".features.npy"), mmap_mode="r")
        for query, original in _planted().items():
            here, there = (slice(n * f, n * f + COPIED) for n, f in ((query, frames), (original, FRAMES)))
            array[here] = _copies(known[there], array[here])
    array.flush()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.write(features, "features.npy")
        for name, values in (("video_ids", names), ("timestamps", np.stack([starts, starts + 1], axis=1))):
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, values)


STEPS: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "images: draw": draw_images,
    "images: search of the global branch": search_images,
    "images: evaluate descriptors": evaluate_images,
    "videos: draw": draw_videos,
    "videos: index of the references": index_references,
    "videos: indexes of queries and noise": index_queries,
    "videos: search, preset vsc22": search_vsc22,
    "videos: search, preset a100, approximate": search_ours,
    "videos: evaluate descriptors": evaluate_videos,
}


class _OwnMemory(threading.Thread):
    """A watch of the most memory of this process that is no mapped file."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0

    def run(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text("utf-8").splitlines()
            self.most = max(self.most, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon")))
            time.sleep(0.2)


def main(name: str, work: str) -> None:
    """Run a step, and print its figures as JSON."""
    watch, begin, processor = _OwnMemory(), time.perf_counter(), cpu_seconds()
    watch.start()
    figures = STEPS[name](Path(work))
    costs = {
        "core-seconds": cpu_seconds() - processor,
        "seconds": time.perf_counter() - begin,
        "GiB of its own": watch.most / 2**20,
        "GiB with mapped files": peak_memory_mib() / 1024,
    }
    print(json.dumps({**costs, **figures}))


if __name__ == "__main__":
    main(*sys.argv[1:])
