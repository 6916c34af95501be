"""The flow of images on a real Prefect server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import cv2
import mlflow
import pytest
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun

from configs.images import ImageSettings
from copytrace.images import match_images as match_without_prefect
from copytrace.run_folder import BRANCHES
from flows.match_images import match_images
from flows.parameters import flow_settings
from tests.few_points import FEW_POINTS

OVERRIDES: dict[str, Any] = {"media": {"shard_size": 2}, "descriptor": {"input_size": 128}, "local": FEW_POINTS}


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory, photos: dict[str, Any]) -> dict[str, str]:
    """Three references in two shards, and three queries: two copies and a photo of something else."""
    root = tmp_path_factory.mktemp("photos")
    references = {name: photos[name] for name in ("astronaut", "chelsea", "coffee")}
    queries = {"flipped": photos["chelsea"][:, ::-1], "cropped": photos["coffee"][20:160, 30:250]}
    for side, pictures in {"references": references, "queries": queries | {"other": photos["rocket"]}}.items():
        (root / side).mkdir()
        for name, pixels in pictures.items():
            cv2.imwrite(str(root / side / f"{name}.png"), pixels[..., ::-1])
    return {"queries": str(root / "queries"), "references": str(root / "references")}


@pytest.fixture(scope="module")
def run(prefect_server: str, sides: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, UUID]:
    """A first run of the flow: its folder and its id."""
    out = tmp_path_factory.mktemp("run")
    return out, flow_run_of(match_images(**sides, out=str(out), overrides=OVERRIDES, return_state=True))


@pytest.fixture(scope="module")
def again(
    run: tuple[Path, UUID],
    sides: dict[str, str],
    empty_mlflow_database: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, bytes], UUID, Path]:
    """A second run into the same folder, tracked: the bytes that the first one left, its own id, and the store."""
    out, root = run[0], tmp_path_factory.mktemp("tracking")
    before = {name: (out / name).read_bytes() for name in ("matches.csv", "matches.parquet", "report.html")}
    shutil.copyfile(empty_mlflow_database, root / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        state = match_images(**sides, out=str(out), overrides=OVERRIDES, return_state=True)
    return before, flow_run_of(state), root


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


def tasks_of(flow_run: UUID, last: str = "track") -> dict[str, str]:
    return {name: run.state_name or "" for name, run in task_runs_of(flow_run, last).items()}


def test_the_flow_and_the_library_write_the_same_bytes(
    run: tuple[Path, UUID], sides: dict[str, str], tmp_path: Path
) -> None:
    match_without_prefect(**sides, out=tmp_path, settings=flow_settings(ImageSettings, "cpu", OVERRIDES))
    written = (run[0] / "matches.csv").read_bytes()
    assert written == (tmp_path / "matches.csv").read_bytes()
    assert b'"flipped","chelsea"' in written
    assert b'"cropped","coffee"' in written


def test_every_stage_and_shard_is_a_task(run: tuple[Path, UUID]) -> None:
    stages = ["check", "ingest queries", "ingest references", "finish queries", "finish references", "merge", "report"]
    stages += [f"{stage} queries {shard}" for stage in ("preprocess", "describe") for shard in ("00000", "00001")]
    stages += ["describe references 00000", "describe references 00001", "index-segments references"]
    stages += [f"recall {branch} {shard}" for branch in BRANCHES for shard in ("00000", "00001")]
    stages += ["score 00000", "score 00001", "summarize", "track"]
    assert tasks_of(run[1]) == dict.fromkeys(stages, "Completed")


def test_a_rerun_describes_nothing_and_leaves_the_same_bytes(
    run: tuple[Path, UUID], again: tuple[dict[str, bytes], UUID, Path]
) -> None:
    before, second, _ = again
    tasks = tasks_of(second)
    assert "recall local 00000" in tasks
    assert not [name for name in tasks if name.startswith(("describe", "preprocess"))]
    assert {name: (run[0] / name).read_bytes() for name in before} == before


def test_the_run_leaves_tables_progress_and_a_link_to_the_report(run: tuple[Path, UUID]) -> None:
    out, flow_run = run
    keys = ["summary", "top-matches", "report"]
    summary, top, link = (read_artifact(f"match-images-{key}") for key in keys)
    progress = read_artifact("describe-references-00001")

    assert {artifact.flow_run_id for artifact in (summary, top, link, progress)} >= {flow_run}
    assert '"what": "queries", "count": 3' in str(summary.data)
    assert '"what": "recall local"' in str(summary.data)
    assert "chelsea" in str(top.data)
    assert (out / "report.html").as_uri() in str(link.data)
    assert (progress.type, progress.data) == ("progress", 100.0)


def read_artifact(key: str) -> Any:
    found: Any = Artifact.get(key)
    assert found is not None, f"no artifact {key}"
    return found


def test_what_the_user_can_mend_fails_at_once_and_is_said_in_the_state(
    prefect_server: str, sides: dict[str, str], tmp_path: Path
) -> None:
    state: Any = match_images("missing", sides["references"], str(tmp_path), overrides=OVERRIDES, return_state=True)
    assert state.is_failed()
    assert "InputError: " in state.message
    assert "missing" in state.message
    ingest = task_runs_of(state.state_details.flow_run_id, "ingest queries")["ingest queries"]
    assert (ingest.state_name, ingest.run_count) == ("Failed", 1), "it must not be tried again"


def test_a_run_is_tracked_where_mlflow_is_asked_for(again: tuple[dict[str, bytes], UUID, Path]) -> None:
    _, flow_run, root = again
    store = f"sqlite:///{root / 'mlflow.db'}"

    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("match-images")
    assert experiment is not None
    [tracked] = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.tags["prefect.flow_run_id"] == str(flow_run)
    assert tracked.data.params["local.query_points.max_points"] == "150"
    assert tracked.data.metrics["counts.queries"] == 3
    assert tracked.data.metrics["stages.recall_local.seconds"] > 0
    files = {file.path for file in client.list_artifacts(tracked.info.run_id)}
    assert files == {"run.json", "matches.csv", "report.html"}
    assert Path(tracked.info.artifact_uri.removeprefix("file://")).is_relative_to(root / "mlartifacts")
    assert read_artifact("mlflow-run").flow_run_id == flow_run


def test_an_error_of_the_user_ends_the_command_of_a_flow_with_its_message_and_no_traceback(
    prefect_server: str, tmp_path: Path
) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    own = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": prefect_server}
    command = [sys.executable, "-m", "flows.index_images", "missing", "--out", "index"]
    done = subprocess.run(
        command, cwd=tmp_path, env=kept | own, capture_output=True, text=True, check=False, timeout=400
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert any(line.startswith("copytrace: ") and "missing" in line for line in lines)
    assert not any("Traceback" in line for line in lines)
    assert len(lines) < 15
