from __future__ import annotations

from pathlib import Path

import pytest

from copytrace.media.files import Listing, MediaItem, list_source
from copytrace.media.roots import confine


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder of uploads with a link out of it, beside a folder with a name that begins like its own."""
    for place in ("uploads/a.jpg", "uploads/sub/b.jpg", "uploads-of-others/c.jpg", "private/d.jpg"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    (tmp_path / "uploads" / "link.jpg").symlink_to(tmp_path / "private" / "d.jpg")
    (tmp_path / "uploads" / "linked").symlink_to(tmp_path / "private")
    return tmp_path


def ids(listing: Listing) -> list[str]:
    return [item.id for item in listing.items]


def test_links_that_leave_the_roots_are_refused_and_listed(tree: Path) -> None:
    listing = list_source(tree / "uploads")
    assert len(ids(listing)) == 4 - len(listing.passed_over)
    confined = confine(listing, [str(tree / "uploads")])
    assert ids(confined) == ["a", "sub/b"]
    assert {"media.roots" in failure.error for failure in confined.unreadable} == {True}


def test_a_manifest_cannot_name_files_elsewhere(tree: Path) -> None:
    uploads = tree / "uploads"
    inside = [str(uploads / "a.jpg"), "s3://bucket/own/f.jpg"]
    outside = [f"{uploads}/../private/d.jpg", f"{tree}/uploads-of-others/c.jpg", "/etc/hostname", "s3://bucket/e.jpg"]
    items = [MediaItem(str(number), path, "") for number, path in enumerate([*inside, *outside])]
    confined = confine(Listing(items), [str(uploads), "s3://bucket/own"])
    assert [item.path for item in confined.items] == inside
    assert [failure.path for failure in confined.unreadable] == outside


def test_a_root_may_be_reached_by_a_link(tree: Path) -> None:
    (tree / "inbox").symlink_to(tree / "uploads")
    assert ids(confine(list_source(tree / "uploads"), [str(tree / "inbox")])) == ["a", "sub/b"]


def test_without_roots_nothing_is_refused(tree: Path) -> None:
    listing = list_source(tree)
    assert confine(listing, ()) is listing
