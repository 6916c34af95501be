"""A run that goes on in a folder in which other code has worked says so, and one of the same code does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from copytrace.checked_files import read_record, write_record
from copytrace.code_changes import digest_of_code, note_code

TOLD = "has results of other code of Copytrace"


def run(work: Path) -> None:
    with note_code(work):
        (work / "result").touch()


def test_runs_of_the_same_code_say_nothing_and_write_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path / "work")
    first = (tmp_path / "work" / ".code.json").stat()
    run(tmp_path / "work")
    assert (tmp_path / "work" / ".code.json").stat().st_mtime_ns == first.st_mtime_ns
    assert not caplog.messages


def test_a_run_that_ends_before_any_work_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), note_code(tmp_path / "work"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_each_run_says_that_other_code_has_worked_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_record(tmp_path / "work" / ".code.json", {"code": ["0123456789abcdef"]})
    run(tmp_path / "work")
    run(tmp_path / "work")
    assert [TOLD in message and f"delete {tmp_path / 'work'}" in message for message in caplog.messages] == [True, True]
    assert read_record(tmp_path / "work" / ".code.json")["code"] == ["0123456789abcdef", digest_of_code()]


@pytest.mark.parametrize(("left", "content"), [("queries/index.json", b"{}"), (".code.json", b"damaged")])
def test_code_that_left_no_note_is_other_code(
    left: str, content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "work" / left
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    run(tmp_path / "work")
    run(tmp_path / "work")
    assert [TOLD in message for message in caplog.messages] == [True, True]
