"""Ports on the loopback interface for the servers."""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass
from typing import Self

HOST = "127.0.0.1"
# Below the system's ephemeral ports; SeaweedFS also uses each of its ports plus 10,000.
_CANDIDATES = range(12_000, 22_000)


@dataclass(frozen=True)
class Ports:
    """The ports of the four servers."""

    prefect: int = 4200
    mlflow: int = 5000
    s3: int = 8333
    postgresql: int = 5432

    @classmethod
    def pick_free(cls) -> Self:
        """Return free ports."""
        return cls(*free_ports(4))

    @classmethod
    def pick_usual(cls) -> Self:
        """Return the default port of each server, or a free one if it is taken."""
        known, spare = cls(), iter(free_ports(4))
        numbers = (known.prefect, known.mlflow, known.s3, known.postgresql)
        return cls(*(number if is_free(number) else next(spare) for number in numbers))


def is_free(port: int) -> bool:
    """Return whether no process listens on `port`."""
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # ignores connections of a server that has just ended
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Return `count` different ports that are free, as are those 10,000 higher."""
    found: list[int] = []
    for port in random.sample(_CANDIDATES, len(_CANDIDATES)):
        if len(found) == count:
            break
        if is_free(port) and is_free(port + 10_000):
            found.append(port)
    return found
