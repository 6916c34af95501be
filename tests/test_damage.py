"""Damage to the files of an index and of a run: it is noticed, changes no result, and is repaired piece by piece.

`make test-faults` flips COPYTRACE_FLIPS bits, and not the few of `make test`.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from configs.images import ImageSettings
from configs.videos import VideoSettings
from copytrace import images, videos
from copytrace.checksums import BLOCK
from copytrace.cli import app
from copytrace.errors import CopytraceError, DamagedFileError
from copytrace.images import index_images, match_images
from copytrace.index import image_index, video_index
from copytrace.index.image_index import ImageIndex
from copytrace.tables import read_table
from copytrace.verify import SEALED, delete_damaged, find_damage
from copytrace.videos import index_videos, match_videos

Pixels = NDArray[np.uint8]
FLIPS = int(os.environ.get("COPYTRACE_FLIPS", "2"))
SETTINGS: dict[str, Any] = {
    "media": {"shard_size": 2, "threads": 1},
    "overlay": {"detector": "none"},
    "descriptor": {"input_size": 32},
    "local": {
        "stretches": [],
        "reference_points": {"short_side": 120, "max_points": 150},
        "query_points": {"short_side": 120, "max_points": 150},
    },
    "report": {"max_matches": 3},
}


VIDEO_SETTINGS: dict[str, Any] = {
    "media": {"shard_size": 2, "threads": 1},
    "panes": {"detector": "none"},
    "alignment": {"aligner": "hough", "pair_filter": "none", "verified_segments": 1},
    "report": {"max_matches": 1},
}


class Collection:
    """Photos, an index of the references among them, and a finished run of the queries."""

    results = ("matches.csv", "matches.parquet", "report.html", "run.json")

    def __init__(self, root: Path) -> None:
        self.root, self.settings = root, ImageSettings.model_validate(SETTINGS)
        self.index, self.out = root / "index", root / "out"

    def make_index(self) -> None:
        index_images(self.root / "references", self.index, self.settings)

    def match(self, out: Path) -> bytes:
        """Match into a folder, and return the matches."""
        match_images(self.root / "queries", self.index, out, self.settings)
        return (out / "matches.csv").read_bytes()

    def copy(self, root: Path) -> Self:
        shutil.copytree(self.index, root / "index")
        shutil.copytree(self.out, root / "out")
        for side in ("queries", "references"):
            (root / side).symlink_to(self.root / side)
        return type(self)(root)


class VideoCollection(Collection):
    """The same of videos."""

    results = ("segments.csv", "segments.parquet", "report.html", "run.json")

    def make_index(self) -> None:
        index_videos(self.root / "references", self.index, VideoSettings.model_validate(VIDEO_SETTINGS))

    def match(self, out: Path) -> bytes:
        match_videos(self.root / "queries", self.index, out, VideoSettings.model_validate(VIDEO_SETTINGS))
        return (out / "segments.csv").read_bytes()


@pytest.fixture(scope="module")
def made_of_videos(
    tmp_path_factory: pytest.TempPathFactory, video_sides: Path, grid_models: tuple[Any, None]
) -> Iterator[VideoCollection]:
    root = tmp_path_factory.mktemp("made")
    for side in ("queries", "references"):
        (root / side).symlink_to(video_sides / side)
    with pytest.MonkeyPatch.context() as patch:
        for module in (videos, video_index):
            patch.setattr(module, "load_video_models", lambda descriptor, detector: grid_models)
        collection = VideoCollection(root)
        collection.make_index()
        collection.match(collection.out)
        yield collection


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, photos: dict[str, Pixels], grid_models: tuple[Any, None]
) -> Iterator[Collection]:
    root = tmp_path_factory.mktemp("made")
    sides = {
        "references": {name: photos[name] for name in ("astronaut", "chelsea", "coffee")},
        "queries": {name: photos[name][:, ::-1] for name in ("chelsea", "rocket", "coffee")},
    }
    for side, pictures in sides.items():
        (root / side).mkdir()
        for name, pixels in pictures.items():
            cv2.imwrite(str(root / side / f"{name}.png"), pixels[..., ::-1])
    (root / "references" / "cut.png").write_bytes((root / "references" / "coffee.png").read_bytes()[:200])
    with pytest.MonkeyPatch.context() as patch:
        for module in (images, image_index):
            patch.setattr(module, "load_image_models", lambda descriptor, detector: grid_models)
        collection = Collection(root)
        collection.make_index()
        collection.match(collection.out)
        yield collection


@pytest.fixture
def collection(made: Collection, tmp_path: Path) -> Collection:
    return made.copy(tmp_path / "copy")


def files_in(*roots: Path) -> list[Path]:
    return [
        path for root in roots for path in sorted(root.rglob("*")) if path.is_file() and path.parent.name != ".lease"
    ]


def flip(path: Path, chance: random.Random) -> str:
    content = bytearray(path.read_bytes())
    bit = chance.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return f"bit {bit} of {path}"


def test_what_is_whole_is_said_to_be_whole(collection: Collection) -> None:
    for root in (collection.index, collection.out):
        told = CliRunner().invoke(app, ["verify", str(root)])
        assert (told.exit_code, told.stdout) == (0, f"{root} is whole\n")


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("of", ["made", "made_of_videos"])
def test_a_flipped_bit_is_noticed_and_changes_no_match(of: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    made: Collection = request.getfixturevalue(of)
    collection, chance = made.copy(tmp_path / "copy"), random.Random(int(os.environ.get("COPYTRACE_SEED", "20")))
    expected = (collection.out / collection.results[0]).read_bytes()
    files = files_in(collection.index, collection.out)
    assert len(files) > 25
    ended, unread = 0, 0
    for number in chance.sample(range(len(files)), FLIPS) if len(files) >= FLIPS else range(FLIPS):
        copied = collection.copy(tmp_path / f"copy-{number}")
        path = copied.root / files[number % len(files)].relative_to(collection.root)
        fault = flip(path, chance)
        noticed = [damage.path for root in (copied.index, copied.out) for damage in find_damage(root)]
        is_unread = path not in noticed
        assert not is_unread or (path.name in SEALED and is_the_same_table(path, files[number % len(files)])), fault
        unread += is_unread
        try:
            if path.is_relative_to(copied.out):
                for name in copied.results:
                    if path.parent != copied.out:
                        (copied.out / name).unlink()  # so that all that they were made from is read again
            else:  # what is known of the queries stays, so that a run is quick
                shutil.copytree(copied.out / "work" / "queries", copied.root / "again" / "work" / "queries")
            found = copied.match(copied.out if path.is_relative_to(copied.out) else copied.root / "again")
        except CopytraceError as error:
            assert "\n" not in str(error), fault
            ended += 1
        else:
            assert found == expected, fault
        shutil.rmtree(copied.root)
    print(
        f"{of}: {FLIPS} flipped bits; {FLIPS - unread} found by verify, {unread} where Parquet reads nothing; {ended} "
        f"ended a run in one line, {FLIPS - ended} runs gave the same result"
    )


def is_the_same_table(one: Path, other: Path) -> bool:
    """Return whether two tables are the same but for what Parquet does not read, such as statistics."""
    return bool(read_table(one).equals(read_table(other), check_metadata=True))


@pytest.mark.parametrize(
    ("name", "described_again"),
    [
        ("points/00001.parquet", ["coffee"]),
        ("views/00001.parquet", ["coffee"]),
        ("descriptors/00000.parquet", ["astronaut", "chelsea"]),
        ("receipts/00001.json", ["coffee"]),
        ("segments/*.points", []),
        ("segments/*.npy", []),
        ("segments/segments.json", []),
        ("manifest.parquet", []),
        ("index.json", []),
        ("plan.parquet", []),
        ("failures.csv", []),
        ("unlisted.csv", []),
    ],
)
@pytest.mark.parametrize("fault", ["flipped", "cut", "missing"])
def test_a_damaged_file_of_an_index_is_repaired_by_making_only_what_it_belongs_to(
    collection: Collection, name: str, described_again: list[str], fault: str, tmp_path: Path
) -> None:
    if FLIPS < 100 and (len(name) + len(fault)) % 3:
        pytest.skip("left to make test-faults")
    (path,) = collection.index.glob(name)
    before = content_of(ImageIndex.open(collection.index))
    if fault == "flipped":
        chance = random.Random(1)
        flip(path, chance)
        while not find_damage(collection.index):  # a bit that Parquet does not read
            flip(path, chance)
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.unlink()
    told = CliRunner().invoke(app, ["verify", str(collection.index)])
    optional = {"segments.json", "manifest.parquet", "plan.parquet"}
    if not (fault == "missing" and path.name in optional):
        assert told.exit_code == 1
        assert told.stdout.startswith(f"{path} is {'missing' if fault == 'missing' else 'damaged'}")
        assert f"run `copytrace verify {collection.index} --repair`" in told.stderr
    assert CliRunner().invoke(app, ["verify", "--repair", str(collection.index)]).exit_code == 0
    receipts = {path.name: path.read_bytes() for path in collection.index.glob("receipts/*.json")}
    collection.make_index()
    assert content_of(ImageIndex.open(collection.index)) == before
    again = [p for p in collection.index.glob("receipts/*.json") if receipts.get(p.name) != p.read_bytes()]
    index = ImageIndex.open(collection.index)
    assert sorted(image for p in again for image in index.ids_in(int(p.stem))) == described_again
    assert find_damage(collection.index) == []
    assert collection.match(tmp_path / "again") == (collection.out / "matches.csv").read_bytes()


def content_of(index: ImageIndex) -> dict[str, list[float]]:
    """The descriptor of each image."""
    described = [index.descriptors(shard) for shard in index.shards]
    return {image: vector.tolist() for each in described for image, vector in zip(each.ids, each.vectors, strict=True)}


@pytest.mark.parametrize("name", ["candidates/local/00000", "evidence/00001"])
def test_a_damaged_file_of_a_run_is_repaired_by_doing_only_its_step_again(collection: Collection, name: str) -> None:
    matches = collection.out / "matches.csv"
    expected = matches.read_bytes()
    path = collection.out / "work" / f"{name}.parquet"
    flip(path, random.Random(2))
    matches.unlink()
    if "evidence" in name:
        with pytest.raises(
            DamagedFileError, match=rf"{path} is damaged at byte 0 .*; run `copytrace verify .*out --repair`"
        ):
            collection.match(collection.out)
    delete_damaged(find_damage(collection.out))
    steps = [*(collection.out / "work").glob("candidates/*/*"), *(collection.out / "work").glob("evidence/*")]
    others = {each: each.read_bytes() for each in steps if each.with_suffix("") != path.with_suffix("")}
    assert collection.match(collection.out) == expected
    assert {each: each.read_bytes() for each in others} == others
    assert find_damage(collection.out) == []


def test_a_large_file_is_checked_where_it_is_read(collection: Collection) -> None:
    index = ImageIndex.open(collection.index)
    (lists,) = collection.index.glob("segments/*.points")
    assert BLOCK < lists.stat().st_size < 2 * BLOCK
    flip(lists, random.Random(3))
    with pytest.raises(DamagedFileError, match=rf"{lists} is damaged at byte \d+.* or behind; run"):
        collection.match(collection.root / "again")
    assert len(list(index.views(0))) == 2


def test_a_folder_of_something_else_is_not_verified(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert told.exit_code == 1
    assert (
        told.stderr == f"copytrace: {tmp_path} is neither an index nor the output folder of a run; give one of these\n"
    )
