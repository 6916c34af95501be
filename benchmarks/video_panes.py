"""Seconds and memory to find the panes of one minute of 1080p at one frame per second.

The rules of VSC2022's rank-1 matching solution need 19.8 s and about 3 GB for such a minute on 2 cores.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle, islice

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from copytrace.overlays.detectors import load_overlay_detector
from copytrace.panes.find_panes import find_panes

FRAMES, HEIGHT, WIDTH = 60, 1080, 1920
DIFFERENT = 12  # distinct pictures, which alternate; 60 of them would take 373 MB
ROUNDS = 3
DETECTORS = ("none", "network")


def main() -> None:
    """Print seconds and growth of peak memory, without and with the network, each measured in its own process."""
    if len(sys.argv) > 1:
        measure(sys.argv[1])
        return
    for name in DETECTORS:
        answer = subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True).stdout
        found = json.loads(answer)
        Console().print(
            f"{FRAMES} frames of {WIDTH}×{HEIGHT}, overlay detector {name}: {found['seconds']:.2f} s, "
            f"{found['megabytes']:.0f} MB more peak memory, {found['panes']} panes"
        )


def measure(name: str) -> None:
    """Print as JSON the seconds, and the memory beyond that of the frames and of a detector that has run once."""
    pictures = [split_screen(seed) for seed in range(DIFFERENT)]
    detector = load_overlay_detector(name)
    if detector is not None:
        detector.detect(pictures[0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        panes = find_panes(minute(pictures), detector=detector)
        seconds.append(time.perf_counter() - started)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"seconds": min(seconds), "megabytes": grown / 1024, "panes": len(panes)}))


def minute(pictures: list[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Return an iterator over 60 frames that repeats the pictures."""
    return islice(cycle(pictures), FRAMES)


def split_screen(seed: int) -> NDArray[np.uint8]:
    """Return a frame of four smooth pictures, two by two."""
    random = np.random.default_rng(seed)
    size = (WIDTH // 2, HEIGHT // 2)
    cells = [
        cv2.resize(random.integers(0, 256, (9, 12, 3), np.uint8), size, interpolation=cv2.INTER_CUBIC) for _ in range(4)
    ]
    return np.vstack([np.hstack(cells[:2]), np.hstack(cells[2:])])


if __name__ == "__main__":
    main()
