"""Artifacts that Prefect's UI shows for a run: links, tables and lists of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.csv
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger

from copytrace.object_store import as_stored_path, redact
from tasks.patience import wait_for_server

TOP_ROWS = 50
MATCH_COLUMNS = ("query_id", "reference_id", "score", "branches", "inliers", "mirrored")
SEGMENT_COLUMNS = ("query_id", "ref_id", "query_start", "query_end", "ref_start", "ref_end", "score")


def log_plan(shards: Sequence[int], arguments: Mapping[str, Any]) -> None:
    """Log how many shards a plan describes."""
    get_run_logger().info("%s: %d shards to describe into %s", arguments["role"], len(shards), arguments["root"])


def link_image_report(page: Path, arguments: Mapping[str, Any]) -> None:
    """Link to the page of image matches."""
    create_link_artifact(file_uri(page), "report.html", key="match-images-report", description="Matches side by side")


def link_video_report(page: Path, arguments: Mapping[str, Any]) -> None:
    """Link to the page of video matches."""
    create_link_artifact(
        file_uri(page), "report.html", key="match-videos-report", description="Copied segments, frame by frame"
    )


def show_image_summary(run: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Show counts, costs and the best matches of a run as tables."""
    _show_tables("match-images", run, arguments["folder"].matches.with_suffix(".csv"), MATCH_COLUMNS)


def show_video_summary(run: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Show counts, costs and the best segments of a run as tables."""
    _show_tables("match-videos", run, arguments["folder"].segments.with_suffix(".csv"), SEGMENT_COLUMNS)


def file_uri(path: Path) -> str:
    """Return the URI of a path: `file:///…` if it is local, otherwise that of the store."""
    return redact(str(path)) if as_stored_path(path) else path.resolve().as_uri()


def show_outputs(out: Path, flow: str) -> None:
    """List the files in the folder `out`, with links or a download command, as the artifact `FLOW-outputs`."""
    files = sorted(file.name for file in out.iterdir() if file.suffix and not file.name.startswith("."))
    folder = file_uri(out)
    if as_stored_path(out):
        # Browsers cannot open s3://, and a signed link would give access to everybody.
        lines = [f"In `{folder}/`:", *(f"- `{folder}/{name}`" for name in files)]
        lines += ["", "To copy all of them to this machine:", f"```\naws s3 cp --recursive {folder}/ {out.name}/\n```"]
    else:
        lines = [f"In `{out.resolve()}`:", *(f"- [{name}]({folder}/{name})" for name in files)]
    told, described = "\n".join(lines), f"What the run wrote into {folder}"
    wait_for_server(lambda: create_markdown_artifact(told, key=f"{flow}-outputs", description=described))


def top_rows(csv: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the given columns of the first `TOP_ROWS` rows of a table that is sorted by score."""
    options = pyarrow.csv.ConvertOptions(include_columns=list(columns))
    with csv.open("rb") as file:
        rows: list[dict[str, Any]] = pyarrow.csv.read_csv(file, convert_options=options).slice(0, TOP_ROWS).to_pylist()
    return rows


def _show_tables(flow: str, run: Mapping[str, Any], csv: Path, columns: Sequence[str]) -> None:
    counts = [{"what": name.replace("_", " "), "count": count} for name, count in run["counts"].items()]
    costs = [{"what": name, "count": cost["count"], "seconds": cost["seconds"]} for name, cost in run["stages"].items()]
    create_table_artifact(counts + costs, key=f"{flow}-summary", description=f"Counts and seconds of {csv.parent}")
    create_table_artifact(
        top_rows(csv, columns), key=f"{flow}-top-matches", description=f"At most the best {TOP_ROWS}; all are in {csv}"
    )
