"""Thousands of hostile media, decoded one by one; `make test-faults` runs it, which takes a quarter of an hour.

COPYTRACE_SEED chooses other files; the seed of a run that fails is in the names of its files.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from copytrace.errors import DecodingLimitError, MediaError, NotMediumError
from copytrace.media.decode import decode_image
from copytrace.media.decoding_limits import DecodingLimits
from copytrace.media.frames import read_frames
from tests.faults.hostile_media import (
    HostileFile,
    clip_bombs,
    encode_clips,
    encode_pictures,
    mutations,
    picture_bombs,
)
from tests.faults.odd_media import READ, hidden_clip_bombs, hidden_picture_bombs, odd_clips, odd_pictures

Pixels = NDArray[np.uint8]
IMAGES, VIDEOS = 2000, 300
LIMITS = DecodingLimits(seconds=2.0, memory=64)
THREADS = 2
LONGEST = 20.0  # times the limit of processor time, of waiting; other programs may keep the processors busy

SEED = int(os.environ.get("COPYTRACE_SEED", "1"))


def read_image(path: str) -> int:
    return decode_image(path, short_side=1024, limits=LIMITS).pixels.nbytes


def read_video(path: str) -> int:
    return sum(frame.pixels.nbytes for frame in read_frames(path, short_side=288, threads=1, limits=LIMITS))


def outcome(read: Callable[[str], int], path: str) -> str:
    try:
        return "read" if read(path) else "nothing"
    except NotMediumError:
        return "passed over"
    except DecodingLimitError as error:
        return f"given up: {error}"
    except MediaError as error:
        assert str(error)
        assert "\n" not in str(error)
        return "failed"


def peak_of_workers() -> Iterator[int]:
    for process in psutil.Process().children(recursive=True):
        try:
            yield process.memory_info().rss
        except psutil.Error:
            continue


@pytest.mark.parametrize(
    ("whole", "bombs", "read"),
    [(odd_pictures, hidden_picture_bombs, read_image), (odd_clips, hidden_clip_bombs, read_video)],
)
def test_odd_media_are_read_and_hidden_bombs_harm_nothing(
    tmp_path: Path,
    photos: Mapping[str, Pixels],
    whole: Callable[[Pixels], Iterator[HostileFile]],
    bombs: Callable[[Pixels], Iterator[tuple[HostileFile, str]]],
    read: Callable[[str], int],
) -> None:
    before, largest = psutil.Process().memory_info().rss, 0
    for file, reason in [*((file, READ) for file in whole(photos["rocket"])), *bombs(photos["rocket"])]:
        path = tmp_path / file.name
        path.write_bytes(file.content)
        if reason == READ:
            assert read(str(path)), file.name
        else:
            with pytest.raises(MediaError, match=reason):
                read(str(path))
        largest = max(largest, *peak_of_workers(), 0)
    assert psutil.Process().memory_info().rss - before < 512 << 20
    assert largest < (LIMITS.memory + 256) << 20


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("kind", "count", "encode", "bombs", "read"),
    [
        ("images", IMAGES, encode_pictures, picture_bombs, read_image),
        ("videos", VIDEOS, encode_clips, clip_bombs, read_video),
    ],
)
def test_each_of_many_hostile_files_ends_in_time_with_a_reason(
    tmp_path: Path,
    photos: Mapping[str, Pixels],
    kind: str,
    count: int,
    encode: Callable[[Pixels], dict[str, bytes]],
    bombs: Callable[[Pixels], Iterator[tuple[object, str]]],
    read: Callable[[str], int],
) -> None:
    coded = encode(photos["rocket"])
    good = tmp_path / next(iter(coded))
    good.write_bytes(coded[next(iter(coded))])
    before, seconds, outcomes, largest = psutil.Process().memory_info().rss, [], Counter[str](), 0

    def look_at(numbered: tuple[int, object]) -> tuple[str, float]:
        number, file = numbered
        path = tmp_path / f"seed{SEED}-{number}-{file.name}"  # type: ignore[attr-defined]
        path.write_bytes(file.content)  # type: ignore[attr-defined]
        begin = time.perf_counter()
        told = outcome(read, str(path))
        took = time.perf_counter() - begin
        assert took < LONGEST * LIMITS.processor_seconds(path.stat().st_size), path
        path.unlink()
        return told, took

    files = [*mutations(coded, count, SEED), *(file for file, _ in bombs(photos["rocket"]))]
    with ThreadPoolExecutor(THREADS) as pool:
        for told, took in pool.map(look_at, enumerate(files)):
            outcomes[told] += 1
            seconds.append(took)
            largest = max(largest, *peak_of_workers(), 0)
    assert outcome(read, str(good)) == "read"
    grown = psutil.Process().memory_info().rss - before
    print(f"\n{len(files)} {kind}, seed {SEED}: {dict(outcomes)}")
    print(f"longest {max(seconds):.1f} s; this process grew by {grown >> 20} MiB; largest worker {largest >> 20} MiB")
    assert grown < 512 << 20
    assert largest < (LIMITS.memory + 256) << 20
