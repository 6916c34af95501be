"""The lease of an output folder: one holder, who is named to others, succeeded when dead, and then cannot write."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from copytrace import lease
from copytrace.errors import CopytraceError, InUseError, LeaseLostError
from copytrace.lease import check_lease, current_claims, find_holder, hold_lease, join_run
from copytrace.object_store import StoredPath
from copytrace.storage import open_output, remove_file, remove_tree, write_json


@pytest.fixture(params=["disk", "store"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder that holds a file."""
    if request.param == "disk":
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "earlier").touch()
        yield tmp_path / "out"
        return
    place: Any = StoredPath("memory://leased")
    (place / "earlier").write_bytes(b"")
    yield place
    if place.exists():
        place.remove_all()


def record_of(out: Path) -> tuple[Path, dict[str, Any]]:
    (path,) = (out / lease.FOLDER).glob("token-*.json")
    return path, json.loads(path.read_text())


def leave_behind(out: Path, **changes: object) -> None:
    """Leave the lease of a run that did not give it back, with some changes in its record."""
    with hold_lease(out):
        path, record = record_of(out)
    path.write_bytes(json.dumps(record | changes).encode())


ELSEWHERE = {"machine": "another", "host": "node7", "pid": 4711, "command": "copytrace match-images a b --out c"}


def test_a_second_run_is_refused_in_one_line_that_names_the_first(out: Path) -> None:
    with hold_lease(out), join_run(()), pytest.raises(InUseError) as refused, hold_lease(out):
        pass
    line = str(refused.value)
    assert re.search(
        rf"{out} is in use by `.*` \(process \d+ on \S+\), which began 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC and gave a "
        r"sign of life 20\d\d-.* UTC; wait until that has ended, stop it, or give another folder$",
        line,
    )
    assert "\n" not in line


def test_runs_one_after_another_get_growing_tokens(out: Path) -> None:
    for token in (1, 2, 3):
        with hold_lease(out):
            assert record_of(out)[1]["token"] == token
        assert find_holder(out) == ""


def test_a_run_holds_its_folder_once_however_often_it_asks(out: Path) -> None:
    with hold_lease(out), hold_lease(out, out / "work"), hold_lease(out):
        assert [claim.token for claim in current_claims()] == [1, 1]
    assert current_claims() == ()


def test_a_run_that_died_on_this_machine_is_succeeded_at_once(out: Path) -> None:
    leave_behind(out, pid=2**22 + 1)  # above the greatest number that Linux gives
    begin = time.monotonic()
    with hold_lease(out):
        assert record_of(out)[1]["token"] == 2
    assert time.monotonic() - begin < lease.LEASE_SECONDS / 4


def test_another_process_with_the_number_of_a_dead_one_is_not_taken_for_it(out: Path) -> None:
    leave_behind(out, process="1")  # this process began later
    with hold_lease(out):
        assert record_of(out)[1]["token"] == 2


STRANGER = """
import encodings.ascii, os, sys  # before the home of Python may not be readable
from pathlib import Path
from copytrace import lease
from copytrace.errors import InUseError
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    with lease.hold_lease(Path(sys.argv[1])):
        print("took it over")
except InUseError as error:
    print(error)
"""


