"""Runs that are killed at any moment: forked from one process, as each takes seconds to import it all.

    python -m tests.killed_runs runs|decoders|DISK WHAT SEED COUNT MEDIA FOLDER

WHAT is one of `killed_flows`, such as match-images, which describes MEDIA. An undisturbed run goes into FOLDER/calm.
Then COUNT times, a run into FOLDER/NUMBER is killed at a moment that SEED draws while it works, and the same is run
again. It prints a line of JSON for each kill: the moment in seconds, both exit codes, what was on disk between the
runs, and what the second one said. Of `decoders`, only a process of the run that decodes media is killed, and the run
goes on. With DISK, where a small file system is mounted, runs are not killed but go on there, with less room than they
need; it prints the room in KiB and the error.
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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

import psutil

from copytrace import images, videos
from copytrace.checked_files import read_sealed
from copytrace.cli.errors import USER_ERRORS
from copytrace.errors import DamagedFileError
from copytrace.index import image_index, video_index
from tests.killed_flows import FLOWS, PREPARED, TRAININGS
from tests.racing_runs import MeanColor, exit_code, fork

BEFORE, MANIFEST = "before", "manifest.parquet"
FIRST, LAST = 0.05, 0.95  # of an undisturbed run; between them it is killed
SOONER = 0.8
ENOUGH = 64 << 10  # KiB
COMPARED = {".parquet", ".csv", ".npy", ".points", ".lists", ".faiss", ".safetensors"}


def run(flow: Callable[[Path, Path], object], media: Path, out: Path, log: Path) -> int:
    """Run a flow, write what it says into `log`, and return its exit code."""
    with log.open("w") as said, contextlib.redirect_stderr(said):
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=said, force=True)
        flow(media, out)
    return 0


def prepare(before: Path, out: Path) -> dict[str, bytes]:
    """Copy what a flow changes to its output folder, if there is some, and return its finished files."""
    if before.exists():
        shutil.copytree(before, out)
    return contents(out)


def size_of(folder: Path) -> int:
    """Return the bytes of all files of a folder, which a run may change meanwhile."""
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size


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

    What the flow changes lies beside its output folder, in `before`. A run that ends before it is killed, as the
    machine was less busy, does not count: another one is killed earlier.
    """
    log, before = out.with_suffix(".log"), prepare(out.with_name(BEFORE), out)
    held = records(out)
    while (first := _run_until(partial(run, FLOWS[what], media, out, log), moment)) == 0:
        moment *= SOONER
        shutil.rmtree(out)
        prepare(out.with_name(BEFORE), out)
    between, kept = contents(out), records(out)
    left = half(out, between, before, calm)
    second = exit_code(fork(partial(run, FLOWS[what], media, out, log)))
    after, finished = records(out), contents(out)
    kept = {name: content for name, content in kept.items() if held.get(name) != content}
    return {
        "moment": round(moment, 2),
        "codes": [first, second],
        "files": len(between),
        "half": left,
        "kept": sum(after.get(name) == content for name, content in kept.items()),
        "again": [name for name, content in kept.items() if after.get(name) != content],
        "differ": sorted(name for name in calm.keys() | finished.keys() if calm.get(name) != finished.get(name)),
        "left": [str(path.relative_to(out)) for path in out.rglob("*.part")],
        "said": log.read_text(),
    }


def half(out: Path, between: Mapping[str, bytes], *whole: Mapping[str, bytes]) -> list[str]:
    """Return the files that a run which did not end has left, and that are none of the `whole` ones with these names.

    A manifest may also be another one, as long as it is whole: a repair writes one without what is damaged.
    """
    others = [name for name, content in between.items() if name in whole[-1] and content not in _named(name, whole)]
    return [name for name in others if name != MANIFEST or not _is_whole(out / name)]


def _named(name: str, folders: Sequence[Mapping[str, bytes]]) -> list[bytes | None]:
    return [folder.get(name) for folder in folders]


def _is_whole(manifest: Path) -> bool:
    try:
        read_sealed(manifest)
    except DamagedFileError:
        return False
    return True


def kill_decoder(what: str, media: Path, out: Path, moment: float, calm: dict[str, bytes]) -> dict[str, object]:
    """Kill a process that decodes media for a run, `moment` seconds after it began, and return what became of the run.

    If there is none then, the first one after it is killed. A run that ends before that does not count.
    """
    log, killed = out.with_suffix(".log"), ""
    while not killed:
        child, end = fork(partial(_report, what, media, out, log)), time.monotonic() + moment
        while not killed and not _has_ended(child):
            if time.monotonic() >= end:
                killed = _kill_one_of(psutil.Process(child).children(recursive=True), random.Random(moment))
            time.sleep(0.002)
        code = exit_code(child)
        moment *= SOONER
        if not killed:
            shutil.rmtree(out)
    finished = contents(out)
    return {
        "moment": round(moment / SOONER, 2),
        "codes": [code],
        "killed": killed,
        "differ": sorted(name for name in calm.keys() | finished.keys() if calm.get(name) != finished.get(name)),
        "left": [str(path.relative_to(out)) for path in out.rglob("*.part")],
        "said": log.read_text(),
    }


