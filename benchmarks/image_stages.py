"""Time of the descriptor and point stages relative to their lower bounds, in one run.

The stages run as in matching, with decoding. Their bounds are the network on ready tensors, and OpenCV's
detectAndCompute on ready gray pictures, on all cores.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from configs.images import ImageSettings, PointSettings
from copytrace.features.descriptors import load_descriptor, resize_for_descriptor
from copytrace.features.points import find_points
from copytrace.media.decode import decode_image
from copytrace.media.files import list_media
from copytrace.media.prefetch import prefetch
from copytrace.training.sample_photos import write_demo_set

ROUNDS = 5


def main() -> None:
    """Print the seconds of each stage and of its bound, and their ratio, as medians of five rounds."""
    cores = os.cpu_count() or 1
    cv2.setNumThreads(1)
    settings = ImageSettings()
    with tempfile.TemporaryDirectory() as folder:
        items = list_media(write_demo_set(Path(folder)) / "queries")
        pictures = [decode_image(item.path).pixels for item in items]
        points = settings.local.reference_points
        gray = [_reduce_to_gray(picture, points) for picture in pictures]
        sift = cv2.SIFT.create(points.max_points, points.levels, points.contrast, points.edge, 1.6)
        descriptor = load_descriptor()
        squares = np.stack([resize_for_descriptor(picture, descriptor.input_size) for picture in pictures])

        def point_stage() -> None:
            for _ in prefetch(
                items, lambda item: find_points(decode_image(item.path).pixels, points), threads=cores, ahead=16
            ):
                pass

        def point_bound() -> None:
            with ThreadPoolExecutor(cores) as pool:
                list(pool.map(lambda picture: sift.detectAndCompute(picture, None), gray))

        def descriptor_stage() -> None:
            batch: list[np.ndarray] = []
            load = lambda item: resize_for_descriptor(decode_image(item.path).pixels, descriptor.input_size)  # noqa: E731
            for _, square in prefetch(items, load, threads=cores, ahead=32):
                batch.append(square)  # type: ignore[arg-type]
                if len(batch) == settings.descriptor.batch_size:
                    descriptor.describe(np.stack(batch))
                    batch = []
            descriptor.describe(np.stack(batch))

        def descriptor_bound() -> None:
            for start in range(0, len(squares), settings.descriptor.batch_size):
                descriptor.describe(squares[start : start + settings.descriptor.batch_size])

        table = Table("stage", "images", "seconds", "bound", "its seconds", "bound / stage")
        for name, stage, label, bound in (
            ("points", point_stage, f"detectAndCompute alone, {cores} cores", point_bound),
            ("descriptors", descriptor_stage, "the network on ready tensors", descriptor_bound),
        ):
            ours, bare = _time_alternately(stage, bound)
            table.add_row(name, str(len(items)), f"{ours:.2f}", label, f"{bare:.2f}", f"{bare / ours:.2f}")
        Console().print(table)


def _reduce_to_gray(picture: np.ndarray, settings: PointSettings) -> np.ndarray:
    found = find_points(picture, settings)
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return cv2.resize(gray, (found.width, found.height), interpolation=cv2.INTER_AREA)


def _time_alternately(stage: Callable[[], None], bound: Callable[[], None]) -> tuple[float, float]:
    """Return the median seconds of both; they run in turn, so that a change of the machine's speed affects both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for call, into in zip((stage, bound), seconds, strict=True):
            begin = time.perf_counter()
            call()
            into.append(time.perf_counter() - begin)
    return float(np.median(seconds[0])), float(np.median(seconds[1]))


if __name__ == "__main__":
    main()