def test_a_run_of_another_user_that_proc_does_not_show_is_not_taken_for_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hidden = ["unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh"]
    if subprocess.run([*hidden, "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root can hide processes")
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lease, "_now", lambda: f"{time.monotonic_ns():020}")
    with tempfile.TemporaryDirectory() as folder, hold_lease(Path(folder) / "out"):
        (Path(folder) / "out" / "earlier").touch()
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o777)
        stranger = [sys.executable, "-c", STRANGER, str(Path(folder) / "out")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([*hidden, *stranger], env=environment, capture_output=True, text=True, check=False)
        assert re.match(rf"{folder}/out is in use by `.*` \(process {os.getpid()} on ", done.stdout), done


def test_a_silent_run_on_another_machine_is_succeeded_after_the_time_of_a_lease(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.4)
    leave_behind(out, **ELSEWHERE)
    begin = time.monotonic()
    with hold_lease(out):
        assert time.monotonic() - begin >= 0.4


def test_a_run_on_another_machine_that_gives_a_sign_of_life_is_not_succeeded(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SECONDS_BETWEEN_LOOKS", 0.02)
    leave_behind(out, **ELSEWHERE)
    path, record = record_of(out)
    later = json.dumps(record | {"heartbeat": "later"}).encode()
    sign = threading.Timer(0.2, path.write_bytes, [later])
    sign.start()
    with (
        pytest.raises(InUseError, match=r"`copytrace match-images a b --out c` \(process 4711 on node7\)"),
        hold_lease(out),
    ):
        pass
    sign.join()


def test_a_damaged_lease_is_succeeded_after_its_time(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.1)
    with hold_lease(out):
        path, _ = record_of(out)
    path.write_bytes(b'{"state": "hel')
    with hold_lease(out):
        assert record_of(out)[1]["token"] == 2


def test_a_paused_run_cannot_write_or_delete_once_it_is_succeeded(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.1)
    with hold_lease(out):
        write_json(out / "a.json", 1)
        path, record = record_of(out)
        path.write_bytes(json.dumps(record | ELSEWHERE).encode())  # as another machine sees this run
        with join_run(()), hold_lease(out):
            write_json(out / "a.json", 2)
            for change in (
                lambda: write_json(out / "a.json", 1),
                lambda: remove_file(out / "a.json"),
                lambda: remove_tree(out),
            ):
                with (
                    join_run((lease.Claim(out, 1, record["owner"]),)),
                    pytest.raises(LeaseLostError, match="was taken over by"),
                ):
                    change()
    assert json.loads((out / "a.json").read_text()) == 2
    assert record_of(out)[1] | {"state": "free", "token": 2} == record_of(out)[1]


def test_a_run_whose_lease_was_deleted_by_hand_stops(out: Path) -> None:
    with hold_lease(out):
        record_of(out)[0].unlink()
        with pytest.raises(LeaseLostError, match=r"token-1.json was deleted while this run wrote into"):
            write_json(out / "a.json", 1)
    assert not (out / "a.json").exists()


def test_a_run_may_write_elsewhere_whatever_happens_to_its_lease(out: Path, tmp_path: Path) -> None:
    with hold_lease(out):
        record_of(out)[0].unlink()
        write_json(tmp_path / "outside.json", 1)
        check_lease(tmp_path / "out2")


def test_processes_that_work_for_a_run_check_its_claims(out: Path) -> None:
    with hold_lease(out):
        claims = current_claims()
    with join_run(claims):
        write_json(out / "a.json", 1)  # given back, but nobody has taken it
    with hold_lease(out):
        pass
    with join_run(claims), pytest.raises(LeaseLostError):
        write_json(out / "a.json", 2)


def test_a_holder_gives_signs_of_life(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(lease, "_now", lambda: f"{time.monotonic_ns():020}")
    with hold_lease(out):
        first = record_of(out)[1]["heartbeat"]
        deadline = time.monotonic() + 20
        while record_of(out)[1]["heartbeat"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_run_that_writes_nothing_leaves_nothing(tmp_path: Path) -> None:
    with hold_lease(tmp_path / "a" / "b", tmp_path / "a" / "b" / "work" / "queries"):
        assert find_holder(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    stored: Any = StoredPath("memory://nothing")
    with hold_lease(stored):
        assert find_holder(stored)
    assert not stored.exists()


def test_what_a_dead_run_had_begun_to_write_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "earlier").touch()
    leave_behind(tmp_path, pid=2**22 + 1)
    parts = [tmp_path / ".manifest.parquet.a1b2c3d4.part", tmp_path / "points" / ".00001.parquet.zz_00_zz.part"]
    kept = [tmp_path / "points" / "00001.parquet", tmp_path / "film.part", tmp_path / ".film.part"]
    (tmp_path / "points").mkdir()
    for path in [*parts, *kept]:
        path.write_bytes(b"1")
    with hold_lease(tmp_path):
        assert not any(path.exists() for path in parts)
        assert all(path.exists() for path in kept)


def test_a_folder_without_hard_links_is_leased_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with hold_lease(tmp_path), join_run(()), pytest.raises(InUseError), hold_lease(tmp_path):
        pass
    assert not list(tmp_path.rglob("*.part"))


def test_keys_in_a_command_are_not_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/opt/bin/copytrace", "index-images", "https://key:secret@store/photos?sign=1"])
    with hold_lease(tmp_path):
        assert record_of(tmp_path)[1]["command"] == "copytrace index-images https://store/photos"


def test_an_output_is_yielded_as_a_path_and_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(CopytraceError, match="stop"), open_output(str(tmp_path / "out")) as root:
        assert (root, find_holder(root) != "") == (tmp_path / "out", True)
        raise CopytraceError("stop")
    assert find_holder(tmp_path / "out") == ""


def test_a_disk_without_room_for_a_lease_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fill)
    out = tmp_path / "out"
    told = rf"^\[Errno {errno.ENOSPC}\] No space left on device: '{out}/{lease.FOLDER}/token-1.json'$"
    with pytest.raises(OSError, match=told), hold_lease(out):
        pass
    assert not list(out.rglob("*.part"))
