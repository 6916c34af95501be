"""Decoding in processes of their own: what a file can do to its decoder, and what becomes of the workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from copytrace.errors import DecodingLimitError, MediaError
from copytrace.media import decoding_pool
from copytrace.media.decode import decode_image
from copytrace.media.decoding_channel import Patience
from copytrace.media.decoding_limits import DecodingLimits
from copytrace.media.frames import frames_at, open_video, read_frames

PHOTO = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
# Decoders that do what the second word of a file says, as codecs do to which something bad happens.
FAULTY_DECODERS = """
import ctypes, errno, os, signal, time
from pathlib import Path
import av
from PIL import Image
from copytrace.media import video_pictures

def spin():
    while True:
        pass

FAULTS = {
    b"crash": lambda: ctypes.string_at(0),
    b"abort": os.abort,
    b"exit": lambda: os._exit(3),
    b"hang": lambda: time.sleep(600),
    b"spin": spin,
    b"hunger": lambda: bytearray(1 << 40),
    b"raise": lambda: {}["no such marker"],
    b"killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
}

def open_faulty(stream, name):
    with open(Path(__file__).with_name("opened"), "a") as log:
        log.write("x")
    FAULTS[stream.read(64).split()[1]]()

Image.init()
Image.OPEN["PPM"] = (open_faulty, Image.OPEN["PPM"][1])

rgb_pixels = video_pictures.rgb_pixels
shown = 0

def crash_later(picture, *more):
    global shown
    shown += 1
    if picture.width == 48 and shown > 3:
        ctypes.string_at(0)
    if picture.width == 64:
        raise av.error.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    return rgb_pixels(picture, *more)

