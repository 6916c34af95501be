"""Report: the HTML page, `run.json`, and what Prefect's own pages show of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.csv
from prefect.artifacts import create_link_artifact, create_table_artifact

from configs.schema import ImageSettings
from copytrace import image_stages as stages
from copytrace.image_stages import MatchPaths
from tasks.policy import stage_task
from tasks.progress import ArtifactProgress

TOP_MATCHES = 50
TOP_COLUMNS = ("query_id", "reference_id", "score", "branches", "inliers", "mirrored")


@stage_task("report")
def report(queries: Path, references: Path, out: Path, settings: ImageSettings) -> Path:
    """Write `report.html`, link to it from the run, and return it; see `image_stages.report`."""
    page = stages.report(queries, references, MatchPaths(out), settings, ArtifactProgress())
    create_link_artifact(
        page.resolve().as_uri(), "report.html", key="match-images-report", description="Matches side by side"
    )
    return page


@stage_task("summarise")
def summarise(queries: Path, references: Path, out: Path, settings: ImageSettings) -> dict[str, Any]:
    """Write `run.json`, show its figures and the best matches as tables, and return it; see `summarise_run`."""
    paths = MatchPaths(out)
    run = stages.summarise_run(queries, references, paths, settings)
    counts = [{"what": name.replace("_", " "), "count": count} for name, count in run["counts"].items()]
    costs = [{"what": name, "count": cost["count"], "seconds": cost["seconds"]} for name, cost in run["stages"].items()]
    create_table_artifact(counts + costs, key="match-images-summary", description=f"Counts and seconds of {out}")
    create_table_artifact(
        top_matches(paths.matches.with_suffix(".csv")),
        key="match-images-top-matches",
        description=f"The best {TOP_MATCHES} at most; all are in {paths.matches.with_suffix('.csv')}",
    )
    return run


def top_matches(csv: Path) -> list[dict[str, Any]]:
    """Return the first rows of `matches.csv`, which is sorted by score, with the columns worth a glance."""
    options = pyarrow.csv.ConvertOptions(include_columns=TOP_COLUMNS)
    rows: list[dict[str, Any]] = pyarrow.csv.read_csv(csv, convert_options=options).slice(0, TOP_MATCHES).to_pylist()
    return rows
