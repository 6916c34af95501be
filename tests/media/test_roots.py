from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from copytrace.errors import InputError
from copytrace.media.files import Listing, list_source
from copytrace.media.globs import FileChoice, lies_within


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder of uploads with links out of it, beside a folder with a name that begins like its own."""
    for place in ("uploads/a.jpg", "uploads/sub/b.jpg", "uploads-of-others/c.jpg", "private/d.jpg"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    (tmp_path / "uploads" / "link.jpg").symlink_to(tmp_path / "private" / "d.jpg")
    (tmp_path / "uploads" / "linked").symlink_to(tmp_path / "private")
    return tmp_path


def confined(source: Path | str, *roots: Path | str) -> Listing:
    return list_source(source, FileChoice(roots=tuple(map(str, roots))))


def ids(listing: Listing) -> list[str]:
    return [item.id for item in listing.items]


def test_links_that_leave_the_roots_are_refused_and_listed(tree: Path) -> None:
    assert len(ids(list_source(tree / "uploads"))) > 2
    listing = confined(tree / "uploads", tree / "uploads")
    assert ids(listing) == ["a", "sub/b"]
    assert listing.unreadable
    assert all("media.roots" in failure.error for failure in listing.unreadable)


def test_a_root_may_be_reached_by_a_link(tree: Path) -> None:
    (tree / "inbox").symlink_to(tree / "uploads")
    assert ids(confined(tree / "uploads", tree / "inbox")) == ["a", "sub/b"]


def test_a_single_file_and_a_glob_are_confined_too(tree: Path) -> None:
    assert ids(confined(tree / "uploads" / "*.jpg", tree / "uploads")) == ["a"]
    with pytest.raises(InputError, match=r"d\.jpg: it lies outside of media\.roots; move it there"):
        confined(tree / "private" / "d.jpg", tree / "uploads")


def test_a_manifest_cannot_name_files_elsewhere_and_no_store_is_asked_for_them(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads, store = tree / "uploads", fsspec.filesystem("memory")
    store.pipe({"/roots-own/f.jpg": b"", "/roots-other/g.jpg": b""})
    asked: list[str] = []
    info = type(store).info
    monkeypatch.setattr(type(store), "info", lambda self, path, **k: (asked.append(path), info(self, path, **k))[1])
    inside = [str(uploads / "a.jpg"), "memory://roots-own/f.jpg"]
    outside = [f"{uploads}/../private/d.jpg", f"{tree}/uploads-of-others/c.jpg", "memory://roots-other/g.jpg"]
    rows = "".join(f"{number},{path}\n" for number, path in enumerate([*inside, *outside]))
    (uploads / "manifest.csv").write_text(f"id,path\n{rows}")
    listing = confined(uploads / "manifest.csv", uploads, "memory://roots-own")
    assert [item.path for item in listing.items] == inside
    assert [failure.path for failure in listing.unreadable] == outside
    assert asked == ["/roots-own/f.jpg"]


@pytest.mark.parametrize(
    ("path", "is_within"),
    [
        ("s3://bucket/own/a.jpg", True),
        ("s3://bucket/own/a..b.jpg", True),
        ("s3://bucket/own-not/a.jpg", False),
        ("s3://bucket/own/../other/a.jpg", False),
        ("https://host/own/%2e%2E/other/a.jpg", False),
        ("https://host/own/..\\other/a.jpg", False),
        ("s3://bucket/own/x::file:///etc/hostname", False),
        ("file:///data/own/a.jpg", True),
        ("file:///data/own/../../etc/hostname", False),
        ("/data/own/x://../../../etc/hostname", False),
        ("/data/own/" + "x" * 5000, False),
    ],
)
def test_a_uri_that_might_lead_elsewhere_lies_nowhere(path: str, is_within: bool) -> None:
    assert lies_within(path, ["s3://bucket/own", "https://host/own/", "/data/own"]) is is_within


def test_without_roots_nothing_is_refused(tree: Path) -> None:
    assert ids(confined(tree)) == ids(list_source(tree))
