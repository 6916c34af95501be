"""Runs whose inputs and outputs lie in a real S3 store."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import fsspec
import numpy as np
import pyarrow as pa
import pytest
import s3fs
from botocore.exceptions import ClientError
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from configs.images import ImageSettings
from configs.videos import VideoSettings
from copytrace.cli import app
from copytrace.errors import CopytraceError, InputError, StorageError
from copytrace.images import index_images, match_images
from copytrace.index.manifest import read_manifest, write_manifest
from copytrace.media.files import MediaItem
from copytrace.step import SilentProgress, StepProgress
from copytrace.storage import remove_tree, resolve_path
from copytrace.tables import write_table
from copytrace.videos import index_videos, match_videos
from tasks.service.seaweedfs import SeaweedFS
from tests.few_points import FEW_POINTS
from tests.integration.conftest import KEYS_OF_ANOTHER_STORE

Pixels = NDArray[np.uint8]

QUICK = {
    "descriptor.input_size": 128,
    **{f"local.{name}": value for name, value in FEW_POINTS.items()},
    "overlay.detector": "none",
    "media.shard_size": 2,
    "report.max_matches": 5,
}
# By every run, with the same content.
WRITTEN_ANEW = {"plan", "manifest", "index", "failures", "passed_over", "unlisted", "run", "lists", "summary"}


@pytest.fixture(scope="module")
def media(store: str, photos: Mapping[str, Pixels], video_sides: Path) -> str:
    """Three photos and three videos to find, and as many to look for, with the answers for the photos."""
    names = ["astronaut", "chelsea", "coffee"]
    pictures = {f"references/{name}": photos[name] for name in names}
    pictures |= {"queries/mirrored": photos["chelsea"][:, ::-1], "queries/cropped": photos["coffee"][20:-20, 30:-30]}
    pictures |= {"queries/stranger": photos["rocket"], "others/rocket": photos["rocket"][::-1]}
    for name, pixels in pictures.items():
        content = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(content, "PNG")
        resolve_path(f"{store}/photos/{name}.png").write_bytes(content.getvalue())
    for path in video_sides.glob("*/*.mp4"):
        resolve_path(f"{store}/videos/{path.parent.name}/{path.name}").write_bytes(path.read_bytes())
    truth = "query_id,reference_id\nmirrored,chelsea\ncropped,coffee\nstranger,\n"
    resolve_path(f"{store}/photos/truth.csv").write_bytes(truth.encode())
    return store


class Interrupted(SilentProgress):
    """Progress of a run that the user ends when pairs are to be scored."""

    def step(self, name: str, total: int, unit: str = "") -> AbstractContextManager[StepProgress]:
        if name == "score pairs":
            raise KeyboardInterrupt
        return super().step(name, total, unit)


class Continued(NamedTuple):
    """A finished run, and when each of its objects was written that it had when it was interrupted."""

    out: Path
    before: dict[str, str]


@pytest.fixture(scope="module")
def continued(media: str) -> Continued:
    """A run of images from the store into the store that was interrupted, and that the command line finished."""
    out, sides = resolve_path(f"{media}/image-run"), (f"{media}/photos/queries", f"{media}/photos/references")
    with pytest.raises(KeyboardInterrupt):
        match_images(*sides, str(out), images(), Interrupted())
    before = versions_in(out)
    assert not (out / "matches.csv").exists()
    settings = [f"{name}={json.dumps(value)}" for name, value in QUICK.items()]
    told = CliRunner().invoke(app, ["match-images", *sides, "--out", str(out), *settings])
    assert told.exit_code == 0, told.output
    assert f"{out}/matches.csv" in told.output
    return Continued(out, before)


def images(**settings: Any) -> ImageSettings:
    nested: dict[str, dict[str, Any]] = {}
    for name, value in (QUICK | settings).items():
        section, _, field = name.partition(".")
        nested.setdefault(section, {})[field] = value
    return ImageSettings.model_validate(nested)


def videos(**sections: dict[str, Any]) -> VideoSettings:
    quick = {
        "media": {"shard_size": 2},
        "descriptor": {"input_size": 64},
        "panes": {"detector": "none"},
        "report": {"max_matches": 5},
    }
    return VideoSettings.model_validate(quick | sections)


def forget_stores() -> None:
    """Have clients made anew, by what the environment says now."""
    s3fs.S3FileSystem.clear_instance_cache()


def versions_in(root: Path) -> dict[str, str]:
    """When each object was written, those aside that every run writes, such as its lease."""
    store, path = fsspec.core.url_to_fs(str(root), use_listings_cache=False)
    found = store.find(path, detail=True)
    return {
        name: str(d["LastModified"])
        for name, d in found.items()
        if Path(name).stem not in WRITTEN_ANEW and Path(name).parent.name != ".lease"
    }


def objects_in(root: Path) -> dict[str, bytes]:
    store, path = fsspec.core.url_to_fs(str(root), use_listings_cache=False)
    found = store.find(path, detail=True)  # SeaweedFS, unlike S3, has folders, and lists those that have become empty
    return {name: store.cat_file(name) for name, detail in found.items() if detail["type"] == "file"}


def assert_same_files(names: tuple[str, ...], one: Path, other: Path) -> None:
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_a_run_of_images_that_went_on_in_a_store_gives_the_bytes_of_one_on_disk(
    media: str, continued: Continued, tmp_path: Path
) -> None:
    run = match_images(f"{media}/photos/queries", f"{media}/photos/references", tmp_path / "run", images())
    assert run["counts"] == {**run["counts"], "queries": 3, "copies": 2, "failures": 0}
    names = ("matches.csv", "matches.parquet", "failures.csv", "report.html")
    assert_same_files(names, continued.out, tmp_path / "run")


def test_a_second_run_in_a_store_does_nothing(media: str, continued: Continued) -> None:
    before = versions_in(continued.out)
    assert len(before) > 20
    match_images(f"{media}/photos/queries", f"{media}/photos/references", str(continued.out), images())
    assert versions_in(continued.out) == before


def test_an_interrupted_run_in_a_store_goes_on(continued: Continued) -> None:
    after = versions_in(continued.out)
    assert len(continued.before) > 10
    assert {name: after[name] for name in continued.before} == continued.before


def test_indexes_of_references_and_noise_are_read_from_a_store(media: str, tmp_path: Path) -> None:
    found = []
    one_shard = {"media.shard_size": 3}  # several are the subject of the run that goes on
    for home in (media, tmp_path):
        noise = index_images(f"{media}/photos/others", f"{home}/noise", images(**one_shard))
        index = index_images(f"{media}/photos/references", f"{home}/index", images(**one_shard))
        settings = images(**one_shard, **{"global.noise": str(noise)})
        match_images(f"{media}/photos/queries", str(index), f"{home}/by-index", settings)
        found.append(resolve_path(f"{home}/by-index") / "matches.csv")
    assert found[0].read_bytes() == found[1].read_bytes()
    assert not (resolve_path(media) / "by-index" / "work" / "references").exists()


def test_a_run_of_videos_in_a_store_gives_the_bytes_of_one_on_disk_and_a_second_does_nothing(
    media: str, tmp_path: Path
) -> None:
    sides = (f"{media}/videos/queries", f"{media}/videos/references")
    out = resolve_path(f"{media}/video-run")
    first = match_videos(*sides, str(out), videos())
    before = versions_in(out)
    match_videos(*sides, str(out), videos())
    assert versions_in(out) == before
    assert first["counts"]["copies"] == 2
    match_videos(*sides, tmp_path, videos())
    assert_same_files(("segments.csv", "segments.parquet", "failures.csv"), out, tmp_path)
    assert "chelsea" in (out / "report.html").read_text()


def test_videos_are_searched_by_an_index_and_noise_in_a_store(media: str) -> None:
    noise = index_videos(f"{media}/videos/queries", f"{media}/video-noise", videos())
    index = index_videos(f"{media}/videos/references", f"{media}/video-index", videos())
    # That videos in a store are read to verify segments is the subject of the run before.
    settings = videos(search={"noise": str(noise)}, alignment={"verified_segments": 0}, report={"max_matches": 0})
    run = match_videos(f"{media}/videos/queries", str(index), f"{media}/video-by-index", settings)
    assert run["counts"]["references"] == 3
    assert run["indexes"]["references"] == f"{media}/video-index"


def test_a_run_in_a_store_is_measured_by_a_truth_in_a_store(media: str, continued: Continued) -> None:
    measured = CliRunner().invoke(
        app, ["evaluate", "images", f"{media}/photos/truth.csv", f"{continued.out}/matches.parquet"]
    )
    assert measured.exit_code == 0, measured.output
    assert "1.00000" in measured.output


def test_nothing_that_is_written_holds_a_key(continued: Continued, media: str, object_store: SeaweedFS) -> None:
    written = objects_in(resolve_path(media))
    assert any(name.endswith("run.json") for name in written)
    for name, content in written.items():
        assert object_store.secret_key.encode() not in content, name
        assert object_store.access_key.encode() not in content, name


@pytest.mark.parametrize(
    ("environment", "client", "place", "told"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, {}, "run", "access to .*/run is denied; check the permissions"),
        ({"AWS_ACCESS_KEY_ID": "wrong"}, {}, "run", "access to .*/run is denied; check the permissions"),
        ({}, {"anon": True}, "run", "access to .*/run is denied; check the permissions"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, {}, "run", r"cannot be reached \(EndpointConnectionError\)"),
        ({}, {}, "s3://no-such-bucket/run", "no-such-bucket/run cannot be written: there is no such bucket; create it"),
    ],
    ids=["wrong secret", "wrong key", "no rights", "dead endpoint", "no bucket"],
)
def test_a_place_that_cannot_be_written_is_told_in_one_line_before_any_work(
    environment: dict[str, str],
    client: dict[str, Any],
    place: str,
    told: str,
    store: str,
    video_sides: Path,
    monkeypatch: pytest.MonkeyPatch,
    object_store: SeaweedFS,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    once = {"config_kwargs": {"retries": {"max_attempts": 1}}}
    monkeypatch.setitem(fsspec.config.conf, "s3", once | client)
    forget_stores()
    out = place if "://" in place else f"{store}/{place}"
    run: Callable[..., object]
    for run in (match_videos, match_images):
        with pytest.raises(StorageError, match=told) as raised:
            run(video_sides / "queries", video_sides / "references", out)
        assert object_store.secret_key not in str(raised.value)
        assert "\n" not in str(raised.value)
    forget_stores()


def test_a_source_that_is_denied_is_told_as_a_source(
    media: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    forget_stores()
    with pytest.raises(InputError, match=r"access to .*/photos/queries is denied"):
        match_images(f"{media}/photos/queries", f"{media}/photos/references", tmp_path, images())
    forget_stores()


def test_an_index_that_is_denied_is_told_as_denied(media: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": True})
    forget_stores()
    with pytest.raises(CopytraceError, match=r"access to .*/index/index\.json is denied"):
        match_images(f"{media}/photos/queries", "x", "y", images(**{"global.noise": f"{media}/index"}))
    forget_stores()


def test_a_place_works_in_processes_forked_and_spawned(store: str) -> None:
    path = write_table(resolve_path(f"{store}/sent/t.parquet"), pa.table({"a": [1]}))
    # In a process of its own, as to fork this one, with the threads of all that it has loaded, may hang.
    script = f"""
