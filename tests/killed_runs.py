"""Runs that are killed at any moment: forked from one process, as each takes seconds to import it all.

    python -m tests.killed_runs WHAT SEED KILLS MEDIA FOLDER [DISK]

WHAT is a flow, such as match-images. MEDIA has folders `photos` and `videos`, each with `queries` and `references`, and
`photos/training`. An undisturbed run goes into FOLDER/calm. For each kill, a run into FOLDER/NUMBER is killed at a
moment that SEED draws, and the same is run again. It prints a line of JSON for each kill: the moment in seconds, both
exit codes, what was on disk between the runs, and what the second one said. With DISK, where a small file system is
mounted, runs are not killed but go on there, with less room than they need; it prints the room in KiB and the error.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from configs.images import ImageSettings
from configs.videos import VideoSettings
from copytrace import images, videos
from copytrace.cli.errors import USER_ERRORS
from copytrace.index import image_index, video_index
from tests.racing_runs import MeanColor, exit_code, fork

POINTS = {"short_side": 60, "max_points": 20}
IMAGES: dict[str, Any] = {
    "media": {"shard_size": 2, "threads": 1},
    "overlay": {"detector": "none"},
    "local": {"reference_points": POINTS, "query_points": POINTS, "stretches": []},
    "report": {"max_matches": 2},
}
VIDEOS: dict[str, Any] = {
    "media": {"shard_size": 1, "threads": 1},
    "panes": {"detector": "none"},
    "alignment": {"aligner": "hough", "pair_filter": "none"},
    "report": {"max_matches": 2},
}
LOOP = {"epochs": 3, "batch_size": 4, "workers": 0, "threads": 1, "device": "cpu"}
NETWORK = {"architecture": "test_efficientnet", "start": "random", "input_size": 32}
PHOTOS = {"validation_share": 0.5, "long_side": 64}
OVERLAY = NETWORK | {"input_size": 64, "detected_size": 64, "examples_per_epoch": 8, "validation_composites": 4}
DESCRIPTOR = NETWORK | {"described_size": 32, "dimensions": 16, "memory": 8, "whitening": "off"}


def train_descriptor(media: Path, out: Path) -> object:
    """Train a small descriptor; it imports torch here, which takes longer than a run of images."""
    from configs.training import DescriptorTraining  # noqa: PLC0415
    from copytrace.training.descriptor import train_descriptor  # noqa: PLC0415

    values = DESCRIPTOR | {"photos": PHOTOS | {"validation_copies": 1}, "loop": LOOP}
    return train_descriptor(str(media / "photos" / "training"), out, DescriptorTraining.model_validate(values))


def train_overlay_detector(media: Path, out: Path) -> object:
    """Train a small overlay detector."""
    from configs.training import OverlayTraining  # noqa: PLC0415
    from copytrace.training.overlay import train_overlay_detector  # noqa: PLC0415

    values = OVERLAY | {"photos": PHOTOS, "loop": LOOP}
    return train_overlay_detector(str(media / "photos" / "training"), out, OverlayTraining.model_validate(values))


FLOWS: dict[str, Callable[[Path, Path], object]] = {
    "index-images": lambda media, out: images.index_images(
        str(media / "photos" / "references"), out, ImageSettings.model_validate(IMAGES)
    ),
    "match-images": lambda media, out: images.match_images(
        *(str(media / "photos" / side) for side in ("queries", "references")), out, ImageSettings.model_validate(IMAGES)
    ),
    "index-videos": lambda media, out: videos.index_videos(
        str(media / "videos" / "references"), out, VideoSettings.model_validate(VIDEOS)
    ),
    "match-videos": lambda media, out: videos.match_videos(
        *(str(media / "videos" / side) for side in ("queries", "references")), out, VideoSettings.model_validate(VIDEOS)
    ),
    "train-descriptor": train_descriptor,
    "train-overlay-detector": train_overlay_detector,
}
SOONER = 0.8
ENOUGH = 64 << 10  # KiB
COMPARED = {".parquet", ".csv", ".npy", ".points", ".lists", ".faiss", ".safetensors"}


def run(what: str, media: Path, out: Path, log: Path) -> int:
    """Run the flow, write what it says into `log`, and return its exit code."""
    with log.open("w") as said, contextlib.redirect_stderr(said):
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=said, force=True)
        FLOWS[what](media, out)
    return 0


def contents(out: Path) -> dict[str, bytes]:
    """Return the finished files, without those that hold costs, and without the plan, which says what is new."""
    files = [path for path in out.rglob("*") if path.suffix in COMPARED and not path.name.startswith(".")]
    return {str(path.relative_to(out)): content_of(path) for path in files if path.stem != "plan"}


def content_of(path: Path) -> bytes:
    """Return the bytes of a file; of weights without their notes, which say how quickly they were trained."""
    content = path.read_bytes()
    if path.suffix != ".safetensors":
        return content
    end = 8 + int.from_bytes(content[:8], "little")
    tensors = {name: where for name, where in json.loads(content[8:end]).items() if name != "__metadata__"}
    return json.dumps(tensors, sort_keys=True).encode() + content[end:]


def records(out: Path) -> dict[str, bytes]:
    """Return the records of the steps of shards."""
    found = [path for path in out.rglob("*.json") if path.stem.isdecimal()]
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def kill_one(what: str, media: Path, out: Path, moment: float, calm: dict[str, bytes]) -> dict[str, object]:
    """Kill a run after `moment` seconds, run it again, and return what there is to say of both.

    A run that ends before it is killed, as the machine was less busy, does not count: another one is killed earlier.
    """
    log = out.with_suffix(".log")
    while (first := _run_until(partial(run, what, media, out, log), moment)) == 0:
        moment *= SOONER
        shutil.rmtree(out)
    between, kept = contents(out), records(out)
    second = exit_code(fork(partial(run, what, media, out, log)))
    after, finished = records(out), contents(out)
    return {
        "moment": round(moment, 2),
        "codes": [first, second],
        "files": len(between),
        "half": [name for name, content in between.items() if name in calm and calm[name] != content],
        "kept": sum(after.get(name) == content for name, content in kept.items()),
        "again": [name for name, content in kept.items() if after.get(name) != content],
        "differ": sorted(name for name in calm.keys() | finished.keys() if calm.get(name) != finished.get(name)),
        "left": [str(path.relative_to(out)) for path in out.rglob("*.part")],
        "said": log.read_text(),
    }


def fill_one(what: str, media: Path, disk: Path, room: int, calm: dict[str, bytes]) -> dict[str, object]:
    """Run with `room` KiB, run again with enough of it, and return what there is to say of both."""
    out, log = disk / "out", disk.with_suffix(".log")
    _resize(disk, room)
    first = exit_code(fork(partial(_report, what, media, out, log)))
    between, said = contents(out), log.read_text()
    _resize(disk, ENOUGH)
    second = exit_code(fork(partial(_report, what, media, out, log)))
    finished = contents(out)
    shutil.rmtree(out, ignore_errors=True)
    return {
        "room": room,
        "codes": [first, second],
        "half": [name for name, content in between.items() if name in calm and calm[name] != content],
        "differ": sorted(name for name in calm.keys() | finished.keys() if calm.get(name) != finished.get(name)),
        "said": said,
    }


def _report(what: str, media: Path, out: Path, log: Path) -> int:
    """Run, and return 1 if the run ends with what a command tells in one line, which is written into `log`."""
    try:
        return run(what, media, out, log)
    except USER_ERRORS as error:
        log.write_text(str(error))
        return 1


def _resize(disk: Path, room: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={room}k", str(disk)], check=True)


def _run_until(work: Callable[[], int], moment: float) -> int:
    """Return the exit code of a process that does the work, and is killed after `moment` seconds."""
    child, end = fork(work), time.monotonic() + moment
    while time.monotonic() < end and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return exit_code(child)


def main(what: str, seed: str, kills: str, media: Path, folder: Path, disk: Path | None = None) -> None:
    """Run the flow undisturbed, and then kill it, or let it fill a disk, time and again."""
    folder.mkdir(parents=True)
    begin = time.monotonic()
    code = exit_code(fork(partial(run, what, media, folder / "calm", folder / "calm.log")))
    seconds, chance = time.monotonic() - begin, random.Random(f"{what} {seed}")
    if code:
        raise SystemExit(f"the undisturbed run failed: {(folder / 'calm.log').read_text()}")
    calm = contents(folder / "calm")
    size = sum(path.stat().st_size for path in (folder / "calm").rglob("*") if path.is_file()) >> 10
    for number in range(int(kills)):
        if disk:
            told = fill_one(what, media, disk, int((0.1 + 0.8 * chance.random()) * size), calm)
        else:
            told = kill_one(what, media, folder / str(number), chance.random() * seconds, calm)
        print(json.dumps(told), flush=True)


def use_simple_models() -> None:
    """Let runs of this process describe pictures by their mean color."""
    models = (MeanColor(), None)
    for module in (images, image_index):
        module.load_image_models = lambda descriptor, detector: models  # type: ignore[attr-defined]
    for module in (videos, video_index):
        module.load_video_models = lambda descriptor, detector: models  # type: ignore[attr-defined]


if __name__ == "__main__":
    use_simple_models()
    chosen, chosen_seed, count, *places = sys.argv[1:]
    if chosen.startswith("train"):
        for module in ("descriptor", "overlay"):
            import_module(f"copytrace.training.{module}")
    main(chosen, chosen_seed, count, *map(Path, places))
