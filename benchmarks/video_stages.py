"""Speed of reading videos and of finding panes, beside what other readers of the same files do."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

import av
import cv2
import numpy as np

from benchmarks.results import Row, Section
from benchmarks.timing import fewest_seconds
from copytrace.media.frames import read_frames
from copytrace.overlays.detectors import load_overlay_detector
from copytrace.panes.find_panes import find_panes

SECONDS, RATE, HEIGHT, WIDTH = 10, 30, 720, 1280  # of the clip
FRAMES = 30  # in which panes are found
DIFFERENT = 6  # pictures among them


def measure(given: Sequence[Path], work: Path) -> list[Section]:
    """Measure on a generated clip, a camera that moves over a noisy scene, and on generated split screens."""
    cv2.setNumThreads(1)
    clip = str(_write_clip(work / "clip.mp4"))
    readers: dict[str, Callable[[], object]] = {
        "Copytrace, a frame per second": lambda: list(read_frames(clip, per_second=1.0, threads=1)),
        "PyAV, all pictures": lambda: _decode_all(clip),
    }
    if shutil.which("ffmpeg"):
        readers["ffmpeg -vf fps=1"] = lambda: _run_ffmpeg(clip)
    seconds = fewest_seconds(list(readers.values()))
    pictures = SECONDS * RATE
    rows = [
        Row(name, {"pictures/s": pictures / took, "seconds per hour of video": 3600 / SECONDS * took})
        for name, took in zip(readers, seconds, strict=True)
    ]
    text = f"{WIDTH} x {HEIGHT} pixels, {RATE} pictures a second, H.264 with B-frames; one core."
    return [Section("Reading videos beside other readers", text, rows), _panes()]


def _panes() -> Section:
    screens = [_split_screen(seed) for seed in range(DIFFERENT)]
    detector = load_overlay_detector("network")
    if detector is None:
        raise RuntimeError("there is no network of this name")
    ways = {
        "Copytrace, with the network": lambda: find_panes(_minute(screens), detector=detector),
        "by edges alone": lambda: find_panes(_minute(screens), detector=None),
        "the network alone, on every frame": lambda: [detector.detect(screen) for screen in _minute(screens)],
    }
    seconds = fewest_seconds(list(ways.values()), rounds=2)
    rows = [
        Row(name, {"frames/s": FRAMES / took, "seconds per hour of video": 3600 / FRAMES * took})
        for name, took in zip(ways, seconds, strict=True)
    ]
    return Section("Finding panes", "Frames of 1080p, one per second, with four pictures in each; one core.", rows)


def _minute(screens: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    return islice(cycle(screens), FRAMES)


def _decode_all(path: str) -> None:
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            pass


def _run_ffmpeg(path: str) -> None:
    command = ["ffmpeg", "-nostdin", "-v", "error", "-threads", "1", "-i", path]
    command += ["-vf", "fps=1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-y", "/dev/null"]
    subprocess.run(command, check=True)


def _write_clip(path: Path) -> Path:
    random = np.random.default_rng(0)
    scene = cv2.GaussianBlur(random.integers(0, 256, (1100, 1700, 3), dtype=np.uint8), (0, 0), 3)
    scene = cv2.normalize(scene, scene, 0, 255, cv2.NORM_MINMAX)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(SECONDS * RATE):
            x, y = (round(190 * (1 + wave(number / 97))) for wave in (np.sin, np.cos))
            picture = np.ascontiguousarray(scene[y : y + HEIGHT, x : x + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


def _split_screen(seed: int) -> np.ndarray:
    """Return a frame of four smooth pictures, two by two, uint8 [1080, 1920, 3]."""
    random = np.random.default_rng(seed)
    cells = [
        cv2.resize(random.integers(0, 256, (9, 12, 3), np.uint8), (960, 540), interpolation=cv2.INTER_CUBIC)
        for _ in range(4)
    ]
    return np.vstack([np.hstack(cells[:2]), np.hstack(cells[2:])])
