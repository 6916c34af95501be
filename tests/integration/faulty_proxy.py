"""A proxy before a real S3 server that fails now and then."""

from __future__ import annotations

import http.client
import random
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KINDS = ("503", "closed", "lost", "slow")


class FaultyProxy(ThreadingHTTPServer):
    """A proxy of the server at `port` that answers some requests otherwise.

    Requests for pictures fail in the ways of `faults`, one after another. After `fail_at_random`, one of `every`
    requests of any kind fails in one of `KINDS`: it is refused by 503, its answer is closed in the middle or lost,
    though the server did what it was asked to do, or the second half of the answer comes late.
    """

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Forwarding)
        self.port = port
        self.faults: list[str] = []
        self.done: Counter[str] = Counter()  # requests that failed, by kind; "" is those that did not
        self._chance, self._every = random.Random(), 0

    def fail_at_random(self, seed: str, every: int) -> None:
        """Draw the requests that fail by a seed; none, if `every` is 0."""
        self._chance, self._every = random.Random(seed), every
        self.done.clear()

    def draw_fault(self, *, is_picture: bool) -> str:
        """Return how the next request fails; "" if it does not."""
        fault = self.faults.pop(0) if is_picture and self.faults else ""
        if self._every and not self._chance.randrange(self._every):
            fault = self._chance.choice(KINDS)
        self.done[fault] += 1
        return fault


class Forwarding(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def forward(self) -> None:
        is_picture = self.command == "GET" and self.path.partition("?")[0].endswith(".png")
        fault = self.server.draw_fault(is_picture=is_picture)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault == "503":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():  # the host too, which is signed
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if fault == "lost":
            self.close_connection = True
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
            threading.Event().wait({"stall": 15, "slow": 1}.get(fault, 0))
            if fault == "slow":
                self.wfile.write(content[len(content) // 2 :])
            else:
                self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815 - the names that are called

    def log_message(self, *_: object) -> None:
        pass
