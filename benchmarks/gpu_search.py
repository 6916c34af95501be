"""Checks of the searches on a GPU, and of both matching flows with the presets `a100`, beside the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pandas as pd

from benchmarks.gpu_check import Check, Finding, Target, UnavailableError
from benchmarks.gpu_networks import seconds
from copytrace.alignment.segments import box_overlaps
from copytrace.features.points import Points
from copytrace.features.variants import PLAIN
from copytrace.index.point_quantizer import shipped_quantizer
from copytrace.index.shard_files import View
from copytrace.search.point_search import ExactSearch
from copytrace.search.vector_search import MAX_NEIGHBORS, ExactFrameSearch
from copytrace.synthesis.sample_photos import write_demo_set
from copytrace.synthesis.sample_videos import write_demo_videos

IMAGE_QUERIES = 16  # of the sample set, the first ones
SAME_SCORE = 0.05  # of a pair on both devices
SAME_SEGMENT = 0.8  # IoU
BOX = ["query_start", "query_end", "ref_start", "ref_end"]


def frames(target: Target) -> Iterator[Finding]:
    """Compare the search of frames with products of numpy, also for the most neighbors."""
    _require_faiss(target)
    generator = np.random.default_rng(0)
    known, asked = (_unit_vectors(generator, count) for count in ((200_000, 256) if target.on_gpu else (20_000, 16)))
    search = ExactFrameSearch(lambda: np.array_split(known, 7))
    for neighbours in (10, MAX_NEIGHBORS):
        cosines, rows = search.nearest(asked, neighbours)
        products = asked @ known.T
        exact = -np.sort(-products, axis=1)[:, :neighbours]
        difference = np.abs(cosines - exact).max()
        yield Finding(f"{neighbours} neighbors: most difference of a cosine", float(difference), most=1e-5)
        wrong = np.abs(np.take_along_axis(products, rows, axis=1) - cosines).max()
        yield Finding(f"{neighbours} neighbors: most error of a row's cosine", float(wrong), most=1e-5)
    rate = len(known) * len(asked) / seconds(lambda: search.nearest(asked, 10), rounds=2)
    yield Finding("million comparisons of 512 numbers/s", rate / 1e6)


def points(target: Target) -> Iterator[Finding]:
    """Compare the exact search of points with sums of squares, which bytes make exact."""
    _require_faiss(target)
    generator = np.random.default_rng(0)
    views = [_random_view(generator, number, 400) for number in range(50)]
    asked = np.concatenate([view.points.descriptor[:2] for view in views]) + generator.integers(
        0, 9, (100, 128), np.uint8
    )
    known = np.concatenate([view.points.descriptor for view in views]).astype(np.int64)
    plain = asked.astype(np.int64)
    squares = (plain**2).sum(axis=1)[:, None] + (known**2).sum(axis=1) - 2 * plain @ known.T
    exact = np.sort(squares, axis=1)[:, :2]
    image = np.argmin(squares, axis=1) // 400
    # In half precision, each of the two lengths is rounded by less than a thousandth.
    rounded = 2e-3 * float((plain**2).sum(axis=1).max()) if target.on_gpu else 0.5
    for name, half_precision, most in (("float32", False, 0.5), ("float16", True, rounded)):
        search = ExactSearch.of(views, shipped_quantizer(), half_precision=half_precision)
        found = search.search(asked, 2, [PLAIN])
        error = float(np.abs(found.distance - exact).max())
        yield Finding(f"{name}: most difference of a squared distance", error, most=most)
        right = float((found.image[:, 0] == image).mean())
        yield Finding(f"{name}: share of points of the right reference", right, least=1.0)


def image_flow(target: Target) -> Iterator[Finding]:
    """Compare the pairs that the flow finds with those of the library on the CPU."""
    folder = write_demo_set(target.work / "images")
    for path in sorted((folder / "queries").iterdir())[IMAGE_QUERIES:]:
        path.unlink()
    here, there = (pd.read_csv(path) for path in _match(target, "images", folder, "matches.csv"))
    both = here.merge(there, on=["query_id", "reference_id"], how="outer", suffixes=("", "_cpu")).fillna(0.0)
    called = (both.score >= 0.5) | (both.score_cpu >= 0.5)
    yield Finding("pairs called copies on either device", float(called.sum()), 1)
    alike = (both.score >= 0.5) == (both.score_cpu >= 0.5)
    yield Finding("pairs called a copy on one device only", float((~alike).sum()), most=0)
    gap = (both.score - both.score_cpu)[called].abs().max()
    yield Finding("most difference of a copy's score", float(gap), most=SAME_SCORE)


def video_flow(target: Target) -> Iterator[Finding]:
    """Compare the segments that the flow finds with those of the library on the CPU."""
    folder = write_demo_videos(target.work / "videos")
    tables = [pd.read_csv(path) for path in _match(target, "videos", folder, "segments.csv")]
    here, there = (table[table.score >= 0.5] for table in tables)
    yield Finding("segments called copies on the CPU", float(len(there)), 1)
    yield Finding("segments called copies on the device, beside", len(here) / max(len(there), 1), 1.0, 1.0)
    best = [_best_overlap(segment, here) for segment in there.itertuples()]
    yield Finding("least IoU of a segment with its like", min(best, default=0.0), SAME_SEGMENT)


def _best_overlap(segment: object, others: pd.DataFrame) -> float:
    same = others[(others.query_id == segment.query_id) & (others.ref_id == segment.ref_id)]  # type: ignore[attr-defined]
    box = np.array([[getattr(segment, name) for name in BOX]])
    return float(box_overlaps(box, same[BOX].to_numpy(np.float64)).max(initial=0.0))


def _match(target: Target, medium: str, folder: Path, table: str) -> list[Path]:
    """Run the flow on the device and the command on the CPU; return the table of each."""
    given = [str(folder / "queries"), str(folder / "references")]
    outputs = [target.work / f"{medium}-{name}" for name in ("device", "cpu")]
    ours = [f"flows.match_{medium}", *given, "--out", str(outputs[0]), "--preset", "a100"]
    run = "from copytrace.cli import app; app()"
    command = [f"match-{medium}", *given, "--out", str(outputs[1]), "--preset", "a100"]
    home = {"PREFECT_HOME": str(target.work / "prefect"), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "400"}
    networks = ["descriptor.backend=torch", f"descriptor.device={target.device}", "report.max_matches=0"]
    _run([sys.executable, "-m", *ours, *networks], home)
    # Without a visible GPU, faiss is on the CPU, too.
    plain = ["descriptor.backend=onnx", "descriptor.device=cpu", "report.max_matches=0"]
    _run([sys.executable, "-c", run, *command, *plain], {"CUDA_VISIBLE_DEVICES": ""})
    return [out / table for out in outputs]


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env={**os.environ, **environment}, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} failed: {(done.stderr or done.stdout)[-1500:]}")


def _unit_vectors(generator: np.random.Generator, count: int) -> np.ndarray:
    vectors = generator.standard_normal((count, 512), np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _random_view(generator: np.random.Generator, number: int, count: int) -> View:
    geometry = generator.uniform(1, 90, (4, count)).astype(np.float32)
    # Bytes of root-SIFT: few are above 80.
    descriptors = generator.gamma(0.6, 25, (count, 128)).clip(0, 200).astype(np.uint8)
    return View(f"r{number}", "whole", Points(*geometry, descriptors, 100, 100))


def _require_faiss(target: Target) -> None:
    if target.on_gpu and not getattr(faiss, "get_num_gpus", int)():
        raise UnavailableError("faiss-gpu is not installed, or finds no GPU")


CHECKS: dict[str, Check] = {
    "search of frames": frames,
    "search of points": points,
    "match-images": image_flow,
    "match-videos": video_flow,
}
