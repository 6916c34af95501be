"""A proxy before a server that can seem to be away, or to be paused."""

from __future__ import annotations

import contextlib
import socket
import threading


class TcpProxy:
    """Passes connections to 127.0.0.1:`port` on.

    While it is `away`, it drops and refuses all of them, as if there were no server. Unless `passes` is set, it takes
    them and lets nothing through, as if the server were paused.
    """

    def __init__(self, port: int) -> None:
        self._to, self._listener = port, socket.create_server(("127.0.0.1", 0))
        self.passes = threading.Event()
        self.passes.set()
        self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._is_away = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def away(self) -> bool:
        return self._is_away

    @away.setter
    def away(self, value: bool) -> None:
        self._is_away = value
        if value:
            for each in list(self._open):
                close(each)

    def close(self) -> None:
        self.away = True
        self.passes.set()
        close(self._listener)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.away:
                close(client)
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._to), timeout=60)
            except OSError:
                close(client)
                continue
            server.settimeout(None)
            self._open |= {client, server}
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.passes.wait()
                target.sendall(data)
        for each in (source, target):
            close(each)
            self._open.discard(each)


def close(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
