"""The watch over runs on a real server, before which there is a proxy, so that it can be away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks import limits
from tasks.service.run_watch import TAG, RunWatch, WatchTimes
from tests.integration.tcp_proxy import TcpProxy

SILENCE = 20.0  # the server shows a heartbeat up to five seconds after it has arrived
PATIENCE = 300.0
BEGUN = (StateType.RUNNING, StateType.FAILED)
RUNS = {"early": 300, "paused": -300, "killed": 0, "stalled": 0}  # by how many seconds the clock of each is wrong


def states() -> dict[str, tuple[StateType, str]]:
    """The state of each run, asked of the server itself."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[TAG])))
    return {run.name: (run.state.type, run.state.message or "") for run in runs if run.state and run.name in RUNS}


@contextmanager
def runs_behind(proxy: TcpProxy, until: Path) -> Iterator[dict[str, int]]:
    """Start the runs, and yield the number of the process of each."""
    url = f"http://127.0.0.1:{proxy.port}/api"
    environment = {**os.environ, "PREFECT_API_URL": url, "PYTHONPATH": os.pathsep.join(sys.path)}
    given = [f"{name}={seconds}" for name, seconds in RUNS.items()]
    command = [sys.executable, "-m", "tests.integration.beating", str(until), *given]
    with subprocess.Popen(
        command, env=environment, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        processes = {name: int(number) for name, number in (parent.stdout.readline().split() for _ in RUNS)}
        try:
            yield processes
        finally:
            until.touch()
            os.kill(processes["paused"], signal.SIGCONT)
            try:
                parent.wait(PATIENCE)
            finally:
                parent.kill()


def test_only_the_dead_are_taken_for_dead_whoever_was_away_and_whatever_the_clocks_say(
    prefect_server: str, tmp_path: Path
) -> None:
    limits._limit_size.cache_clear()
    proxy = TcpProxy(urlsplit(prefect_server).port or 0)
    watch = RunWatch(WatchTimes(silence=SILENCE, look=1))
    seen: list[dict[str, tuple[StateType, str]]] = []

    def look_until(holds: Callable[[dict[str, tuple[StateType, str]]], bool]) -> float:
        begin = time.monotonic()
        while not holds(found := states()):
            seen.append(found)
            assert time.monotonic() - begin < PATIENCE, found
            with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{proxy.port}/api"}):
                watch.look()
            time.sleep(1)
        return time.monotonic() - begin

    def crashed(found: dict[str, tuple[StateType, str]]) -> set[str]:
        return {name for name, (kind, _) in found.items() if kind == StateType.CRASHED}

    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(limits.CPU, 10)
    with runs_behind(proxy, tmp_path / "until") as processes:
        look_until(lambda found: len([kind for kind, _ in found.values() if kind in BEGUN]) == len(RUNS))
        look_until(lambda found: found["stalled"][0] == StateType.FAILED)
        assert states()["stalled"][1].startswith("'nap' has stood at 0 of 2 halves for 0.1 min, so the run ends here.")
        os.kill(processes["killed"], signal.SIGKILL)
        os.kill(processes["paused"], signal.SIGSTOP)
        proxy.passes.clear()
        middle = time.monotonic() + SILENCE - 5
        look_until(lambda found: time.monotonic() > middle)
        proxy.away = True
        proxy.passes.set()
        end = middle + 10
        look_until(lambda found: time.monotonic() > end)
        assert not crashed(states())
        proxy.away = False
        seconds = look_until(lambda found: crashed(found) == {"killed", "paused"})
        assert seconds >= SILENCE
        message = states()["killed"][1]
        assert message.startswith("its process is gone: for 20 s the server was there")
        os.kill(processes["paused"], signal.SIGCONT)
        look_until(lambda found: crashed(found) == {"killed"})
        assert states()["paused"][0] == StateType.RUNNING
    ended = states()
    assert {name: kind for name, (kind, _) in ended.items()} == {
        **dict.fromkeys(RUNS, StateType.COMPLETED),
        "killed": StateType.CRASHED,
        "stalled": StateType.FAILED,
    }
    assert all(crashed(found) <= {"killed", "paused"} for found in seen)
    with get_client(sync_client=True) as client:
        client.delete_global_concurrency_limit_by_name(limits.CPU)
    limits._limit_size.cache_clear()
    proxy.close()
