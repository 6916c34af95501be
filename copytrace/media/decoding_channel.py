"""Messages between a process and its decoding workers: JSON and arrays, over a socket.

A worker is not trusted, since a file may have taken it over: nothing that comes from it is unpickled, and the size of
what it may send is bounded.
"""

from __future__ import annotations

import json
import math
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# What the starter of workers is asked for, and how the id of a worker or the status that it ended with is written.
FORK, END = b"F", b"E"
PROCESS = struct.Struct("<i")

_HEADER = struct.Struct("<I")  # bytes of the JSON that follows
_MOST_JSON = 1 << 20  # bytes
_DTYPES = {"u1": np.uint8, "f8": np.float64, "b1": np.bool_}
_SLICE = 1.0  # seconds between looks at a worker that does not answer


class Patience:
    """The time for which one waits for a worker that does nothing, in seconds.

    `is_at_work` says whether it has computed since the last call. Time in which this process stood still is free.
    """

    def __init__(self, seconds: float, is_at_work: Callable[[], bool]) -> None:
        self._seconds, self._is_at_work = seconds, is_at_work
        self._left = seconds

    def renew(self) -> None:
        """Begin anew, because the worker has done something."""
        self._left = self._seconds

    def spend(self, seconds: float) -> None:
        """Count time without an answer. Raises `TimeoutError` if the worker does nothing and no time is left."""
        if self._is_at_work():
            self.renew()
            return
        self._left -= seconds
        if self._left <= 0:
            raise TimeoutError


class Channel:
    """One end of a connection. Its methods raise `EOFError` or `ConnectionError` if the other end is gone.

    Arrays of more than `most_bytes` are refused, and files unless it `takes_files`. Methods that are given a `Patience`
    raise `TimeoutError` if it ends first.
    """

    def __init__(self, connection: socket.socket, *, takes_files: bool = False) -> None:
        self._socket, self._takes_files = connection, takes_files
        self.most_bytes = 1 << 62

    def send(
        self,
        message: Mapping[str, Any],
        arrays: Sequence[Array] = (),
        *,
        file: int | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Send a JSON-able message with arrays of bytes, float64 or bool, and a descriptor of an open file."""
        forms = [[array.dtype.str[1:], array.shape] for array in arrays]
        text = json.dumps([message, forms]).encode()
        head = memoryview(_HEADER.pack(len(text)) + text)
        if file is not None:
            head = head[socket.send_fds(self._socket, [head], [file]) :]
        self._repeat(self._socket.send, head, patience)
        for array in arrays:
            self._repeat(self._socket.send, _bytes_of(np.ascontiguousarray(array)), patience)

    def receive(self, patience: Patience | None = None) -> tuple[dict[str, Any], list[Array], int | None]:
        """Return the next message, its arrays, and the descriptor of a file that came with it, which is the caller's.

        Raises `ValueError` if the message is none.
        """
        head, files = b"", list[int]()
        if self._takes_files:
            head, files, _, _ = socket.recv_fds(self._socket, _HEADER.size, 1)
        try:
            (length,) = _HEADER.unpack(head + self._receive_bytes(_HEADER.size - len(head), patience))
            if length > _MOST_JSON:
                raise ValueError("the message is too long")
            message, forms = json.loads(self._receive_bytes(length, patience))
            arrays = [self._receive_array(code, shape, patience) for code, shape in forms]
        except BaseException:
            for file in files:
                os.close(file)
            raise
        return message, arrays, files[0] if files else None

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _receive_bytes(self, count: int, patience: Patience | None) -> bytearray:
        received = bytearray(count)
        self._repeat(self._socket.recv_into, memoryview(received), patience)
        return received

    def _receive_array(self, code: str, shape: list[int], patience: Patience | None) -> Array:
        dtype = np.dtype(_DTYPES[code])
        if min(shape) < 0 or math.prod(shape) * dtype.itemsize > self.most_bytes:
            raise ValueError("the array is too large")
        array = np.empty(shape, dtype)
        self._repeat(self._socket.recv_into, _bytes_of(array), patience)
        return array

    def _repeat(self, transfer: Callable[[memoryview], int], view: memoryview, patience: Patience | None) -> None:
        """Transfer all bytes of a view, some at a time."""
        self._socket.settimeout(None if patience is None else _SLICE)
        while view:
            try:
                count = transfer(view)
            except TimeoutError:
                if patience is not None:
                    patience.spend(_SLICE)
                continue
            if not count:
                raise EOFError
            if patience is not None:
                patience.renew()
            view = view[count:]


def _bytes_of(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
