"""Where a run keeps its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from copytrace.search.image_candidates import Branch


@dataclass(frozen=True, slots=True)
class MatchPaths:
    """Where a run of `match_images` keeps its files."""

    out: Path

    @property
    def queries(self) -> Path:
        """Index of the queries."""
        return self.out / "work" / "queries"

    @property
    def references(self) -> Path:
        """Index of the references, unless they came as an index."""
        return self.out / "work" / "references"

    def candidates(self, branch: Branch) -> Path:
        """Candidates of a branch."""
        return self.out / "work" / "candidates" / f"{branch}.parquet"

    def evidence(self, shard: int) -> Path:
        """Evidence of the pairs of a shard of queries."""
        return self.out / "work" / "evidence" / f"{shard:05}.parquet"

    @property
    def matches(self) -> Path:
        """All scored pairs with everything known of them."""
        return self.out / "matches.parquet"

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.out / "report.html"

    @property
    def failures(self) -> Path:
        """The files that could not be read."""
        return self.out / "failures.csv"
