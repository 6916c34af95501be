"""A real S3 store behind a proxy that fails now and then."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
import s3fs
from numpy.typing import NDArray
from PIL import Image

from configs.images import ImageSettings
from copytrace.images import match_images
from copytrace.media import sources
from copytrace.media.failures import read_failures
from tasks.service.seaweedfs import SeaweedFS
from tests.few_points import FEW_POINTS

Pixels = NDArray[np.uint8]
QUICK = ImageSettings.model_validate(
    {
        "descriptor": {"input_size": 128},
        "local": FEW_POINTS,
        "overlay": {"detector": "edges"},
        "report": {"max_matches": 5},
    }
)


class FaultyProxy(ThreadingHTTPServer):
    """A proxy of the server at `port`, whose answers to requests for pictures fail in the ways of `faults` first."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Forwarding)
        self.port = port
        self.faults: list[str] = []


class Forwarding(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def forward(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():  # the host too, which is signed
            connection.putheader(name, value)
        connection.endheaders(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        answer = connection.getresponse()
        content = answer.read()
        is_picture = self.command == "GET" and self.path.partition("?")[0].endswith(".png")
        fault = self.server.faults.pop(0) if is_picture and self.server.faults else ""
        if fault == "503":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "content-length", "server", "date"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault else content)
        if fault:
            self.wfile.flush()
            if fault == "stall":
                threading.Event().wait(15)
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815 - the names that are called

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def proxy(object_store: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with FaultyProxy(int(object_store.endpoint.rpartition(":")[2])) as running:
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        address = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{running.server_port}"}
        for name, value in (object_store.client_environment | address).items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield running
        s3fs.S3FileSystem.clear_instance_cache()
        running.shutdown()


def test_faults_that_pass_change_nothing_in_a_run(
    proxy: FaultyProxy,
    object_store: SeaweedFS,
    photos: Mapping[str, Pixels],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "READ_SECONDS", 5.0)
    root = f"s3://{object_store.bucket}/faulty"
    for side, names in (("queries", ("chelsea", "rocket")), ("references", ("chelsea", "coffee"))):
        for name in names:
            with fsspec.open(f"{root}/{side}/{name}.png", "wb") as file:
                Image.fromarray(photos[name]).save(file, "PNG")
    match_images(f"{root}/queries", f"{root}/references", tmp_path / "calm", QUICK)
    proxy.faults = ["503", "closed", "", "503", "stall", "", "closed", "503"]
    match_images(f"{root}/queries", f"{root}/references", tmp_path / "rough", QUICK)
    assert not proxy.faults
    assert read_failures(tmp_path / "rough" / "failures.csv") == []
    assert (tmp_path / "rough" / "matches.csv").read_bytes() == (tmp_path / "calm" / "matches.csv").read_bytes()
    boxes = [tmp_path / run / "work" / "queries" / "overlays" / "00000.parquet" for run in ("calm", "rough")]
    assert boxes[0].read_bytes() == boxes[1].read_bytes()
