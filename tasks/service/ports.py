"""Ports of loopback that the servers listen on."""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass
from typing import Self

HOST = "127.0.0.1"
# Below the ports that the system hands out by itself, and SeaweedFS wants the port 10,000 further too.
_OURS = range(12_000, 22_000)


@dataclass(frozen=True)
class Ports:
    """Where the four servers listen."""

    prefect: int = 4200
    mlflow: int = 5000
    s3: int = 8333
    postgresql: int = 5432

    @classmethod
    def free(cls) -> Self:
        """Return ports that nobody listens on."""
        return cls(*free_ports(4))

    @classmethod
    def usual(cls) -> Self:
        """Return the ports that each server is known by; in place of one that is taken, a free one."""
        known, spare = cls(), iter(free_ports(4))
        numbers = (known.prefect, known.mlflow, known.s3, known.postgresql)
        return cls(*(number if is_free(number) else next(spare) for number in numbers))


def is_free(port: int) -> bool:
    """Return whether nobody listens on `port`."""
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that has just ended does not count
        try:
            free.bind((HOST, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Return `count` different ports that nobody listens on, nor on those 10,000 further."""
    found: list[int] = []
    for port in random.sample(_OURS, len(_OURS)):
        if len(found) == count:
            break
        if is_free(port) and is_free(port + 10_000):
            found.append(port)
    return found
