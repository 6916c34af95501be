"""Source pictures per second of `read_frames`, of PyAV decoding all pictures, and of ffmpeg with fps=1.

Run `python -m benchmarks.video_decoding [FILE OR FOLDER ...]`; the default is a generated clip of 720p H.264. All write
RGB at full size, except PyAV, which only decodes. Rounds alternate between the readers; the best round of each counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import av
import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from copytrace.media.files import list_media
from copytrace.media.frames import open_video, read_frames


def main() -> None:
    """Print one row per reader, measured on the same files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="*", help="files or folders; default: a generated clip")
    parser.add_argument("--per-second", type=float, default=1.0, help="frames to read per second")
    parser.add_argument("--short-side", type=int, default=288, help="pixels, for the second row")
    parser.add_argument("--threads", type=int, default=0, help="threads of each reader; 0 for all cores")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = [item.path for video in options.videos for item in list_media(video)] or [make_clip(Path(folder))]
        readers = make_readers(options.per_second, options.short_side, options.threads)
        best = fastest(list(readers.values()), paths, options.rounds)
        timelines = [open_video(path).timeline for path in paths]
    pictures = sum(len(timeline.packet_times) for timeline in timelines)
    seconds = sum(timeline.duration for timeline in timelines)
    table = Table("reader", "pictures/s", "its time / ours", "pictures per CPU second", "its CPU time / ours")
    for name, (elapsed, busy) in zip(readers, best, strict=True):
        ratios = f"{elapsed / best[0][0]:.2f}", f"{busy / best[0][1]:.2f}"
        table.add_row(name, f"{pictures / elapsed:,.0f}", ratios[0], f"{pictures / busy:,.0f}", ratios[1])
    console = Console()
    console.print(
        table, f"{len(paths)} videos, {pictures} pictures in {seconds:.0f} s, best of {options.rounds} rounds"
    )
    if shutil.which("ffmpeg") is None:
        console.print("ffmpeg is not on the PATH and was left out; install it to compare with it")


def make_readers(per_second: float, short_side: int, threads: int) -> dict[str, Callable[[str], None]]:
    """Return functions that read one video, by name; ours first."""

    def ours(path: str) -> None:
        for _ in read_frames(path, per_second=per_second, threads=threads):
            pass

    def ours_reduced(path: str) -> None:
        for _ in read_frames(path, per_second=per_second, short_side=short_side, threads=threads):
            pass

    def pyav(path: str) -> None:
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = threads
            for _ in container.decode(stream):
                pass

    def ffmpeg(path: str) -> None:
        command = ["ffmpeg", "-nostdin", "-v", "error", "-threads", str(threads), "-i", path]
        command += ["-vf", f"fps={per_second}", "-f", "rawvideo", "-pix_fmt", "rgb24", "-y", "/dev/null"]
        subprocess.run(command, check=True)

    readers = {"read_frames": ours, f"read_frames, short side {short_side}": ours_reduced, "PyAV, all pictures": pyav}
    if shutil.which("ffmpeg"):
        readers[f"ffmpeg -vf fps={per_second:g}"] = ffmpeg
    return readers


def fastest(readers: Sequence[Callable[[str], None]], paths: Sequence[str], rounds: int) -> list[tuple[float, float]]:
    """Return each reader's fewest seconds for all files, of wall time and of CPU time."""
    best = [(float("inf"), float("inf"))] * len(readers)
    for _ in range(rounds):
        for index, read in enumerate(readers):
            start, busy = perf_counter(), cpu_seconds()
            for path in paths:
                read(path)
            fewest = best[index]
            best[index] = (min(fewest[0], perf_counter() - start), min(fewest[1], cpu_seconds() - busy))
    return best


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its finished child processes so far."""
    return sum(os.times()[:4])


def make_clip(folder: Path, seconds: int = 40, rate: int = 30) -> str:
    """Write a clip, a camera that moves over a noisy scene, as 720p H.264 with B-frames; return its path."""
    random = np.random.default_rng(0)
    scene = cv2.GaussianBlur(random.integers(0, 256, (1100, 1700, 3), dtype=np.uint8), (0, 0), 3)
    scene = cv2.normalize(scene, scene, 0, 255, cv2.NORM_MINMAX)
    path = folder / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for number in range(seconds * rate):
            x, y = (round(190 * (1 + wave(number / 97))) for wave in (np.sin, np.cos))
            picture = np.ascontiguousarray(scene[y : y + 720, x : x + 1280])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return str(path)


if __name__ == "__main__":
    main()
