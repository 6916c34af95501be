"""Where a run keeps its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from copytrace.index.media_index import Role, is_index
from copytrace.storage import resolve_path


@dataclass(frozen=True, slots=True)
class VideoMatchPaths:
    """Where a run of `match_videos` keeps its files."""

    out: Path

    @property
    def queries(self) -> Path:
        """Index of the queries, unless they came as an index."""
        return self.out / "work" / "queries"

    @property
    def references(self) -> Path:
        """Index of the references, unless they came as an index."""
        return self.out / "work" / "references"

    def sides(self, queries: str | Path, references: str | Path) -> list[tuple[str, Path, Role, bool]]:
        """Return source, index and role of both sides, and whether the index is still to be made."""
        sides: list[tuple[str, Path, Role, bool]] = []
        chosen: list[tuple[str | Path, Path, Role]] = [
            (queries, self.queries, "queries"),
            (references, self.references, "references"),
        ]
        for source, root, role in chosen:
            place = resolve_path(source)
            given = is_index(place)
            sides.append((str(source), place if given else root, role, not given))
        return sides

    def candidates(self, shard: int) -> Path:
        """Candidates of a shard of queries."""
        return self.out / "work" / "candidates" / f"{shard:05}.parquet"

    def noise(self, shard: int) -> Path:
        """Noise level of each frame of a shard of queries."""
        return self.out / "work" / "noise" / f"{shard:05}.parquet"

    def segments_of(self, shard: int) -> Path:
        """Segments of a shard of queries."""
        return self.out / "work" / "segments" / f"{shard:05}.parquet"

    @property
    def segments(self) -> Path:
        """All segments, best first."""
        return self.out / "segments.parquet"

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.out / "report.html"

    @property
    def failures(self) -> Path:
        """The files that could not be read, or not to their end."""
        return self.out / "failures.csv"
