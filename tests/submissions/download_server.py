"""A web server of files that breaks off transfers and can continue them, and lists them as an S3 store does."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape


class DownloadServer(ThreadingHTTPServer):
    """It serves `files` by path; `cuts` says how many more times a path's transfer breaks off in its middle.

    `requests` has method, path and Range of each request, and `signed` those that had a signature.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(files)
        self.cuts: dict[str, int] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.signed: list[str] = []

    @property
    def url(self) -> str:
        """The address, without a slash at its end."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def bodies(self) -> list[str]:
        """The paths that were sent from their beginning."""
        return [path for method, path, asked in self.requests if method == "GET" and asked in {"", "bytes=0-"}]


@contextmanager
def serve_downloads(files: Mapping[str, bytes]) -> Iterator[DownloadServer]:
    """Serve files by path, such as `/folder/file.zip`, on this machine."""
    with DownloadServer(files) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: DownloadServer

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, with_body: bool) -> None:
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        self.server.requests.append((self.command, path, self.headers.get("Range", "")))
        if "Authorization" in self.headers:
            self.server.signed.append(path)
        if "list-type" in query:
            self._send(200, self._listing(path, query.get("prefix", [""])[0]), with_body)
        elif path not in self.server.files:
            self._send(404, b"", with_body)
        else:
            self._send_file(path, with_body)

    def _send_file(self, path: str, with_body: bool) -> None:
        content = self.server.files[path]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        if start >= len(content):
            self._send(416, b"", with_body)
            return
        rest, headers = content[start:], {}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = with_body and self.server.cuts.get(path, 0) > 0
        if cut:
            self.server.cuts[path] -= 1
        self._send(206 if asked else 200, rest, with_body, headers, len(rest) // 2 if cut else None)

    def _send(
        self,
        status: int,
        body: bytes,
        with_body: bool,
        headers: Mapping[str, str] | None = None,
        sent: int | None = None,
    ) -> None:
        self.send_response(status)
        fixed = {"Content-Length": str(len(body)), "Accept-Ranges": "bytes", "ETag": f'"{_md5(body)}"'}
        for name, value in {**fixed, **(headers or {}), "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body[:sent])
        self.close_connection = True

    def _listing(self, bucket: str, prefix: str) -> bytes:
        names = {path.removeprefix(f"{bucket}/"): content for path, content in sorted(self.server.files.items())}
        entries = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(content)}</Size><ETag>{_md5(content)}</ETag>"
            "<LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
            for name, content in names.items()
            if name.startswith(prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
