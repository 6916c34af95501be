"""Paths of the files of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from copytrace.index.media_index import Role, is_index
from copytrace.index.odd_files import FAILURES
from copytrace.storage import remove_file, resolve_path

Branch = Literal["global", "local", "crop-local"]
BRANCHES: tuple[Branch, ...] = ("global", "local", "crop-local")


@dataclass(frozen=True, slots=True)
class RunInput:
    """The queries or the references of a run: their source, and their index, which may exist already."""

    source: str
    index: Path
    role: Role
    is_given: bool


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The output folder of a run, of images or of videos."""

    out: Path

    def queries(self, source: str | Path, *, may_be_index: bool = True) -> RunInput:
        """Return the input of the queries; `source` may name an index if `may_be_index`."""
        return self._input(source, "queries", may_be_index)

    def references(self, source: str | Path) -> RunInput:
        """Return the input of the references; `source` may name an index."""
        return self._input(source, "references", may_be_index=True)

    @property
    def work(self) -> Path:
        """Folder of the files from which a later run continues."""
        return self.out / "work"

    @property
    def merged(self) -> Path:
        """The record of the step that wrote the tables of matches or segments."""
        return self.work / "merge.json"

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.out / "report.html"

    @property
    def failures(self) -> Path:
        """The list of files that could not be read, or not to their end."""
        return self.out / FAILURES

    @property
    def summary(self) -> Path:
        """Settings, versions, counts and costs of the run."""
        return self.out / "run.json"

    def _input(self, source: str | Path, role: Role, may_be_index: bool) -> RunInput:
        place = resolve_path(source)
        is_given = may_be_index and is_index(place)
        return RunInput(str(source), place if is_given else self.work / role, role, is_given)


@dataclass(frozen=True, slots=True)
class ImageRunFolder(RunFolder):
    """The output folder of `match_images`."""

    def candidates(self, branch: Branch, shard: int) -> Path:
        """Return the file of the candidates that a branch finds for a shard of queries."""
        return self.work / "candidates" / branch / f"{shard:05}.parquet"

    def evidence(self, shard: int) -> Path:
        """Return the file of the evidence of a shard of queries."""
        return self.work / "evidence" / f"{shard:05}.parquet"

    @property
    def matches(self) -> Path:
        """The scored pairs with all their evidence; a CSV of the same name lies beside it."""
        return self.out / "matches.parquet"


@dataclass(frozen=True, slots=True)
class VideoRunFolder(RunFolder):
    """The output folder of `match_videos`."""

    def candidates(self, shard: int) -> Path:
        """Return the file of the candidates of a shard of queries."""
        return self.work / "candidates" / f"{shard:05}.parquet"

    def editing(self, shard: int) -> Path:
        """Return the file of the probabilities that the queries of a shard were edited."""
        return self.work / "editing" / f"{shard:05}.parquet"

    def noise(self, shard: int) -> Path:
        """Return the file of the noise levels of the frames of a shard of queries."""
        return self.work / "noise" / f"{shard:05}.parquet"

    def shard_segments(self, shard: int) -> Path:
        """Return the file of the segments of a shard of queries, as they were aligned."""
        return self.work / "segments" / f"{shard:05}.parquet"

    def verified_segments(self, shard: int) -> Path:
        """Return the file of the segments of a shard of queries, with scores that their pictures support."""
        return self.work / "verified" / f"{shard:05}.parquet"

    def exact_segments(self, shard: int) -> Path:
        """Return the file of the verified segments of a shard of queries, with exact ends."""
        return self.work / "exact" / f"{shard:05}.parquet"

    def signature_segments(self, shard: int) -> Path:
        """Return the file of the segments of a shard of queries, with the lines that temporal signatures tell."""
        return self.work / "signatures" / f"{shard:05}.parquet"

    @property
    def segments(self) -> Path:
        """All segments, best first; a CSV of the same name lies beside it."""
        return self.out / "segments.parquet"


def remove_stale_shards(folder: Path, current: Sequence[int]) -> None:
    """Delete from a folder with one file per shard (`00000.parquet`) the files of shards that no longer exist."""
    for path in folder.glob("[0-9]*.*"):
        if int(path.stem) not in current:
            remove_file(path)
