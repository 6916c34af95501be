"""A real S3 store in which requests of all kinds fail, objects are damaged, and a local disk that is full meanwhile.

`make test-faults` runs this with COPYTRACE_STORE_FAULTS=1; COPYTRACE_SEED chooses the requests that fail.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import fsspec
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from configs.images import ImageSettings
from copytrace.cli import app
from copytrace.images import index_images, match_images
from copytrace.media.failures import read_failures
from copytrace.storage import remove_tree, resolve_path
from copytrace.verify import find_damage
from tasks.service.seaweedfs import SeaweedFS
from tests.few_points import FEW_POINTS
from tests.integration.faulty_proxy import KINDS, FaultyProxy

Pixels = NDArray[np.uint8]
SEED = os.environ.get("COPYTRACE_SEED", "1")
EVERY = 15  # requests, one of which fails
SETTINGS = ImageSettings.model_validate(
    {
        "descriptor": {"input_size": 128},
        "media": {"shard_size": 1},
        "local": FEW_POINTS,
        "overlay": {"detector": "none"},
        "report": {"max_matches": 5},
    }
)
COMPARED = {".parquet", ".csv", ".npy", ".points", ".lists"}

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif("COPYTRACE_STORE_FAULTS" not in os.environ, reason="left to make test-faults"),
]


class Places(NamedTuple):
    """Folders of photos in the store, where an index and a run go, and what they are if nothing fails."""

    root: str
    expected: dict[str, bytes]

    @property
    def index(self) -> Path:
        return resolve_path(f"{self.root}/rough/index")

    @property
    def out(self) -> Path:
        return resolve_path(f"{self.root}/rough/out")


@pytest.fixture
def places(
    proxy: FaultyProxy, object_store: SeaweedFS, photos: Mapping[str, Pixels], tmp_path: Path
) -> Iterator[Places]:
    root = f"s3://{object_store.bucket}/{tmp_path.name}"
    sides = {"references": {name: photos[name] for name in ("astronaut", "chelsea", "coffee")}}
    sides["queries"] = {"mirrored": photos["chelsea"][:, ::-1], "cut": photos["coffee"][20:-20, 30:-30]}
    for side, pictures in sides.items():
        for name, pixels in pictures.items():
            content = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
            resolve_path(f"{root}/{side}/{name}.png").write_bytes(content)
    run(root, "calm")
    yield Places(root, contents(f"{root}/calm"))
    remove_tree(resolve_path(root))


def run(root: str, name: str) -> None:
    """Index the references, and match the queries."""
    index_images(f"{root}/references", f"{root}/{name}/index", SETTINGS)
    match_images(f"{root}/queries", f"{root}/{name}/index", f"{root}/{name}/out", SETTINGS)


def contents(root: str) -> dict[str, bytes]:
    """Return the finished objects below `root`, without those that hold costs."""
    store, path = fsspec.core.url_to_fs(root, use_listings_cache=False)
    names = [name for name in store.find(path) if Path(name).suffix in COMPARED and Path(name).stem != "plan"]
    return {name.removeprefix(path): store.cat_file(name) for name in names}


def test_requests_of_any_kind_that_fail_change_nothing_in_an_index_and_a_run(
    places: Places, proxy: FaultyProxy
) -> None:
    proxy.fail_at_random(SEED, EVERY)
    run(places.root, "rough")
    print(f"\nseed {SEED}: {dict(proxy.done)} requests failed, by kind, and without a fault")
    proxy.fail_at_random(SEED, 0)
    assert contents(f"{places.root}/rough") == places.expected
    assert read_failures(places.out / "failures.csv") == []
    assert find_damage(places.index) == find_damage(places.out) == []


def test_faults_of_every_kind_are_drawn() -> None:
    with FaultyProxy(1) as proxy:
        proxy.fail_at_random(SEED, EVERY)
        faults = [proxy.draw_fault(is_picture=False) for _ in range(1000)]
    assert {*faults} == {*KINDS, ""}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own, in which there are 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_ends_a_run_into_a_store_in_one_line_and_the_next_goes_on(
    places: Places, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(small_disk))
        with pytest.raises(OSError, match=rf"^\[Errno 28\] No space left on device: '{small_disk}/") as told:
            run(places.root, "rough")
    print(f"\nsaid: {told.value}")
    before = contents(f"{places.root}/rough")
    assert before.items() <= places.expected.items()
    run(places.root, "rough")
    assert contents(f"{places.root}/rough") == places.expected


@pytest.mark.parametrize("name", ["points/00001.parquet", "segments/*.lists"])
def test_a_damaged_object_is_named_and_only_what_it_belongs_to_is_made_again(places: Places, name: str) -> None:
    run(places.root, "rough")
    [path] = places.index.glob(name)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(bytes(content))
    told = CliRunner().invoke(app, ["verify", str(places.index)])
    print(f"\n{told.stdout}{told.stderr}")
    assert told.exit_code == 1
    assert re.match(rf"{re.escape(str(path))} is damaged", told.stdout)
    assert told.stdout.count("\n") == 1
    assert CliRunner().invoke(app, ["verify", "--repair", str(places.index)]).exit_code == 0
    receipts = {path.name: path.read_bytes() for path in places.index.glob("receipts/*.json")}
    run(places.root, "rough")
    again = [path.name for path in places.index.glob("receipts/*.json") if receipts.get(path.name) != path.read_bytes()]
    assert len(again) == (1 if name.startswith("points") else 0)
    assert len(receipts) + len(again) == 3
    assert find_damage(places.index) == find_damage(places.out) == []
    assert contents(f"{places.root}/rough/out").keys() == contents(f"{places.root}/calm/out").keys()
    matches = [resolve_path(f"{places.root}/{each}/out/matches.csv").read_bytes() for each in ("rough", "calm")]
    assert matches[0] == matches[1]
