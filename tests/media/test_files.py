import os

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from copytrace.errors import InputError
from copytrace.media.files import list_media


def ids(source) -> list[str]:
    return [item.id for item in list_media(source)]


@pytest.fixture
def folder(tmp_path):
    """A folder with files at two depths, two of the same stem, a text file, and hidden ones."""
    root = tmp_path / "refs"
    for name in ("b.jpg", "a.jpg", "a.png", "notes.txt", "sub/deep/c.webp", ".hidden.jpg", ".cache/d.jpg", "noext"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


@pytest.fixture
def bucket():
    """A remote folder `memory://bucket/refs` with a file at each of two depths."""
    store = fsspec.filesystem("memory")
    for name in ("b.jpg", "a.png", "sub/c.jpg", ".hidden/d.jpg"):
        store.pipe(f"/bucket/refs/{name}", name.encode())
    yield store
    store.rm("/bucket", recursive=True)


def test_a_folder_is_read_recursively_without_hidden_files(folder):
    items = list_media(folder)
    assert [item.id for item in items] == ["a.jpg", "a.png", "b", "noext", "notes", "sub/deep/c"]
    assert items[-1].path == str(folder / "sub/deep/c.webp")


def test_a_folder_given_as_a_string_a_relative_path_or_a_file_uri_is_the_same(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert list_media("refs") == list_media(f"{folder}/") == list_media(f"file://{folder}") == list_media(folder)


def test_an_id_kept_whole_never_meets_another_id(tmp_path):
    for name in ("a.jpg", "a.png", "a.jpg.png"):
        (tmp_path / name).touch()
    assert ids(tmp_path) == ["a.jpg", "a.jpg.png", "a.png"]


def test_links_to_folders_are_followed_but_not_round_a_circle(folder, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "e.jpg").touch()
    (folder / "linked").symlink_to(tmp_path / "other")
    (folder / "sub" / "up").symlink_to(folder)
    assert ids(folder) == ["a.jpg", "a.png", "b", "linked/e", "noext", "notes", "sub/deep/c"]


def test_pipes_are_not_listed(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "a.jpg").touch()
    assert ids(tmp_path) == ["a"]


def test_the_stamp_changes_with_the_content_and_only_then(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    before = list_media(tmp_path)
    assert list_media(tmp_path) == before
    path.write_bytes(b"two!")
    assert list_media(tmp_path)[0].stamp != before[0].stamp


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a", "b"]),
        ("**/*.*p*", ["a.jpg", "a.png", "b", "sub/deep/c"]),
        ("s*/deep/*.webp", ["sub/deep/c"]),
        ("sub/*/c.webp", ["deep/c"]),
        ("[ab].png", ["a"]),
        ("?.jpg", ["a", "b"]),
    ],
)
def test_a_glob_gives_the_visible_files_that_match(folder, pattern, expected):
    assert ids(folder / pattern) == expected


def test_a_folder_whose_name_looks_like_a_glob_is_a_folder(tmp_path):
    (tmp_path / "refs[1]").mkdir()
    (tmp_path / "refs[1]" / "a.jpg").touch()
    assert ids(tmp_path / "refs[1]") == ["a"]


def test_one_file_has_its_stem_as_id(folder):
    (item,) = list_media(folder / "sub" / "deep" / "c.webp")
    assert (item.id, item.path) == ("c", str(folder / "sub/deep/c.webp"))


def test_a_remote_folder_file_and_glob_are_listed_with_uris(bucket):
    items = list_media("memory://bucket/refs")
    assert [(item.id, item.path) for item in items] == [
        ("a", "memory:///bucket/refs/a.png"),
        ("b", "memory:///bucket/refs/b.jpg"),
        ("sub/c", "memory:///bucket/refs/sub/c.jpg"),
    ]
    assert ids("memory://bucket/refs/*.jpg") == ["b"]
    assert ids("memory://bucket/refs/**/*.jpg") == ["b", "sub/c"]
    assert ids("memory://bucket/refs/sub/c.jpg") == ["c"]


def test_a_remote_stamp_changes_with_the_object(bucket):
    (before,) = list_media("memory://bucket/refs/b.jpg")
    bucket.pipe("/bucket/refs/b.jpg", b"other")
    (after,) = list_media("memory://bucket/refs/b.jpg")
    assert before.stamp != after.stamp


def test_a_csv_manifest_keeps_its_ids_as_text_and_ignores_other_columns(folder):
    manifest = folder / "list.csv"
    manifest.write_text(f"label,path,id\n1,b.jpg,007\nx,{folder}/a.png,NA\n2.5,missing.jpg,1e3\n")
    items = list_media(manifest)
    assert [(item.id, item.path) for item in items] == [
        ("007", f"{folder}/b.jpg"),
        ("1e3", f"{folder}/missing.jpg"),
        ("NA", f"{folder}/a.png"),
    ]
    assert [item.stamp == "" for item in items] == [False, True, False]


def test_a_parquet_manifest_may_have_number_ids(folder):
    frame = pd.DataFrame({"id": [7, 12], "path": ["b.jpg", "a.png"], "width": [1.5, None]})
    frame.to_parquet(folder / "list.parquet")
    assert ids(folder / "list.parquet") == ["12", "7"]


def test_a_remote_manifest_names_objects_beside_it_and_elsewhere(bucket, folder):
    bucket.pipe("/bucket/list.csv", f"id,path\n1,refs/b.jpg\n2,{folder}/b.jpg\n3,memory://bucket/nope.jpg\n".encode())
    items = list_media("memory://bucket/list.csv")
    assert [item.path for item in items] == [
        "memory://bucket/refs/b.jpg",
        f"{folder}/b.jpg",
        "memory://bucket/nope.jpg",
    ]
    assert [bool(item.stamp) for item in items] == [True, True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,file\n1,a.jpg\n", "lacks a column; it needs id and path"),
        ("id,path\n1,a.jpg\n,b.jpg\n ,c.jpg\n", "no id in row 2, 3; every row needs one"),
        ("id,path\n1,\n", "no path in row 1; every row needs one"),
        ("id,path\n5,a\n5,b\n6,c\n6,d\n7,e\n7,f\n8,g\n8,h\n", "repeats id 5, 6, 7 and 1 more; ids must be unique"),
        ("id,path\n1,a.jpg,extra\n", "with columns id and path: a row has 3 values for 2 columns"),
        ("id;path\n1;a.jpg\n", "lacks a column; it needs id and path; its first line is id;path"),
        ('\ufeffid,"path",id\n1,a.jpg,2\n', "has several columns id; leave one"),
        ("", "cannot be read as csv"),
        ("id,path\n", "no files in"),
    ],
)
def test_a_bad_manifest_is_refused_with_the_reason(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        list_media(tmp_path / "list.csv")


def test_a_manifest_in_another_encoding_says_so(tmp_path):
    (tmp_path / "list.csv").write_bytes("id,path\n1,café.jpg\n".encode("latin-1"))
    with pytest.raises(InputError, match="cannot be read as csv with columns id and path: it is no UTF-8 text"):
        list_media(tmp_path / "list.csv")
    (tmp_path / "list.csv").write_bytes("id,path\n1,a.jpg\n".encode("utf-16"))
    with pytest.raises(InputError, match="lacks a column; it needs id and path; it is no UTF-8 text"):
        list_media(tmp_path / "list.csv")


def test_a_parquet_manifest_with_nulls_or_without_columns_is_refused(tmp_path):
    pq.write_table(pa.table({"id": ["a", None], "path": ["x", "y"]}), tmp_path / "nulls.parquet")
    with pytest.raises(InputError, match="no id in row 2"):
        list_media(tmp_path / "nulls.parquet")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "short.parquet")
    with pytest.raises(InputError, match="lacks a column"):
        list_media(tmp_path / "short.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        list_media(tmp_path / "broken.parquet")


@pytest.mark.parametrize(
    "source",
    ["nowhere", "nowhere/*.jpg", "nowhere.csv", "memory://nowhere", "memory://nowhere/", "memory://nowhere/*.jpg"],
)
def test_a_source_that_does_not_exist_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"nowhere.* does not exist; check the path"):
        list_media(source)


def test_an_empty_text_is_no_source():
    with pytest.raises(InputError, match="as if a variable had no value"):
        list_media("")


def test_an_empty_folder_and_a_glob_without_matches_are_refused(tmp_path, bucket):
    for source in (tmp_path, tmp_path / "*.jpg", "memory://bucket/refs/*.tif"):
        with pytest.raises(InputError, match="no files in"):
            list_media(source)


def test_two_stars_beside_other_letters_are_refused(tmp_path):
    with pytest.raises(InputError, match="is not a glob"):
        list_media(tmp_path / "a**b.jpg")


def test_a_source_whose_name_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.jpg")
    path.touch()
    with pytest.raises(InputError, match="not UTF-8; rename it"):
        list_media(path)


def test_an_unreachable_store_is_one_line_without_the_password():
    with pytest.raises(InputError) as caught:
        list_media("ftp://reader:s3cret@127.0.0.1:1/refs")
    assert str(caught.value) == (
        "ftp://127.0.0.1:1/refs cannot be reached (ConnectionRefusedError); "
        "check the address, the credentials and the network"
    )


def test_an_unknown_scheme_is_refused():
    with pytest.raises(InputError, match="fsspec knows no s4://"):
        list_media("s4://bucket/refs")
