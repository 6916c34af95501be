"""The whole service on one machine: all servers, a worker, media and results in S3, models in the registry."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import cv2
import psutil
import pytest
import s3fs
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import PrefectHTTPStatusError

from tasks.registry import download
from tasks.service.server_process import ServerError
from tasks.service.stack import Stack
from tasks.service.worker import Worker

PROJECT = Path(__file__).parents[2]
SECONDS = 900
POINTS = {"short_side": 120, "max_points": 150}
IMAGES: dict[str, Any] = {
    "media": {"shard_size": 2},
    "local": dict.fromkeys(("reference_points", "query_points", "crop_points", "stretched_points"), POINTS)
    | {"stretches": []},
    "descriptor": {"input_size": 128},
    "overlay": {"detector": "edges"},
}
VIDEOS: dict[str, Any] = {
    "media": {"shard_size": 2},
    "descriptor": {"input_size": 128},
    "panes": {"detector": "none"},
    "alignment": {"aligner": "hough", "pair_filter": "none"},
    "report": {"max_matches": 5},
}
TRAINING: dict[str, Any] = {
    **{"architecture": "test_efficientnet", "start": "random", "input_size": 32, "described_size": 32},
    **{"dimensions": 16, "memory": 16, "whitening": "off"},
    "photos": {"long_side": 64, "validation_copies": 1, "validation_share": 0.3},
    "loop": {"epochs": 1, "batch_size": 4, "workers": 0, "threads": 1},
}
PHOTOS_TO_INDEX = 30  # two per shard


@dataclass(frozen=True)
class Service:
    """A running stack, and how its users reach it."""

    stack: Stack
    store: s3fs.S3FileSystem
    prefect: SyncPrefectClient

    def at(self, path: str) -> str:
        return f"s3://{self.stack.bucket}/{path}"

    def start(self, deployment: str, **parameters: Any) -> FlowRun:
        """Ask for a run, and return it as it is when it was accepted."""
        found = self.prefect.read_deployment_by_name(deployment)
        return self.prefect.create_flow_run_from_deployment(found.id, parameters=parameters)

    def ask(self, deployment: str, **parameters: Any) -> subprocess.CompletedProcess[str]:
        """Ask for a run as a person does, on the command line."""
        return subprocess.run(
            [sys.executable, "-m", "prefect", "deployment", "run", deployment, "--params", json.dumps(parameters)],
            cwd=PROJECT,
            env={**os.environ, **self.stack.environment, "PREFECT_CLI_PROMPT": "false"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def run(self, deployment: str, **parameters: Any) -> FlowRun:
        """Run a deployment to its end, which must be a good one."""
        return self.finish(self.start(deployment, **parameters))

    def finish(self, started: FlowRun) -> FlowRun:
        """Wait for the end of a run, which must be a good one."""
        ended = self.wait(started.id)
        assert ended.state is not None and ended.state.is_completed(), f"{ended.state}\n{self.logs_of(ended.id)}"
        return ended

    def wait(self, flow_run: UUID, seconds: float = SECONDS) -> FlowRun:
        return self.until(flow_run, lambda run: run.state is not None and run.state.is_final(), seconds)

    def until(self, flow_run: UUID, holds: Callable[[FlowRun], bool], seconds: float = SECONDS) -> FlowRun:
        deadline = time.monotonic() + seconds
        while not holds(run := self.prefect.read_flow_run(flow_run)):
            assert time.monotonic() < deadline, f"{run.state}\n{self.logs_of(flow_run)}"
            time.sleep(0.3)
        return run

    def artifacts_of(self, flow_run: UUID) -> dict[str, str]:
        """What the run shows on its page, by key."""
        only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run]))
        return {str(shown.key): str(shown.data) for shown in self.prefect.read_artifacts(artifact_filter=only)}

    def logs_of(self, flow_run: UUID) -> str:
        only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run]))
        return "\n".join(line.message for line in self.prefect.read_logs(only))

    def tracked(self, flow_run: UUID, experiment: str) -> Any:
        """The MLflow run of a flow run."""
        client = MlflowClient(self.stack.environment["MLFLOW_TRACKING_URI"])
        group = client.get_experiment_by_name(experiment)
        assert group is not None
        [found] = client.search_runs([group.experiment_id], f"tags.`prefect.flow_run_id` = '{flow_run}'")
        return found


@pytest.fixture(scope="module")
def service(stack: Stack, prefect: SyncPrefectClient) -> Service:
    """The stack as its users reach it."""
    store = s3fs.S3FileSystem(
        key=stack.environment["AWS_ACCESS_KEY_ID"],
        secret=stack.environment["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=stack.environment["AWS_ENDPOINT_URL"],
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    return Service(stack, store, prefect)


@pytest.fixture(scope="module")
def media(service: Service, photos: Mapping[str, Any], video_sides: Path) -> dict[str, dict[str, str]]:
    """In S3: three photos and three queries, two of them copies; the same of videos; and photos to learn from."""
    parts = {
        f"{name}{half}": photo[:, 150 * half : 150 * half + 150] for name, photo in photos.items() for half in (0, 1)
    }
    sides = {
        "photos/references": {name: photos[name] for name in ("astronaut", "chelsea", "coffee")},
        "photos/queries": {
            "flipped": photos["chelsea"][:, ::-1],
            "cropped": photos["coffee"][20:160, 30:250],
            "other": photos["rocket"],
        },
        "photos/training": parts | {f"{name}-turned": part[::-1, ::-1] for name, part in parts.items()},
    }
    for folder, pictures in sides.items():
        for name, pixels in pictures.items():
            _, packed = cv2.imencode(".png", pixels[..., ::-1])
            service.store.pipe_file(service.at(f"{folder}/{name}.png"), packed.tobytes())
    for side in ("queries", "references"):
        service.store.put(f"{video_sides / side}/", service.at(f"videos/{side}/"), recursive=True)
    return {
        kind: {side: service.at(f"{kind}/{side}") for side in ("queries", "references")}
        for kind in ("photos", "videos")
    }


@pytest.fixture(scope="module")
def images_run(service: Service, media: dict[str, dict[str, str]]) -> FlowRun:
    """A run of match-images by two processes of Dask, from S3 into S3, asked for on the command line."""
    asked = {**media["photos"], "out": service.at("out/images"), "overrides": IMAGES}
    done = service.ask("match-images/cpu", **asked, runner={"kind": "dask", "workers": 2})
    assert done.returncode == 0, done.stdout + done.stderr
    [newest] = service.prefect.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=1)
    return service.finish(newest)


def test_images_in_s3_are_matched_by_a_deployment_and_results_lie_in_s3(service: Service, images_run: FlowRun) -> None:
    out = service.at("out/images")
    matches = service.store.cat_file(f"{out}/matches.csv")
    assert b'"flipped","chelsea"' in matches
    assert b'"cropped","coffee"' in matches
    assert b"<html" in service.store.cat_file(f"{out}/report.html")
    assert json.loads(service.store.cat_file(f"{out}/run.json"))["counts"]["queries"] == 3
    assert service.store.exists(f"{out}/matches.parquet")


def test_both_servers_link_to_each_other_and_to_the_outputs(service: Service, images_run: FlowRun) -> None:
    tracked = service.tracked(images_run.id, "match-images")
    shown = service.artifacts_of(images_run.id)
    assert tracked.info.run_id in shown["mlflow-run"]
    assert service.at("out/images") in shown["match-images-outputs"]
    assert '"what": "queries", "count": 3' in shown["match-images-summary"]
    tags = tracked.data.tags
    assert str(images_run.id) in tags["prefect.flow_run_url"]
    assert (tags["prefect.flow_name"], tags["prefect.deployment"]) == ("match-images", "cpu")
    assert tracked.data.metrics["counts.copies"] >= 1
    files = {
        file.path
        for file in MlflowClient(service.stack.environment["MLFLOW_TRACKING_URI"]).list_artifacts(tracked.info.run_id)
    }
    assert files >= {"run.json", "matches.csv", "report.html"}
    if (PROJECT / ".git").exists():
        assert len(tags["git_commit"]) == 40


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"preset": "fast"}, "fast"), ({"overrides": {"local": {"neighbours": 0}}}, "overrides.local.neighbours")],
)
def test_bad_parameters_are_refused_by_name_when_a_run_is_asked_for(
    service: Service, media: dict[str, dict[str, str]], images_run: FlowRun, wrong: dict[str, Any], told: str
) -> None:
    known = {run.id for run in service.prefect.read_flow_runs(limit=100)}
    given = {**media["photos"], "out": service.at("out/refused"), "overrides": IMAGES}
    with pytest.raises(PrefectHTTPStatusError) as refused:
        service.start("match-images/cpu", **{**given, **wrong})
    assert told in refused.value.response.text
    assert {run.id for run in service.prefect.read_flow_runs(limit=100)} == known


def test_videos_in_s3_are_matched_by_a_deployment(service: Service, media: dict[str, dict[str, str]]) -> None:
    out = service.at("out/videos")
    done = service.run("match-videos/cpu", **media["videos"], out=out, overrides=VIDEOS)
    segments = service.store.cat_file(f"{out}/segments.csv").decode().splitlines()
    assert segments[0].startswith("query_id,ref_id,query_start,query_end,ref_start,ref_end,score")
    assert {tuple(line.replace('"', "").split(",")[:2]) for line in segments[1:3]} == {
        ("mirrored", "chelsea"),
        ("whole", "coffee"),
    }
    assert service.tracked(done.id, "match-videos").info.run_id in service.artifacts_of(done.id)["mlflow-run"]


def test_a_training_in_s3_registers_a_version_and_makes_it_the_champion(
    service: Service, media: dict[str, dict[str, str]]
) -> None:
    out = service.at("trained/descriptor")
    done = service.run("train-descriptor/cpu", photos=service.at("photos/training"), out=out, overrides=TRAINING)
    client = MlflowClient(service.stack.environment["MLFLOW_TRACKING_URI"])
    champion = client.get_model_version_by_alias("copytrace-descriptor", "champion")
    assert champion.version == "1"
    assert champion.tags["prefect.flow_run_id"] == str(done.id)
    assert client.get_run(champion.run_id).data.tags["prefect.flow_run_id"] == str(done.id)
    assert service.store.exists(f"{out}/descriptor.safetensors")
    kept = service.store.find(service.at("mlflow"))
    assert any(path.endswith("descriptor.safetensors") for path in kept)

    weights = download("models:/copytrace-descriptor@champion") / "descriptor.safetensors"
    assert weights.read_bytes() == service.store.cat_file(f"{out}/descriptor.safetensors")


def test_a_run_whose_worker_is_killed_crashes_and_a_new_one_takes_over_what_was_done(
    service: Service, photos: Mapping[str, Any], record_property: Callable[[str, object], None]
) -> None:
    for number in range(PHOTOS_TO_INDEX):
        _, packed = cv2.imencode(".png", photos["astronaut"][number : number + 150, number : number + 200, ::-1])
        service.store.pipe_file(service.at(f"photos/many/{number:02}.png"), packed.tobytes())
    out, asked = service.at("indexes/many"), {"references": service.at("photos/many")}
    asked |= {"out": out, "overrides": IMAGES}
    first = service.start("index-images/cpu", **asked)
    service.until(first.id, lambda run: bool(service.store.glob(f"{out}/receipts/*.json")))
    killed = time.monotonic()
    # The worker and its runs at once, as when their machine dies: nobody is left who could report it.
    [root] = [process for process in psutil.Process().children() if "worker" in process.cmdline()]
    for process in [root, *root.children(recursive=True)]:
        process.kill()
    [worker] = [process for process in service.stack.processes if isinstance(process, Worker)]
    worker.stop()
    done = {path: service.store.modified(path) for path in service.store.glob(f"{out}/receipts/*.json")}
    assert 1 <= len(done) < PHOTOS_TO_INDEX // 2

    ended = service.wait(first.id)
    record_property("seconds_to_crashed", round(time.monotonic() - killed, 1))
    assert ended.state is not None and ended.state.is_crashed(), ended.state

    second = service.start("index-images/cpu", **asked)
    worker.start()
    worker.wait()
    ended = service.wait(second.id)
    record_property("seconds_to_completed", round(time.monotonic() - killed, 1))
    assert ended.state is not None and ended.state.is_completed(), service.logs_of(second.id)
    assert {path: service.store.modified(path) for path in done} == done
    assert len(service.store.glob(f"{out}/receipts/*.json")) == PHOTOS_TO_INDEX // 2


def test_no_key_is_in_any_log_parameter_or_output(service: Service, images_run: FlowRun) -> None:
    secrets = [service.stack.environment[name].encode() for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    assert all(len(secret) >= 16 for secret in secrets)
    read: dict[str, bytes] = {str(log): log.read_bytes() for log in service.stack.logs.iterdir()}
    objects = [path for path in service.store.find(f"s3://{service.stack.bucket}") if "/photos/" not in path]
    read |= {path: service.store.cat_file(path) for path in objects}
    for run in service.prefect.read_flow_runs(limit=100):
        read[f"flow run {run.name}"] = run.model_dump_json().encode()
        read[f"logs of {run.name}"] = service.logs_of(run.id).encode()
        read[f"artifacts of {run.name}"] = json.dumps(service.artifacts_of(run.id)).encode()
    client = MlflowClient(service.stack.environment["MLFLOW_TRACKING_URI"])
    for experiment in client.search_experiments():
        for tracked in client.search_runs([experiment.experiment_id]):
            read[f"MLflow run {tracked.info.run_id}"] = repr(tracked.to_dictionary()).encode()
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True).stdout
    assert len(read) > 50
    assert not [name for name, content in {**read, "ps": processes}.items() if any(key in content for key in secrets)]


@pytest.mark.ends_the_stack
def test_when_a_server_dies_it_is_named_and_the_rest_stops_without_leaving_a_process(stack: Stack) -> None:
    leaders = [psutil.Process(int(record.read_text().split()[0])) for record in stack.logs.glob("*.pid")]
    family = [one for leader in leaders for one in (leader, *leader.children(recursive=True))]
    [server] = [one for one in family if "mlflow" in one.cmdline() and "server" in one.cmdline()]
    server.send_signal(signal.SIGKILL)
    with pytest.raises(ServerError, match=r"MLflow ended with exit code -9; see .*/logs/mlflow\.log"):
        stack.watch(every=0.2)
    stack.stop()
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert not list(stack.logs.glob("*.pid"))
    assert list((stack.folder / "objects").glob("*.dat"))
