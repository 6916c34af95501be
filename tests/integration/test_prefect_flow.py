"""The flows on real Prefect servers: one for all tests in this process, and one with a worker of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import cv2
import mlflow
import pytest
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from configs.images import ImageSettings
from copytrace.images import match_images as match_without_prefect
from flows.index_images import index_images
from flows.match_images import match_images
from flows.parameters import flow_settings
from tasks.step_task import RETRY_DELAYS

ROOT = Path(__file__).parents[2]
SECONDS_TO_START = 500
POINTS = {"short_side": 120, "max_points": 150}
OVERRIDES: dict[str, Any] = {
    "media": {"shard_size": 2},
    "local": {
        "reference_points": POINTS,
        "query_points": POINTS,
        "crop_points": POINTS,
        "stretched_points": POINTS,
        "stretches": [],
    },
}


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


def flow_run_of(state: Any) -> UUID:
    assert state.is_completed(), state.message
    identity: UUID = state.state_details.flow_run_id
    return identity


def tasks_of(flow_run: UUID, last: str = "track") -> dict[str, str]:
    """Return state by name of the task runs, once the server, which hears of them by events, knows the last."""
    deadline = time.monotonic() + 500
    with get_client(sync_client=True) as client:
        while True:
            only = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
            runs = client.read_task_runs(flow_run_filter=only)
            states = {run.name: run.state_name or "" for run in runs}
            if states.get(last) == "Completed" or time.monotonic() > deadline:
                return states
            time.sleep(0.2)


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
    stages += ["describe references 00000", "describe references 00001", "recall global", "recall local"]
    stages += ["recall crop-local", "score 00000", "score 00001", "summarize", "track"]
    assert tasks_of(run[1]) == dict.fromkeys(stages, "Completed")


def test_a_rerun_describes_nothing_and_leaves_the_same_bytes(run: tuple[Path, UUID], sides: dict[str, str]) -> None:
    out, _ = run
    before = {path: path.read_bytes() for path in (out / "matches.csv", out / "matches.parquet", out / "report.html")}
    again = flow_run_of(match_images(**sides, out=str(out), overrides=OVERRIDES, return_state=True))
    tasks = tasks_of(again)
    assert "recall local" in tasks
    assert not [name for name in tasks if name.startswith(("describe", "preprocess"))]
    assert {path: path.read_bytes() for path in before} == before


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


def test_an_index_takes_the_place_of_the_references(
    run: tuple[Path, UUID], sides: dict[str, str], tmp_path: Path
) -> None:
    index = index_images(sides["references"], str(tmp_path / "index"), overrides=OVERRIDES)
    match_images(sides["queries"], index, str(tmp_path / "out"), overrides=OVERRIDES)
    assert (tmp_path / "out" / "matches.csv").read_bytes() == (run[0] / "matches.csv").read_bytes()
    assert not (tmp_path / "out" / "work" / "references").exists()


def test_what_the_user_can_mend_fails_at_once_and_is_said_in_the_state(
    prefect_server: str, sides: dict[str, str], tmp_path: Path
) -> None:
    begin = time.monotonic()
    state: Any = match_images("missing", sides["references"], str(tmp_path), overrides=OVERRIDES, return_state=True)
    assert state.is_failed()
    assert "InputError: " in state.message
    assert "missing" in state.message
    assert time.monotonic() - begin < sum(RETRY_DELAYS), "it must not be tried again"


def test_a_run_is_tracked_where_mlflow_is_asked_for(
    run: tuple[Path, UUID], sides: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    flow_run = flow_run_of(match_images(**sides, out=str(run[0]), overrides=OVERRIDES, return_state=True))

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
    assert Path(tracked.info.artifact_uri.removeprefix("file://")).is_relative_to(tmp_path / "mlartifacts")
    assert read_artifact("mlflow-run").flow_run_id == flow_run


def test_a_tracking_server_that_fails_does_not_fail_the_run(
    run: tuple[Path, UUID], sides: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nosuchstore://anywhere")
    assert flow_run_of(match_images(**sides, out=str(run[0]), overrides=OVERRIDES, return_state=True))


@pytest.fixture
def prefect(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """A server on a free port with the deployments of the project and a worker for the pool `cpu`.

    Yields a function that runs a command of Prefect against it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env |= {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        log = (tmp_path / f"{command[0]}.log").open("wb")
        # A session of its own, so that what it starts can be ended with it.
        started.append(
            subprocess.Popen(
                prefect_command(*command), cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
            )
        )

    def call(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            prefect_command("--no-prompt", *command),
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )

    try:
        start("server", "start", "--host", "127.0.0.1", "--port", port)
        wait_until_healthy(f"http://127.0.0.1:{port}/api/health")
        for pool in ("cpu", "gpu-a100"):
            assert call("work-pool", "create", pool, "--type", "process").returncode == 0
        deployed = call("deploy", "--all")
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
        start("worker", "start", "--pool", "cpu", "--limit", "1")
        yield call
    finally:
        for process in reversed(started):
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def prefect_command(*command: str) -> list[str]:
    return [sys.executable, "-m", "prefect", *command]


def wait_until_healthy(url: str) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"no server at {url} after {SECONDS_TO_START} s")


def test_a_deployment_runs_on_a_worker_and_refuses_bad_parameters(
    prefect: Callable[..., subprocess.CompletedProcess[str]], sides: Mapping[str, str], tmp_path: Path
) -> None:
    given = {**sides, "out": str(tmp_path / "out"), "overrides": OVERRIDES}

    def params(values: Mapping[str, Any]) -> list[str]:
        return ["--params", json.dumps(values)]

    refused = prefect("deployment", "run", "match-images/cpu", *params(given | {"preset": "fast"}))
    assert refused.returncode != 0
    assert "fast" in refused.stdout + refused.stderr
    wrong = {"local": {"neighbours": 0}}
    refused = prefect("deployment", "run", "match-images/cpu", *params(given | {"overrides": wrong}))
    assert refused.returncode != 0
    assert "overrides.local.neighbours" in "".join((refused.stdout + refused.stderr).split())
    assert "match-images" not in prefect("flow-run", "ls").stdout

    done = prefect("deployment", "run", "match-images/cpu", *params(given), "--watch")

    assert done.returncode == 0, done.stdout + done.stderr
    assert b'"flipped","chelsea"' in (tmp_path / "out" / "matches.csv").read_bytes()
