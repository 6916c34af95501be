"""A search on a Dask cluster of several hosts, each in a network of its own, of which one dies."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import pytest
from distributed import Client
from prefect.settings import PREFECT_API_URL, temporary_settings

from configs.images import ImageSettings
from configs.runner import Runner
from copytrace.images import match_images as match_images_by_library
from flows.match_images import match_images
from flows.parameters import flow_settings
from tests.integration.test_dask import IMAGES, bytes_of

NETWORK, SCHEDULER_PORT = "10.213.77", 8786
SECONDS = 400  # on a machine that is busy besides
ONE_BY_ONE: dict[str, Any] = {**IMAGES, "media": {"shard_size": 1}}


@pytest.fixture
def hosts() -> Iterator[list[list[str]]]:
    """Beginnings of commands that run in three network namespaces; host n has the address NETWORK.(n + 2).

    They are joined by a bridge, which is this machine's own way to them.
    """
    bridge = f"ct{os.getpid()}"
    with ExitStack() as made:
        try:
            run_ip(f"link add name {bridge} type bridge")
            made.callback(run_ip, f"link del {bridge}")
            run_ip(f"addr add {NETWORK}.1/24 dev {bridge}")
            run_ip(f"link set {bridge} up")
            names = [f"{bridge}-{number}" for number in range(3)]
            for number, name in enumerate(names):
                run_ip(f"netns add {name}")
                made.callback(run_ip, f"netns del {name}")
                run_ip(f"link add {name} type veth peer name eth0 netns {name}")
                run_ip(f"link set {name} master {bridge} up")
                run_ip(f"-n {name} addr add {NETWORK}.{number + 2}/24 dev eth0")
                run_ip(f"-n {name} link set eth0 up")
                run_ip(f"-n {name} link set lo up")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces can be made here: {error}")
        yield [["ip", "netns", "exec", name] for name in names]


def run_ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, capture_output=True)


@contextmanager
def dask_process(host: list[str], *arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [*host, sys.executable, "-m", "dask", *arguments]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process:
        yield process
        process.kill()


@contextmanager
def forwarded(url: str) -> Iterator[str]:
    """Make the server at a local URL known to the hosts, and yield its URL there."""
    parts = urlsplit(url)
    with socket.create_server((f"{NETWORK}.1", 0)) as server, ExitStack() as opened:

        def copy(source: socket.socket, target: socket.socket) -> None:
            try:
                while data := source.recv(1 << 16):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the other side has gone

        def accept() -> None:
            while True:
                try:
                    here = opened.enter_context(server.accept()[0])
                except OSError:
                    return
                there = opened.enter_context(socket.create_connection((parts.hostname, parts.port)))
                for ends in ((here, there), (there, here)):
                    threading.Thread(target=copy, args=ends, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://{NETWORK}.1:{server.getsockname()[1]}{parts.path}"
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def sides(tmp_path: Path, photos: dict[str, Any]) -> dict[str, str]:
    queries = {"flipped": photos["chelsea"][:, ::-1], "cropped": photos["coffee"][20:160, 30:250]}
    references = {name: photos[name] for name in ("astronaut", "chelsea", "coffee")}
    for side, pictures in {"queries": queries, "references": references}.items():
        (tmp_path / side).mkdir()
        for name, pixels in pictures.items():
            cv2.imwrite(str(tmp_path / side / f"{name}.png"), pixels[..., ::-1])
    return {"queries": str(tmp_path / "queries"), "references": str(tmp_path / "references")}


def test_hosts_of_which_one_dies_write_the_bytes_of_this_process(
    hosts: list[list[str]], sides: dict[str, str], prefect_server: str, tmp_path: Path
) -> None:
    expected, out = tmp_path / "here", tmp_path / "there"
    match_images_by_library(**sides, out=expected, settings=flow_settings(ImageSettings, "cpu", ONE_BY_ONE))
    place = f"tcp://{NETWORK}.2:{SCHEDULER_PORT}"
    alone = ["--nthreads", "1", "--no-nanny", "--no-dashboard"]
    died: list[bool] = []

    def kill_at_first_shard(worker: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + SECONDS
        while not list(out.rglob("receipts/*.json")) and time.monotonic() < until:
            time.sleep(0.02)
        worker.kill()
        died.append(not (out / "matches.csv").exists())

    with ExitStack() as running:
        start = [dask_process(hosts[0], "scheduler", "--host", f"{NETWORK}.2", "--no-dashboard", log=tmp_path / "0")]
        start += [
            dask_process(hosts[n], "worker", place, "--host", f"{NETWORK}.{n + 2}", *alone, log=tmp_path / str(n))
            for n in (1, 2)
        ]
        _, first, second = map(running.enter_context, start)
        with Client(place, timeout=SECONDS) as client:
            client.wait_for_workers(2, timeout=SECONDS)
            assert {worker.split("/")[2].split(":")[0] for worker in client.nthreads()} == {
                f"{NETWORK}.3",
                f"{NETWORK}.4",
            }
        url = running.enter_context(forwarded(prefect_server))
        running.enter_context(temporary_settings({PREFECT_API_URL: url}))
        killer = threading.Thread(target=kill_at_first_shard, args=[first])
        killer.start()
        match_images(**sides, out=str(out), overrides=ONE_BY_ONE, runner=Runner(kind="dask", address=place))
        killer.join()
        assert died == [True]
        assert (first.poll(), second.poll()) == (-9, None)
    assert b'"flipped","chelsea"' in (expected / "matches.csv").read_bytes()
    assert bytes_of(out) == bytes_of(expected)
