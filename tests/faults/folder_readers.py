"""What a reader of files is, and the readers of all files of an index and of a run, with and without checksums."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from configs.images import ImageSettings
from configs.videos import VideoSettings
from copytrace import images, videos
from copytrace.verify import SEALED, find_damage
from tests import killed_flows
from tests.faults.hostile_media import encode_clip, encode_picture

SIDES = {"references": "abc", "queries": "ad"}
RESULTS = ("matches.csv", "segments.csv", "report.html")


@dataclass(frozen=True)
class Reader:
    """A reader: `make` writes good files into a new folder and returns those to alter, and `read` reads them."""

    name: str
    make: Callable[[Path], Sequence[Path]]
    read: Callable[[Path], object]
    place: str = ""  # folder of an index or of a run, which errors name; damage alters bytes there, and forges nothing
    room: int = 384 << 20  # bytes that reading may take, besides a multiple of those of the file

    def names(self, text: str, root: Path, path: Path) -> bool:
        """Return whether an error names the file or, of an index or a run, anything in the folder `place`."""
        return (str(root / self.place) if self.place else path.name) in text

    def restore(self, root: Path, good: Mapping[Path, bytes]) -> None:
        """Write the good files again."""
        for path, content in good.items():
            if not path.exists() or path.read_bytes() != content:
                replace_file(path, content)


def replace_file(path: Path, content: bytes) -> None:
    """Write a new file in place of another one, which stays as it is for those who have mapped it into memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)


@dataclass(frozen=True)
class _Collection:
    """An index and a run, of which one is `altered`; files without checksums are as an older version wrote them."""

    kind: Literal["images", "videos"]
    altered: Literal["index", "out"]
    has_checksums: bool

    @property
    def reader(self) -> Reader:
        name = f"{self.kind}-{self.altered}{'' if self.has_checksums else '-without-checksums'}"
        return Reader(name, self.make, self.read, self.altered)

    def make(self, root: Path) -> Sequence[Path]:
        for side, names in SIDES.items():
            (root / side).mkdir(parents=True)
            for name in names:
                photo = np.random.default_rng(ord(name)).integers(0, 256, (120, 160, 3), np.uint8)
                is_image = self.kind == "images"
                content = encode_picture(photo, "png") if is_image else encode_clip(photo, "mp4", size=(64, 48))
                (root / side / f"{name}{'.png' if is_image else '.mp4'}").write_bytes(content)
        self.index(root)
        self.match(root)
        files = [path for path in sorted((root / self.altered).rglob("*.*")) if ".lease" not in path.parts]
        if not self.has_checksums:
            for path in files:
                _forget_checksums(path)
        return [path for path in files if path.is_file()]

    def read(self, root: Path) -> None:
        find_damage(root / self.altered)
        if self.altered == "index":
            shutil.rmtree(root / "out", ignore_errors=True)
        for name in RESULTS:
            (root / "out" / name).unlink(missing_ok=True)
        self.match(root)
        if self.altered == "index":
            self.index(root)

    def index(self, root: Path) -> None:
        make: Callable[..., object] = images.index_images if self.kind == "images" else videos.index_videos
        make(root / "references", root / "index", self.settings)

    def match(self, root: Path) -> None:
        match: Callable[..., object] = images.match_images if self.kind == "images" else videos.match_videos
        match(root / "queries", root / "index", root / "out", self.settings)

    @property
    def settings(self) -> Any:
        if self.kind == "images":
            return ImageSettings.model_validate(killed_flows.IMAGES)
        return VideoSettings.model_validate(killed_flows.VIDEOS)


def _forget_checksums(path: Path) -> None:
    if path.suffix == ".json":
        record = json.loads(path.read_bytes())
        path.write_text(
            json.dumps({name: value for name, value in record.items() if name not in {"crc32", "checksums"}})
        )
    elif path.name in SEALED:
        table = pq.read_table(path)
        metadata = {name: value for name, value in table.schema.metadata.items() if name != b"copytrace.crc32"}
        pq.write_table(table.replace_schema_metadata(metadata), path)


def folder_readers() -> Iterator[Reader]:
    """Yield the readers of files of indexes and of runs."""
    for kind in ("images", "videos"):
        for altered in ("index", "out"):
            for has_checksums in (True, False):
                yield _Collection(kind, altered, has_checksums).reader  # type: ignore[arg-type]
