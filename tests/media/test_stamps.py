"""What files are known by: stamps of local files and of objects, and digests of contents."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from copytrace.media.stamps import (
    MOST_HOLES,
    content_of_object,
    digest_of_content,
    inode_in,
    size_and_time,
    stamp_of_status,
    stored_bytes,
)

OLD, NEW = b"a" * 100, b"b" * 100


def stamp(path: Path) -> str:
    return stamp_of_status(path.stat())


def write_with_time(path: Path, content: bytes, nanoseconds: int = 1_000_000_000) -> Path:
    path.write_bytes(content)
    os.utime(path, ns=(nanoseconds, nanoseconds))
    return path


def test_a_file_that_is_overwritten_has_another_stamp_whatever_its_time(tmp_path: Path) -> None:
    path = write_with_time(tmp_path / "a.jpg", OLD)
    before = stamp(path)
    assert stamp(path) == before
    write_with_time(path, NEW)
    assert stamp(path) != before
    assert size_and_time(stamp(path)) == size_and_time(before)


def test_another_file_put_in_its_place_has_another_stamp(tmp_path: Path) -> None:
    path, other = (write_with_time(tmp_path / name, OLD) for name in ("a.jpg", "b.jpg"))
    before = stamp(path)
    other.replace(path)
    assert stamp(path) != before
    assert inode_in(stamp(path)) != inode_in(before)


def test_a_folder_that_is_renamed_leaves_stamps_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    before = stamp(write_with_time(tmp_path / "photos" / "a.jpg", OLD))
    (tmp_path / "photos").rename(tmp_path / "moved")
    assert stamp(tmp_path / "moved" / "a.jpg") == before


@pytest.mark.parametrize("nanoseconds", [-5, 0, 1_700_000_000_123_456_789])
def test_size_and_time_are_what_the_stamps_of_version_0_1_0_were(tmp_path: Path, nanoseconds: int) -> None:
    path = write_with_time(tmp_path / "a.jpg", OLD, nanoseconds)
    assert size_and_time(stamp(path)) == f"100-{path.stat().st_mtime_ns}" == size_and_time(size_and_time(stamp(path)))
    assert inode_in(stamp(path)) == str(path.stat().st_ino)


def test_other_stamps_have_neither_time_nor_inode() -> None:
    for other in ("", "100-9e107d9d372bb6826bd81d3542a419d6-12", "100-2026-11-29 00:00:00"):
        assert (size_and_time(other), inode_in(other)) == (other, "")


def test_the_same_bytes_have_the_same_digest_wherever_they_lie(tmp_path: Path) -> None:
    path = write_with_time(tmp_path / "a.jpg", OLD)
    copy, other = shutil.copyfile(path, tmp_path / "b.jpg"), write_with_time(tmp_path / "c.jpg", NEW)
    assert digest_of_content(str(path)) == digest_of_content(str(copy)) != digest_of_content(str(other))
    assert len(digest_of_content(str(path))) == 32


@pytest.mark.parametrize("unreadable", ["missing.jpg", "", "nul\0.jpg", "s3://bucket/a.jpg"])
def test_what_cannot_be_read_has_no_digest(tmp_path: Path, unreadable: str) -> None:
    assert digest_of_content(unreadable if "://" in unreadable else str(tmp_path / unreadable)) == ""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("endless", ["pipe", "/dev/zero", "/proc/self/mem"])
def test_what_has_no_end_has_no_digest_and_is_not_waited_for(tmp_path: Path, endless: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert digest_of_content(str(tmp_path / endless)) == ""


def test_a_file_of_holes_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = write_with_time(tmp_path / "a.jpg", OLD)
    os.truncate(path, 1 << 20)
    assert digest_of_content(str(path))
    os.truncate(path, MOST_HOLES + (1 << 20))
    assert digest_of_content(str(path)) == ""


@pytest.mark.parametrize(("written", "least", "most"), [(0, 0, 0), (1 << 20, 1 << 20, 2 << 20)])
def test_holes_are_no_stored_bytes(tmp_path: Path, written: int, least: int, most: int) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"a" * written)
    os.truncate(path, 64 << 20)
    with path.open("rb") as file:
        assert least <= stored_bytes(file.fileno()) <= most
        assert file.tell() == 0


def test_only_etags_of_s3_tell_a_content() -> None:
    detail = {"size": 5, "ETag": '"0cc175b9"', "LastModified": "now"}
    assert content_of_object("s3://a/x.jpg", detail) == content_of_object("s3://b/y.jpg", detail) == "etag-5-0cc175b9"
    assert content_of_object("https://a/x.jpg", detail) == content_of_object("s3://a/x.jpg", {"size": 5}) == ""
