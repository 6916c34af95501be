"""A server as a process: started, waited for, and stopped with what it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

from tasks.service.ports import free_ports
from tasks.service.server_process import SECONDS_TO_STOP, ServerError, ServerProcess, responds

SERVER = """
    import http.server, pathlib, subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    pathlib.Path("child").write_text(str(child.pid))
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def server(folder: Path, code: str = SERVER) -> ServerProcess:
    [port] = free_ports(1)
    return ServerProcess(
        name="the test server",
        command=[sys.executable, "-c", dedent(code), str(port)],
        log=folder / "server.log",
        is_healthy=lambda: responds(f"http://127.0.0.1:{port}/"),
        environment=os.environ,
        folder=folder,
    )


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_it_is_healthy_in_the_block_and_gone_after_it_with_what_it_started(tmp_path: Path) -> None:
    with server(tmp_path) as running:
        assert running.is_healthy()
        assert running.exit_code is None
        child = int((tmp_path / "child").read_text())
        assert not is_gone(child)
    assert not running.is_healthy()
    assert is_gone(child)


def test_one_that_ends_at_once_says_where_its_log_is_and_how_that_ends(tmp_path: Path) -> None:
    broken = server(tmp_path, "raise SystemExit('the disk is full')")
    with pytest.raises(ServerError, match=r"test server ended with exit code 1; see .*server\.log, .*the disk is full"):
        broken.__enter__()


def test_one_that_does_not_become_healthy_is_given_up_and_stopped(tmp_path: Path) -> None:
    deaf = server(tmp_path, "import time; time.sleep(600)")
    deaf.start()
    [process] = [one for one in psutil.Process().children() if str(tmp_path) == one.cwd()]
    with pytest.raises(ServerError, match="not healthy after 1 s"):
        deaf.wait(seconds=1)
    deaf.stop()
    assert is_gone(process.pid)


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    missing = server(tmp_path)
    missing.command = ["no-such-program"]
    with pytest.raises(ServerError, match="there is no no-such-program"):
        missing.start()


def test_what_was_left_by_one_who_was_killed_is_ended_before_the_next_start(tmp_path: Path) -> None:
    script = f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_server_process import server
        left = server(Path({str(tmp_path)!r}))
        left.start()
        left.wait()
        print("ready", flush=True)
        time.sleep(600)
    """
    killed = subprocess.Popen([sys.executable, "-c", dedent(script)], stdout=subprocess.PIPE, text=True)
    assert killed.stdout
    assert killed.stdout.readline() == "ready\n"
    pid, child = int((tmp_path / "server.pid").read_text().split()[0]), int((tmp_path / "child").read_text())
    killed.kill()
    killed.wait()
    assert not is_gone(pid)
    with server(tmp_path):
        assert is_gone(pid)
        assert is_gone(child)


def test_it_hears_an_interrupt_even_if_whoever_started_it_ignores_them(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupted = server(tmp_path)
        interrupted.stop_signal = signal.SIGINT
        with interrupted:
            began = time.monotonic()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < SECONDS_TO_STOP, "it was killed in the end"
