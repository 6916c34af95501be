"""Faults of a store that pass: they are waited out, and are never taken for a fault of the file."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.images import ImageSettings
from copytrace.errors import MediaError, StorageError
from copytrace.index import image_index
from copytrace.media import sources
from copytrace.media.decode import decode_image
from copytrace.media.files import list_media
from copytrace.media.frames import read_frames
from copytrace.overlays.boxes import Box

PHOTO = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)


class FaultyServer(ThreadingHTTPServer):
    """A server of files, whose answers to GET fail in the ways of `faults`, one after another; then they are right."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []

    def uri(self, name: str, content: bytes) -> str:
        self.files[f"/{name}"] = content
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer(head=False)

    def answer(self, head: bool) -> None:
        content = self.server.files.get(self.path)
        fault = self.server.faults.pop(0) if self.server.faults and not head else ""
        if content is None or fault.isdigit():
            self.send_response(int(fault or 404))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, stop, total = 0, len(content), len(content)
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(total, int(last or total) + 1)
        self.send_response(206 if wanted else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{total}")
        self.end_headers()
        if head:
            return
        if fault:
            self.wfile.write(content[start : start + (stop - start) // 2])
            self.wfile.flush()
            if fault == "stall":
                threading.Event().wait(5)
            self.close_connection = True
            return
        self.wfile.write(content[start:stop])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setattr(sources, "PAUSES", (0.05, 0.05))
    monkeypatch.setattr(sources, "READ_SECONDS", 2.0)
    with FaultyServer() as running:
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        yield running
        running.shutdown()


def png() -> bytes:
    content = io.BytesIO()
    Image.fromarray(PHOTO).save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize("faults", [["503"], ["500", "503"], ["closed"], ["closed", "503"], ["stall"]])
def test_an_image_is_read_once_a_fault_has_passed(server: FaultyServer, faults: list[str]) -> None:
    uri = server.uri("a.png", png())
    server.faults = list(faults)
    np.testing.assert_array_equal(decode_image(uri).pixels, PHOTO)
    assert not server.faults


@pytest.mark.parametrize("faults", [["503"], ["closed"]])
def test_a_video_is_read_once_a_fault_has_passed(
    server: FaultyServer, film: Callable[..., Path], faults: list[str]
) -> None:
    path = film("a.mp4", 30)
    uri = server.uri("a.mp4", path.read_bytes())
    server.faults = list(faults)
    assert len(list(read_frames(uri))) == len(list(read_frames(str(path)))) == 3
    assert not server.faults


def test_a_fault_that_stays_is_an_error_of_the_store(server: FaultyServer) -> None:
    uri = server.uri("a.png", png())
    server.faults = ["503"] * 100
    with pytest.raises(StorageError, match=r"/a.png cannot be read now \(ClientResponseError\), though it was tried 3"):
        decode_image(uri)


def test_a_missing_object_is_a_fault_of_the_file(server: FaultyServer) -> None:
    with pytest.raises(MediaError, match=r"^file not found$"):
        decode_image(server.uri("a.png", png()) + ".gone")


@pytest.mark.parametrize("place", ["nowhere://a", "http://", "http://[::1", "file:///", "reference://a", "s3://"])
def test_an_address_of_no_file_is_a_fault_of_its_row_and_ends_no_run(tmp_path: Path, place: str) -> None:
    (tmp_path / "a.csv").write_text(f"id,path\na,{place}\nb,good.png\n")
    assert [item.id for item in list_media(tmp_path / "a.csv")] == ["a", "b"]
    with pytest.raises(MediaError, match=r"^its address is not that of a file"):
        decode_image(place)


class WholeDetector:
    """A detector that sees one box in every picture."""

    digest = "whole"

    def detect(self, pixels: np.ndarray) -> list[Box]:
        return [Box(0.25, 0.25, 0.75, 0.75, 0.9)]


def test_preprocessing_is_not_done_while_a_store_fails_and_misses_no_box_once_it_does_not(
    server: FaultyServer,
    tmp_path: Path,
    image_settings: ImageSettings,
    grid_descriptor: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = (grid_descriptor, WholeDetector())
    monkeypatch.setattr(image_index, "load_image_models", lambda descriptor, detector: models)
    manifest, root = tmp_path / "images.csv", tmp_path / "index"
    manifest.write_text(f"id,path\na,{server.uri('a.png', png())}\n")
    (shard,) = image_index.plan_images(str(manifest), root, "queries", image_settings, replace=False)
    server.faults = ["503"] * 100
    with pytest.raises(StorageError):
        image_index.find_overlays(root, shard, image_settings)
    server.faults = ["503"]
    boxes = image_index.read_overlays(image_index.find_overlays(root, shard, image_settings))
    assert len(boxes["a"]) == 1