from multiprocessing import get_context
from copytrace.storage import resolve_path
from copytrace.tables import count_rows
path = resolve_path("{path}")
print(count_rows(path))
for method in ("fork", "spawn"):
    with get_context(method).Pool(1) as pool:
        print(pool.apply(count_rows, (path,)))
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=500, check=False)
    assert told.stdout.split() == ["1", "1", "1"], told.stderr


def test_a_manifest_in_a_store_is_read_once_until_it_changes(store: str) -> None:
    root, item = resolve_path(f"{store}/listed"), MediaItem("a", "a.png", "1", "")
    write_manifest(root, {"a": (item, 1)}, {})
    first = read_manifest(root)
    assert read_manifest(root) is first
    write_manifest(root, {"a": (item, 2)}, {})
    second = read_manifest(root)
    assert first and second
    assert [first["a"][1], second["a"][1]] == [1, 2]
    remove_tree(root)
    assert read_manifest(root) is None


def test_a_tree_is_removed_and_what_another_process_writes_is_seen(store: str) -> None:
    root = resolve_path(f"{store}/tree")
    for name in ("a", "b/c"):
        (root / name).write_bytes(b"1")
    assert sorted(path.name for path in root.iterdir()) == ["a", "b"]
    client, path = fsspec.core.url_to_fs(str(root), skip_instance_cache=True)
    client.pipe_file(f"{path}/d", b"1")  # as another process would
    assert sorted(path.name for path in root.iterdir()) == ["a", "b", "d"]
    remove_tree(root)
    assert objects_in(root) == {}


def test_keys_of_another_store_that_the_starter_has_open_nothing(
    store: str, object_store: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in KEYS_OF_ANOTHER_STORE.items():
        monkeypatch.setenv(name, value)
    client = boto3.Session().client("s3")
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        client.list_objects_v2(Bucket=object_store.bucket)
