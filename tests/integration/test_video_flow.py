"""The flows of videos on a real Prefect server."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun

from configs.videos import VideoSettings
from copytrace.index.video_index import VideoIndex
from copytrace.videos import match_videos as match_without_prefect
from flows.index_videos import index_videos
from flows.match_videos import match_videos
from flows.parameters import flow_settings

OVERRIDES: dict[str, Any] = {
    "media": {"shard_size": 2},
    "descriptor": {"input_size": 64},
    "panes": {"detector": "none"},
    "report": {"max_matches": 5},
}


@pytest.fixture(scope="module")
def sides(video_sides: Path) -> dict[str, str]:
    """Three references in two shards, and three queries in two."""
    return {side: str(video_sides / side) for side in ("queries", "references")}


@pytest.fixture(scope="module")
def run(prefect_server: str, sides: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, UUID]:
    """A first run of the flow: its folder and its id."""
    out = tmp_path_factory.mktemp("run")
    return out, flow_run_of(match_videos(**sides, out=str(out), overrides=OVERRIDES, return_state=True))


def flow_run_of(state: Any) -> UUID:
    assert state.is_completed(), state.message
    identity: UUID = state.state_details.flow_run_id
    return identity


def task_runs_of(flow_run: UUID, last: str) -> dict[str, TaskRun]:
    """Return the task runs by name, once the server, which hears of them by events, knows how the last one ended."""
    deadline = time.monotonic() + 500
    with get_client(sync_client=True) as client:
        while True:
            only = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
            runs = {run.name: run for run in client.read_task_runs(flow_run_filter=only)}
            over = last in runs and runs[last].state_name in {"Completed", "Failed"}
            if over or time.monotonic() > deadline:
                return runs
            time.sleep(0.2)


def tasks_of(flow_run: UUID, last: str) -> dict[str, str]:
    return {name: run.state_name or "" for name, run in task_runs_of(flow_run, last).items()}


def read_artifact(key: str) -> Any:
    found: Any = Artifact.get(key)
    assert found is not None, f"no artifact {key}"
    return found


def test_the_flow_and_the_library_write_the_same_bytes(
    run: tuple[Path, UUID], sides: dict[str, str], tmp_path: Path
) -> None:
    match_without_prefect(**sides, out=tmp_path, settings=flow_settings(VideoSettings, "cpu", OVERRIDES))
    for name in ("segments.csv", "segments.parquet", "failures.csv"):
        assert (run[0] / name).read_bytes() == (tmp_path / name).read_bytes()
    with (run[0] / "segments.csv").open(newline="") as file:
        best = list(csv.DictReader(file))[:2]
    assert {(row["query_id"], row["ref_id"]) for row in best} == {("mirrored", "chelsea"), ("whole", "coffee")}


def test_every_stage_and_shard_is_a_task(run: tuple[Path, UUID]) -> None:
    stages = ["check", "merge", "report", "summarize", "track"]
    for role in ("queries", "references"):
        stages += [f"ingest {role}", f"describe {role} 00000", f"describe {role} 00001", f"finish {role}"]
    stages += ["index-segments references"]
    stages += [
        f"{stage} {shard}"
        for stage in ("search", "align", "verify", "find-ends", "compare-signatures")
        for shard in ("00000", "00001")
    ]
    assert tasks_of(run[1], "track") == dict.fromkeys(stages, "Completed")


def test_the_run_leaves_tables_progress_and_a_link_to_the_report(run: tuple[Path, UUID]) -> None:
    out, flow_run = run
    summary, top, link = (read_artifact(f"match-videos-{key}") for key in ("summary", "top-matches", "report"))
    progress = [read_artifact(key) for key in ("describe-queries-00001", "search-frames-00000", "align-pairs-00001")]

    assert {artifact.flow_run_id for artifact in (summary, top, link, *progress)} == {flow_run}
    assert '"what": "copied segments", "count": 2' in str(summary.data)
    assert '"what": "align pairs"' in str(summary.data)
    assert '"ref_id": "chelsea"' in str(top.data)
    assert (out / "report.html").as_uri() in str(link.data)
    assert {(artifact.type, artifact.data) for artifact in progress} == {("progress", 100.0)}


def test_a_rerun_describes_nothing_and_leaves_the_same_bytes(run: tuple[Path, UUID], sides: dict[str, str]) -> None:
    out, _ = run
    names = ("segments.csv", "segments.parquet", "report.html", "failures.csv", "run.json")
    before = {name: (out / name).read_bytes() for name in names}
    again = flow_run_of(match_videos(**sides, out=str(out), overrides=OVERRIDES, return_state=True))
    tasks = tasks_of(again, "track")
    assert {"search 00000", "align 00001"} <= tasks.keys()
    assert not [name for name in tasks if name.startswith("describe")]
    assert {name: (out / name).read_bytes() for name in names} == before


def test_an_index_is_made_by_its_own_flow(run: tuple[Path, UUID], sides: dict[str, str], tmp_path: Path) -> None:
    root = tmp_path / "index"
    made = index_videos(sides["references"], str(root), overrides=OVERRIDES, return_state=True)
    stages = ["ingest references", "describe index 00000", "describe index 00001", "finish index"]
    stages += ["index-segments index"]
    assert tasks_of(flow_run_of(made), "index-segments index") == dict.fromkeys(stages, "Completed")
    assert sorted(VideoIndex.open(root).items) == ["astronaut", "chelsea", "coffee"]


def test_two_indexes_need_no_video(run: tuple[Path, UUID], tmp_path: Path) -> None:
    work = run[0] / "work"
    done = match_videos(str(work / "queries"), str(work / "references"), str(tmp_path), overrides=OVERRIDES)
    assert (tmp_path / "segments.csv").read_bytes() == (run[0] / "segments.csv").read_bytes()
    assert done["counts"]["failures"] == 0
    assert (tmp_path / "failures.csv").read_text() == "id,path,stage,error\n"


def test_what_the_user_can_mend_fails_at_once_and_is_said_in_the_state(
    prefect_server: str, sides: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    state: Any = match_videos("missing", sides["references"], str(out), overrides=OVERRIDES, return_state=True)
    assert state.is_failed()
    assert "InputError: " in state.message
    assert "missing" in state.message
    ingest = task_runs_of(state.state_details.flow_run_id, "ingest queries")["ingest queries"]
    assert (ingest.state_name, ingest.run_count) == ("Failed", 1), "it must not be tried again"
    assert not out.exists()