video_pictures.rgb_pixels = crash_later
"""


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """A function that writes an image whose decoder has a fault; workers have that decoder as long as the test runs."""
    (tmp_path / "faulty_decoders.py").write_text(FAULTY_DECODERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(decoding_pool, "DECODERS", [*decoding_pool.DECODERS, "faulty_decoders"])
    decoding_pool.close_workers()

    def write(fault: str) -> str:
        path = tmp_path / "images" / f"{fault}.ppm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(f"P6\n{fault}\n".encode() + bytes(64))
        return str(path)

    yield write
    decoding_pool.close_workers()


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("crash", "the decoder crashed (signal 11)"),
        ("abort", "the decoder crashed (signal 6)"),
        ("exit", "the decoder ended unexpectedly (exit status 3)"),
        ("spin", "took longer than 1 s of processor time to decode (media.max_seconds)"),
        ("hang", "the decoder hung for 2 s (media.max_seconds)"),
        ("hunger", "needs more than 512 MiB of memory to decode (media.max_memory)"),
        ("killed", "the decoder was killed, as if memory ran out (lower media.max_memory or media.threads)"),
    ],
)
def test_what_a_file_does_to_its_decoder_costs_that_file(
    faulty: Callable[[str], str], photo: str, fault: str, reason: str
) -> None:
    with pytest.raises(DecodingLimitError) as caught:
        decode_image(faulty(fault), limits=DecodingLimits(seconds=1, memory=512))
    assert str(caught.value) == reason
    np.testing.assert_array_equal(decode_image(photo).pixels, PHOTO)


def test_any_error_of_a_decoder_is_a_reason(faulty: Callable[[str], str]) -> None:
    with pytest.raises(MediaError, match=r"^corrupt PPM$"):
        decode_image(faulty("raise"))


def test_of_a_video_that_crashes_its_decoder_there_are_the_frames_before(
    faulty: Callable[[str], str], film: Callable[..., Path]
) -> None:
    path, frames = film("a.mp4", 100, size=(48, 32)), []
    with pytest.raises(DecodingLimitError, match=r"^the decoder crashed \(signal 11\)$"):
        for frame in read_frames(str(path)):
            frames.append(frame.start)
    assert frames == [0, 1, 2]


NAME = decoding_pool.DECODERS[0]


def starter_of_workers() -> psutil.Process:
    """The process that starts workers, among others that tests may have started."""
    [starter] = [one for one in psutil.Process().children() if any(NAME in part for part in one.cmdline())]
    return starter


def children() -> list[psutil.Process]:
    starter = starter_of_workers()
    return [starter, *starter.children(recursive=True)]


def test_a_video_for_whose_decoder_no_thread_can_be_started_needs_more_memory(
    faulty: Callable[[str], str], film: Callable[..., Path]
) -> None:
    with pytest.raises(DecodingLimitError, match="of memory to decode"):
        list(read_frames(str(film("a.mp4", 4, size=(64, 32)))))


def test_what_starts_workers_has_one_thread_and_only_decoders(photo: str) -> None:
    decode_image(photo)
    starter = starter_of_workers()
    assert starter.num_threads() == 1
    mapped = " ".join(mapping.path for mapping in starter.memory_maps())
    assert "libavcodec" in mapped
    assert not any(library in mapped for library in ("torch", "faiss", "onnxruntime", "arrow"))


def test_a_worker_that_something_else_ended_is_replaced(photo: str) -> None:
    decode_image(photo)
    ended = [process for process in children() if process.ppid() != os.getpid()]
    assert ended
    for process in ended:
        process.terminate()
    np.testing.assert_array_equal(decode_image(photo).pixels, PHOTO)


def test_a_video_whose_decoder_something_else_ended_is_read_on(film: Callable[..., Path]) -> None:
    path = str(film("a.mp4", 60, size=(320, 240)))
    expected = list(read_frames(path, per_second=10))
    frames = read_frames(path, per_second=10)
    read = [next(frames)]
    for process in children():
        if process.status() != psutil.STATUS_ZOMBIE and process.ppid() != os.getpid():
            process.kill()
    read += frames
    assert [frame.start for frame in read] == [frame.start for frame in expected]
    for one, other in zip(read, expected, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_workers_come_back_after_their_starter_was_ended(photo: str) -> None:
    decode_image(photo)
    before = children()
    for process in before:
        process.kill()
    psutil.wait_procs(before)
    np.testing.assert_array_equal(decode_image(photo).pixels, PHOTO)


def test_workers_come_back_while_their_starter_dies(photo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decode_image(photo)
    before = children()
    monkeypatch.setattr(subprocess.Popen, "poll", lambda process: None)  # as if all of them still ran
    for process in before:
        process.kill()
    np.testing.assert_array_equal(decode_image(photo).pixels, PHOTO)


def test_nothing_is_left_running_after_a_process_that_was_killed(photo: str) -> None:
    program = "import sys; from copytrace.media.decode import decode_image as decode\n"
    program += "decode(sys.argv[1])\nprint('ready', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", program, photo], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=with_path()
    ) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == b"ready\n"
        started = psutil.Process(user.pid).children(recursive=True)
        assert len(started) == 2
        user.kill()
    gone, left = psutil.wait_procs(started, timeout=60)
    assert not left
    assert len(gone) == 2


def with_path() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.parametrize("daemon", [False, True])
def test_a_forked_process_has_workers_of_its_own(photo: str, daemon: bool) -> None:
    decode_image(photo)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    forked = context.Process(target=lambda: theirs.send(decode_image(photo).pixels.tobytes()), daemon=daemon)
    forked.start()
    assert ours.poll(120)
    assert ours.recv() == PHOTO.tobytes()
    forked.join()
    np.testing.assert_array_equal(decode_image(photo).pixels, PHOTO)


def test_a_reader_that_stops_early_leaves_no_worker_busy(film: Callable[..., Path]) -> None:
    path = film("a.mp4", 100)
    frames = open_video(str(path)).frames()
    next(frames)
    busy = len(children())
    frames.close()
    assert len(children()) == busy - 1


def test_a_worker_keeps_nothing_of_a_video_that_it_has_read(film: Callable[..., Path]) -> None:
    path = str(film("a.mp4", 100))
    decoding_pool.close_workers()
    for _ in range(5):
        assert len(frames_at(path, [0, 5, 9], 32)) == 3
    assert [worker.num_threads() for worker in children()] == [1, 1]


def test_only_a_worker_that_does_nothing_loses_patience() -> None:
    patience = Patience(60, iter([False, True, *[False] * 100]).__next__)
    patience.spend(50)
    patience.spend(50)  # it has computed meanwhile
    patience.spend(50)
    with pytest.raises(TimeoutError):
        patience.spend(50)


def test_an_interrupt_of_the_terminal_does_not_end_workers(photo: str) -> None:
    decode_image(photo)
    workers = children()
    for process in workers:
        process.send_signal(signal.SIGINT)
    assert [process.pid for process in workers if process.is_running()] == [process.pid for process in workers]
    decode_image(photo)
