"""Changes among the media of an index: stamps first, then contents."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from configs.settings import KnownBy
from copytrace.index.changes import find_unchanged, note_content
from copytrace.media.files import MediaItem
from copytrace.media.stamps import digest_of_content, size_and_time, stamp_of_status

FIRST, SECOND = b"first" * 20, b"other" * 20
TIME = 1_700_000_000_000_000_000


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(TIME, TIME))
    return path


def listed(path: Path) -> MediaItem:
    return MediaItem(path.stem, str(path), stamp_of_status(path.stat()))


def described(path: Path) -> MediaItem:
    """Return a file as an index holds it."""
    return replace(listed(path), content=digest_of_content(str(path)))


def described_by_0_1_0(path: Path) -> MediaItem:
    return replace(listed(path), stamp=size_and_time(listed(path).stamp))


def unchanged(held: MediaItem, now: MediaItem, known_by: KnownBy = "status") -> MediaItem | None:
    return find_unchanged([held], {now.id: now}, known_by).get(now.id)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return write(tmp_path / "photos" / "a.jpg", FIRST)


def test_a_file_with_the_same_stamp_is_not_read(photo: Path) -> None:
    held = replace(described(photo), content="what reading it would not give")
    assert unchanged(held, listed(photo)) == held


def test_a_file_that_was_replaced_under_the_same_size_and_time_has_changed(photo: Path) -> None:
    held = described(photo)
    write(photo, SECOND)
    assert unchanged(held, listed(photo)) is None
    write(photo.with_name("b.jpg"), SECOND).replace(photo)
    assert unchanged(held, listed(photo)) is None


def test_a_file_of_another_size_has_changed(photo: Path) -> None:
    held = described(photo)
    write(photo, FIRST + b"!")
    assert unchanged(held, listed(photo)) is None


def test_a_file_that_was_touched_or_written_again_has_not_changed(photo: Path) -> None:
    held = described(photo)
    photo.write_bytes(FIRST)
    now = listed(photo)
    assert now.stamp != held.stamp
    assert unchanged(held, now) == replace(now, content=held.content)


def test_a_file_that_was_copied_elsewhere_is_known_by_its_content_and_has_the_new_path(photo: Path) -> None:
    held = described(photo)
    elsewhere = photo.parent.parent / "elsewhere"
    elsewhere.mkdir()
    copy = Path(shutil.copyfile(photo, elsewhere / "a.jpg"))
    assert unchanged(held, listed(copy)) == replace(listed(copy), content=held.content)
    write(copy, SECOND)
    assert unchanged(held, listed(copy)) is None


def test_by_content_a_change_that_no_stamp_shows_is_noticed(photo: Path) -> None:
    held = replace(described(photo), content=digest_of_content(str(write(photo.with_name("b.jpg"), SECOND))))
    assert unchanged(held, listed(photo), "content") is None
    assert unchanged(described(photo), listed(photo), "content") == described(photo)


def test_by_time_a_file_is_read_only_if_size_and_time_are_the_same_elsewhere(photo: Path) -> None:
    held = described(photo)
    write(photo, SECOND)
    assert unchanged(held, listed(photo), "time") == replace(listed(photo), content=held.content)
    moved = write(photo.parent.parent / "elsewhere" / "a.jpg", SECOND)
    assert unchanged(held, listed(moved), "time") is None


@pytest.mark.parametrize("known_by", ["status", "time", "content"])
def test_what_an_older_version_described_is_kept_and_its_content_noted(photo: Path, known_by: KnownBy) -> None:
    held = described_by_0_1_0(photo)
    assert unchanged(held, listed(photo), known_by) == described(photo)
    os.utime(photo, ns=(TIME + 1, TIME + 1))
    assert unchanged(held, listed(photo), known_by) is None  # nothing tells whether it changed


def test_what_an_older_version_described_elsewhere_is_not_taken_for_the_same(photo: Path) -> None:
    held = described_by_0_1_0(photo)
    assert unchanged(held, listed(write(photo.parent.parent / "b" / "a.jpg", FIRST))) is None


def test_a_file_that_cannot_be_read_now_is_kept_with_its_old_stamp(photo: Path) -> None:
    held = described(photo)
    now = replace(held, path=str(photo.parent), stamp=f"{size_and_time(held.stamp)}-1-2", content="")
    assert unchanged(held, now) == replace(held, path=now.path)


def test_a_file_that_is_gone_is_not_unchanged(photo: Path) -> None:
    assert unchanged(described(photo), MediaItem("a", str(photo), "")) is None
    assert find_unchanged([described(photo)], {}) == {}


def test_objects_are_known_by_what_their_store_says(photo: Path) -> None:
    held = MediaItem("a", "s3://one/a.jpg", "100-0cc1", "etag-100-0cc1")
    moved = replace(held, path="s3://two/a.jpg")
    assert unchanged(held, moved) == moved
    assert unchanged(held, replace(moved, content="etag-100-ffff")) is None
    assert unchanged(replace(held, content=""), held) == held
    elsewhere = MediaItem("a", "memory://one/a.jpg", "100-2026")
    assert unchanged(elsewhere, elsewhere) == elsewhere
    assert unchanged(elsewhere, replace(elsewhere, path="memory://two/a.jpg")) is None


def test_a_content_is_noted_before_the_file_is_loaded(photo: Path) -> None:
    contents: dict[str, str] = {}
    before = described(photo)

    def load_and_change(item: MediaItem) -> bytes:
        write(photo, SECOND)
        return Path(item.path).read_bytes()

    assert note_content(load_and_change, contents)(listed(photo)) == SECOND
    assert contents == {"a": before.content}
    assert unchanged(before, listed(photo)) is None  # so that the next run describes it again
