"""Leases of folders in a real S3 store: one holder, who cannot write when another run has taken over."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from copytrace import lease
from copytrace.errors import InUseError, LeaseLostError
from copytrace.lease import current_claims, hold_lease, join_run
from copytrace.object_store import StoredPath
from copytrace.storage import remove_file, resolve_path, write_json


def test_of_runs_that_start_at_the_same_moment_one_holds_a_folder_of_the_store(store: str) -> None:
    root = resolve_path(f"{store}/leased")
    write_json(root / "earlier.json", 1)

    def try_to_hold(begin: Barrier, end: Barrier) -> int:
        begin.wait()
        try:
            with hold_lease(root):
                (claim,) = current_claims()
                end.wait()
                return claim.token
        except InUseError as error:
            assert f"{root} is in use by `" in str(error)
            end.wait()
            return 0

    for token in range(1, 6):
        begin, end = Barrier(6), Barrier(6)
        with ThreadPoolExecutor(6) as pool:
            tokens = [run.result() for run in [pool.submit(try_to_hold, begin, end) for _ in range(6)]]
        assert sorted(tokens) == [0, 0, 0, 0, 0, token]


def test_a_run_that_was_succeeded_writes_nothing_more_into_the_store(store: str) -> None:
    root = resolve_path(f"{store}/succeeded")
    with hold_lease(root):
        path = write_json(root / "a.json", 1)
        (token,) = (root / ".lease").iterdir()
        token.write_bytes(token.read_bytes().replace(b'"pid": ', b'"pid": 99'))  # as if that process had died
        with join_run(()), hold_lease(root):
            write_json(path, 2)
        with pytest.raises(LeaseLostError, match="succeeded was taken over by"):
            write_json(path, 3)
    assert path.read_text() == "2\n"


def test_a_lease_in_the_store_is_read_again_only_when_it_has_another_etag(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, read, names = resolve_path(f"{store}/read-once"), StoredPath.read_bytes, list[str]()
    monkeypatch.setattr(lease, "BEAT_SECONDS", 3600.0)
    monkeypatch.setattr(StoredPath, "read_bytes", lambda path: (names.append(path.name), read(path))[1])
    with hold_lease(root):
        (claim,) = current_claims()
        write_json(root / "a.json", 1)
        names.clear()
        remove_file(write_json(root / "a.json", 2))
        assert names == []
        # A store that knows no conditional requests lets two runs create the same token.
        claim.file.write_bytes(claim.file.read_bytes().replace(claim.owner.encode(), b"0" * 32))
        with pytest.raises(LeaseLostError, match="read-once was taken over by"):
            write_json(root / "a.json", 3)
    assert not (root / "a.json").exists()