def _kill_one_of(processes: list[psutil.Process], chance: random.Random) -> str:
    """Kill one of the processes, and return its state, such as `running` or `sleeping`; "" if there is none."""
    try:
        chosen = chance.choice(processes)
        state = str(chosen.status())
        chosen.kill()
    except (IndexError, psutil.Error):
        return ""
    return state


def fill_one(
    what: str, media: Path, disk: Path, room: int, expected: tuple[dict[str, bytes], dict[str, bytes]]
) -> dict[str, object]:
    """Run with `room` KiB more than are taken, run again with enough of it, and return what there is to say of both.

    Files on the disk are `expected` to be as they were before, or as an undisturbed run leaves them.
    """
    out, log, (before, calm) = disk / "out", disk.with_suffix(".log"), expected
    _resize(disk, room + (shutil.disk_usage(disk).used >> 10))
    first = exit_code(fork(partial(_report, what, media, out, log)))
    left, said = half(out, contents(out), before, calm), log.read_text()
    _resize(disk, ENOUGH)
    second = exit_code(fork(partial(_report, what, media, out, log)))
    finished = contents(out)
    shutil.rmtree(out, ignore_errors=True)
    return {
        "room": room,
        "codes": [first, second],
        "half": left,
        "differ": sorted(name for name in calm.keys() | finished.keys() if calm.get(name) != finished.get(name)),
        "said": said,
    }


def _report(what: str, media: Path, out: Path, log: Path) -> int:
    """Run, and return 1 if the run ends with what a command tells in one line, which is written into `log`."""
    try:
        return run(FLOWS[what], media, out, log)
    except USER_ERRORS as error:
        log.write_text(str(error))
        return 1


def _resize(disk: Path, room: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={room}k", str(disk)], check=True)


def _run_until(work: Callable[[], int], moment: float) -> int:
    """Return the exit code of a process that does the work, and is killed after `moment` seconds."""
    child, end = fork(work), time.monotonic() + moment
    while time.monotonic() < end and not _has_ended(child):
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return exit_code(child)


def _has_ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main(victims: str, what: str, seed: str, count: str, media: Path, folder: Path) -> None:
    """Run the flow undisturbed, and then kill it or its decoders, or let it fill a disk, time and again."""
    folder.mkdir(parents=True)
    if what in PREPARED:
        exit_code(fork(partial(run, PREPARED[what], media, folder / BEFORE, folder / "before.log")))
    prepare(folder / BEFORE, folder / "calm")
    begin, size = time.monotonic(), size_of(folder / "calm")
    child, most = fork(partial(run, FLOWS[what], media, folder / "calm", folder / "calm.log")), size
    while not _has_ended(child):
        time.sleep(0.02)
        most = max(most, size_of(folder / "calm"))
    seconds, chance = time.monotonic() - begin, random.Random(f"{what} {seed}")
    if exit_code(child):
        raise SystemExit(f"the undisturbed run failed: {(folder / 'calm.log').read_text()}")
    calm = contents(folder / "calm")
    kill = {"runs": kill_one, "decoders": kill_decoder}.get(victims)
    for number in range(int(count)):
        share = FIRST + (LAST - FIRST) * chance.random()
        if kill:
            told = kill(what, media, folder / str(number), share * seconds, calm)
        else:
            _resize(Path(victims), ENOUGH)
            before = prepare(folder / BEFORE, Path(victims) / "out")
            told = fill_one(what, media, Path(victims), int(share * (most - size)) >> 10, (before, calm))
        print(json.dumps(told | {"share": round(share, 3), "of": round(seconds, 2)}), flush=True)


def use_simple_models() -> None:
    """Let runs of this process describe pictures by their mean color."""
    models = (MeanColor(), None)
    for module in (images, image_index):
        module.load_image_models = lambda descriptor, detector: models  # type: ignore[attr-defined]
    for module in (videos, video_index):
        module.load_video_models = lambda descriptor, detector: models  # type: ignore[attr-defined]


if __name__ == "__main__":
    use_simple_models()
    chosen, flow, chosen_seed, times, *places = sys.argv[1:]
    if flow in TRAININGS:
        import_module(f"copytrace.training.{TRAININGS[flow]}")
    main(chosen, flow, chosen_seed, times, *map(Path, places))
