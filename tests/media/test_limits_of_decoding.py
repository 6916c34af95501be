"""Files that are small and cost much: each ends at a limit, with the reason."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.registry import known_implementations
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from PIL import Image

from copytrace.errors import DecodingLimitError, MediaError, StorageError
from copytrace.media import sources
from copytrace.media.decode import decode_image
from copytrace.media.decoding_limits import DecodingLimits
from copytrace.media.frames import open_video, read_frames

LARGE = (6000, 5000)  # pixels


def jpeg(size: tuple[int, int], **options: object) -> bytes:
    content = io.BytesIO()
    Image.new("L", size, 90).save(content, "JPEG", **options)
    return content.getvalue()


def with_many_scans(content: bytes, count: int) -> bytes:
    """Repeat the last scan of a progressive JPEG."""
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * count + content[-2:]


def test_a_jpeg_of_many_scans_ends_at_the_limit_of_time(tmp_path: Path) -> None:
    path = tmp_path / "scans.jpg"
    path.write_bytes(with_many_scans(jpeg(LARGE, progressive=True), 1000))
    assert path.stat().st_size < 10_000_000
    with pytest.raises(DecodingLimitError, match=r"^took longer than \d+ s of processor time to decode"):
        decode_image(str(path), limits=DecodingLimits(seconds=1e-9))


def test_holes_of_a_file_give_it_no_more_time(tmp_path: Path) -> None:
    path = tmp_path / "scans.jpg"
    path.write_bytes(with_many_scans(jpeg(LARGE, progressive=True), 300))
    os.truncate(path, 64 << 30)
    with pytest.raises(DecodingLimitError, match=r"^took longer than \d{1,2} s of processor time to decode"):
        decode_image(str(path), limits=DecodingLimits(seconds=1e-9))


@pytest.mark.parametrize("read", [decode_image, open_video])
def test_a_file_whose_end_cannot_be_found_is_a_fault_of_the_file(read: Callable[[str], object]) -> None:
    with pytest.raises(MediaError, match=r"^cannot be opened: Invalid argument$"):
        read("/proc/self/status")


@pytest.mark.parametrize(("mode", "kind"), [("F", "TIFF"), ("RGBA", "PNG"), ("L", "JPEG2000")])
def test_an_image_that_needs_too_much_memory_is_given_up(
    tmp_path: Path, mode: str, kind: str, new_decoders: None
) -> None:
    path = tmp_path / "large"
    Image.new(mode, LARGE, 1).save(path, kind, **({"compression": "tiff_deflate"} if kind == "TIFF" else {}))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(DecodingLimitError, match=r"^needs more than 64 MiB of memory to decode \(media.max_memory\)$"):
        decode_image(str(path), limits=DecodingLimits(memory=64))


def test_a_video_that_needs_too_much_memory_is_given_up(film: Callable[..., Path], new_decoders: None) -> None:
    plain = np.zeros((2000, 3000, 3), np.uint8)
    path = film("large.mp4", [plain] * 12, codec="libx264", options={"preset": "ultrafast", "tune": "zerolatency"})
    with pytest.raises(DecodingLimitError, match=r"^needs more than 64 MiB of memory"):
        list(read_frames(str(path), limits=DecodingLimits(memory=64)))


def test_a_video_is_no_longer_than_its_packets_and_bytes_can_show(film: Callable[..., Path]) -> None:
    path = film("two.mkv", [60, 200], times=[0, 3_590_000], codec="mpeg4")
    assert path.stat().st_size < 2000
    assert open_video(str(path)).info.duration == 180
    starts = []
    with pytest.raises(MediaError, match=r"^has 2 pictures for 3,\d+ s, of which 180 s are credible$"):
        for frame in read_frames(str(path)):
            starts.append(frame.start)
    assert starts == list(range(180))


class CountingStore(AbstractFileSystem):
    """A store with one object, of which it counts the bytes that are read; it answers no read from `stall` on."""

    protocol = "counting"
    content = b""
    stall = 1 << 62
    fetched = 0

    def info(self, path: str, **_: object) -> dict[str, object]:
        return {"name": path, "size": len(self.content), "type": "file"}

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **_: object) -> AbstractBufferedFile:
        return CountingFile(self, path, mode, block_size or 1 << 18)


class CountingFile(AbstractBufferedFile):
    def _fetch_range(self, start: int, end: int) -> bytes:
        if end > CountingStore.stall:
            threading.Event().wait(30)
        CountingStore.fetched += end - start
        return CountingStore.content[start:end]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> type[CountingStore]:
    fsspec.register_implementation("counting", CountingStore, clobber=True)
    monkeypatch.setitem(known_implementations, "counting", {})
    for name in ("content", "stall", "fetched"):
        monkeypatch.setattr(CountingStore, name, getattr(CountingStore, name))
    return CountingStore


def test_of_an_object_only_the_picture_is_read_that_it_begins_with(store: type[CountingStore]) -> None:
    store.content = jpeg((800, 600)) + bytes(64 << 20)
    assert decode_image("counting://a.jpg").pixels.shape == (600, 800, 3)
    assert store.fetched < 20 << 20


def test_a_damaged_object_is_read_once(store: type[CountingStore]) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(photo).save(content, "JPEG", quality=95)
    store.content = content.getvalue()[: len(content.getvalue()) // 2]
    assert decode_image("counting://a.jpg").damage == "truncated JPEG"
    assert store.fetched <= len(store.content)


@pytest.mark.parametrize("read", [decode_image, open_video])
def test_a_store_that_stops_answering_is_not_waited_for(
    store: type[CountingStore], monkeypatch: pytest.MonkeyPatch, read: Callable[[str], object]
) -> None:
    monkeypatch.setattr(sources, "READ_SECONDS", 1)
    monkeypatch.setattr(sources, "PAUSES", (0.0,))
    store.content, store.stall = jpeg((6000, 4000), quality=100) * 20, 1 << 20
    told = r"^counting://a.jpg cannot be read now \(no answer in 1 s\), though it was tried 2 times; run the same"
    with pytest.raises(StorageError, match=told):
        read("counting://a.jpg")
