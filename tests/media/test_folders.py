"""Folders as people have them: links, loops, names in other encodings, unreadable folders, and our own results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from copytrace.errors import InputError
from copytrace.media.files import Listing, list_media, list_source
from copytrace.media.globs import FileChoice


def write(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode(errors="surrogateescape"))
    return root


def ids(listing: Listing) -> list[str]:
    return [item.id for item in listing.items]


def unreadable(listing: Listing) -> dict[str, str]:
    return {failure.id: failure.error for failure in listing.unreadable}


def passed_over(listing: Listing) -> dict[str, str]:
    return {failure.id: failure.error for failure in listing.passed_over}


def test_a_link_to_a_folder_above_it_is_noticed_and_not_followed(tmp_path: Path) -> None:
    root = write(tmp_path / "photos", "sub/a.jpg")
    (root / "sub" / "round").symlink_to(root)
    (root / "up").symlink_to(tmp_path)
    listing = list_source(root)
    assert ids(listing) == ["sub/a"]
    assert passed_over(listing) == {
        "sub/round": f"a link to a folder that is searched already, {root}",
        "up": f"a link to a folder above it, {tmp_path}",
    }


def test_a_folder_that_several_links_lead_to_is_searched_once(tmp_path: Path) -> None:
    root, other = write(tmp_path / "photos", "z.jpg"), write(tmp_path / "other", "deep/e.jpg")
    for name in ("b", "a"):
        (root / name).symlink_to(other)
    listing = list_source(root)
    assert ids(listing) == ["a/deep/e", "z"]
    assert list(passed_over(listing)) == ["b"]


def test_a_real_folder_is_searched_under_its_own_name_and_not_by_a_link_that_comes_first(tmp_path: Path) -> None:
    root = write(tmp_path, "year/a.jpg", "first.txt")
    (root / "aaa").symlink_to(root / "year")
    assert ids(list_source(root)) == ["first", "year/a"]


def test_links_that_lead_round_in_a_circle_are_listed(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg")
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    listing = list_source(tmp_path)
    assert ids(listing) == ["a"]
    assert set(unreadable(listing)) == {"one", "two"}


def test_a_link_to_a_file_of_the_same_folder_is_that_file(tmp_path: Path) -> None:
    root, outside = write(tmp_path / "photos", "b.jpg"), write(tmp_path / "outside", "c.jpg")
    (root / "a.jpg").symlink_to("b.jpg")
    for name in ("one.jpg", "two.jpg"):
        (root / name).symlink_to(outside / "c.jpg")
    listing = list_source(root)
    assert ids(listing) == ["b", "one"]
    assert set(passed_over(listing)) == {"a.jpg", "two.jpg"}


def test_a_file_with_several_names_is_listed_once_by_the_first(tmp_path: Path) -> None:
    root, outside = write(tmp_path / "photos", "sub/b.jpg", "z.jpg"), write(tmp_path / "outside", "c.jpg")
    (root / "c.jpg").hardlink_to(root / "sub" / "b.jpg")
    (root / "from_outside.jpg").hardlink_to(outside / "c.jpg")
    (root / "a.jpg").symlink_to(outside / "c.jpg")  # a name of its own counts more than a symbolic link
    (root / "b.jpg").symlink_to("sub/b.jpg")
    listing = list_source(root)
    assert ids(listing) == ["c", "from_outside", "z"]
    assert passed_over(listing) == {
        "a.jpg": f"a link to a file that is searched anyway, {outside / 'c.jpg'}",
        "b.jpg": f"a link to a file that is searched anyway, {root / 'sub' / 'b.jpg'}",
        "sub/b.jpg": f"a hard link to a file that is searched anyway, {root / 'c.jpg'}",
    }
    assert ids(list_source(root, FileChoice(exclude=["c.jpg"]))) == ["from_outside", "sub/b", "z"]


def test_copies_of_a_file_are_all_listed(tmp_path: Path) -> None:
    root = write(tmp_path, "a.jpg")
    (root / "b.jpg").write_bytes((root / "a.jpg").read_bytes())
    assert ids(list_source(root)) == ["a", "b"]


def test_a_link_that_leads_nowhere_is_listed_and_the_rest_searched(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    listing = list_source(tmp_path)
    assert ids(listing) == ["a"]
    assert unreadable(listing) == {"gone.jpg": "a link to nowhere.jpg, which does not exist"}


def test_names_that_are_not_utf8_are_listed_and_the_rest_searched(tmp_path: Path) -> None:
    write(tmp_path, "é.jpg", os.fsdecode(b"\xff.jpg"), os.fsdecode(b"caf\xe9/b.jpg"))
    listing = list_source(tmp_path)
    assert ids(listing) == ["é"]
    assert unreadable(listing) == {
        "\\xff.jpg": "the name is not UTF-8; rename the file",
        "caf\\xe9": "the name is not UTF-8; rename the folder",
    }


LIST = """
import sys
from copytrace.media.files import list_source
listing = list_source(sys.argv[1])
print([item.id for item in listing.items], [(f.id, f.error) for f in listing.unreadable])
"""


def test_a_folder_that_may_not_be_read_costs_only_its_own_files(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "locked/b.jpg")
    (tmp_path / "locked").chmod(0)
    command = [sys.executable, "-c", LIST, str(tmp_path)]
    if os.geteuid() == 0:  # root may read everything, unless it gives that up
        without = "--bounding-set=-dac_override,-dac_read_search"
        command = ["setpriv", without, without.replace("bounding-set", "inh-caps"), *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (tmp_path / "locked").chmod(0o700)
    assert done.stdout == "['a'] [('locked', 'the folder cannot be read: Permission denied')]\n", done.stderr


def test_a_folder_with_nothing_that_can_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(InputError, match=r"no files in .*; 1 cannot be read, such as .*gone.jpg: a link to nowhere"):
        list_source(tmp_path)


def test_a_list_of_media_alone_logs_what_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "a.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    assert [item.id for item in list_media(tmp_path)] == ["a"]
    assert f"1 files or folders in {tmp_path} cannot be read, and are left out: {tmp_path / 'gone.jpg'}" in caplog.text


RESULTS = ("out/work/queries/plan.parquet", "out/failures.csv", "my.index/plan.parquet", "my.index/receipts/00000.json")


def test_our_own_results_in_a_folder_are_not_searched(tmp_path: Path) -> None:
    root = write(tmp_path, "a.jpg", "work/b.jpg", *RESULTS)
    assert ids(list_source(root)) == ["a", "work/b"]
    assert ids(list_source(write(root / "out", "c.jpg"))) == ["c", "failures"]


def test_our_own_results_in_a_bucket_are_not_searched() -> None:
    store = fsspec.filesystem("memory")
    for name in ("a.jpg", "work/b.jpg", *RESULTS):
        store.pipe(f"/own/{name}", b"x")
    assert ids(list_source("memory://own")) == ["a", "work/b"]
    store.rm("/own", recursive=True)


TREE = ("IMG_1.JPG", "IMG_1.jpg.json", "raw/x.tif", "raw/deep/y.tif", "2024/thumbnails/z.jpg", "2024/w.png")


@pytest.mark.parametrize("source", ["folder", "bucket"])
@pytest.mark.parametrize(
    ("include", "exclude", "left"),
    [
        ((), ("*.json",), ["2024/thumbnails/z", "2024/w", "IMG_1", "raw/deep/y", "raw/x"]),
        (("*.jpg",), (), ["2024/thumbnails/z", "IMG_1"]),
        (("*.jpg", "*.png"), ("thumbnails",), ["2024/w", "IMG_1"]),
        (("raw/*",), (), ["raw/deep/y", "raw/x"]),
        (("raw/**/*.tif",), ("deep/",), ["raw/x"]),
        (("2024",), ("**/thumbnails/*",), ["2024/w"]),
    ],
)
def test_globs_choose_among_the_files_of_a_source(
    source: str, include: tuple[str, ...], exclude: tuple[str, ...], left: list[str], tmp_path: Path
) -> None:
    write(tmp_path, *TREE)
    place = str(tmp_path)
    if source == "bucket":
        place = "memory://chosen"
        fsspec.filesystem("memory").put(f"{tmp_path}/", "/chosen", recursive=True)
    assert sorted(ids(list_source(place, FileChoice(include, exclude)))) == sorted(left)


def test_globs_that_leave_nothing_say_so(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg")
    with pytest.raises(InputError, match="check the globs that are included and excluded"):
        list_source(tmp_path, FileChoice(include=("*.png",)))
