"""The whole service on one machine: all servers, a worker, media and results in S3, models in the registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import cv2
import pytest
import s3fs
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.service.ports import Ports
from tasks.service.stack import Stack
from tasks.service.worker import Worker

PROJECT = Path(__file__).parents[2]
SECONDS = 300
POINTS = {"short_side": 120, "max_points": 150}
IMAGES: dict[str, Any] = {
    "media": {"shard_size": 2},
    "local": dict.fromkeys(("reference_points", "query_points", "crop_points", "stretched_points"), POINTS)
    | {"stretches": []},
}
VIDEOS: dict[str, Any] = {"media": {"shard_size": 2}, "panes": {"detector": "none"}, "report": {"max_matches": 5}}
TRAINING: dict[str, Any] = {
    **{"input_size": 64, "described_size": 64, "dimensions": 32, "frozen_blocks": 5, "memory": 16, "whitening": "off"},
    "photos": {"long_side": 96, "validation_copies": 2, "validation_share": 0.3},
    "loop": {"epochs": 2, "batch_size": 4, "workers": 0, "threads": 1},
}


@dataclass(frozen=True)
class Service:
    """A running stack, and how its users reach it."""

    stack: Stack
    store: s3fs.S3FileSystem
    prefect: SyncPrefectClient

    def at(self, path: str) -> str:
        return f"s3://{self.stack.bucket}/{path}"

    def start(self, deployment: str, **parameters: Any) -> FlowRun:
        """Ask for a run as a person does, and return it as it is when it was accepted."""
        done = self._command("deployment", "run", deployment, "--params", json.dumps(parameters))
        assert done.returncode == 0, done.stdout + done.stderr
        [newest] = self.prefect.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=1)
        return newest

    def run(self, deployment: str, **parameters: Any) -> FlowRun:
        """Run a deployment to its end, which must be a good one."""
        ended = self.wait(self.start(deployment, **parameters).id)
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

    def tasks_of(self, flow_run: UUID, last: str = "track") -> set[str]:
        """Names of the task runs, once the server, which hears of them by events, knows the last."""
        only, deadline = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run])), time.monotonic() + 60
        while True:
            runs = {run.name: run.state_name for run in self.prefect.read_task_runs(flow_run_filter=only)}
            if runs.get(last) == "Completed" or time.monotonic() > deadline:
                return set(runs)
            time.sleep(0.3)

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

    def _command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "prefect", *words],
            cwd=PROJECT,
            env={**os.environ, **self.stack.environment, "PREFECT_CLI_PROMPT": "false"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )


@pytest.fixture(scope="module")
def service(stack_folder: Path) -> Iterator[Service]:
    """All servers, the deployments of prefect.yaml, and a worker of the pool `cpu`."""
    with Stack(stack_folder, ports=Ports.pick_free()) as stack:
        store = s3fs.S3FileSystem(
            key=stack.environment["AWS_ACCESS_KEY_ID"],
            secret=stack.environment["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=stack.environment["AWS_ENDPOINT_URL"],
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        with (
            temporary_settings({PREFECT_API_URL: stack.environment["PREFECT_API_URL"]}),
            get_client(sync_client=True) as prefect,
        ):
            yield Service(stack, store, prefect)


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
    """A first run of match-images, from S3 into S3."""
    return service.run("match-images/cpu", **media["photos"], out=service.at("out/images"), overrides=IMAGES)


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


def test_a_second_run_describes_nothing_and_leaves_the_same_bytes(
    service: Service, media: dict[str, dict[str, str]], images_run: FlowRun
) -> None:
    files = [service.at(f"out/images/{name}") for name in ("matches.csv", "matches.parquet", "report.html")]
    before = [service.store.cat_file(file) for file in files]
    again = service.run("match-images/cpu", **media["photos"], out=service.at("out/images"), overrides=IMAGES)
    tasks = service.tasks_of(again.id)
    assert "recall local" in tasks
    assert not [name for name in tasks if name.startswith(("describe", "preprocess"))]
    assert [service.store.cat_file(file) for file in files] == before


def test_an_index_in_s3_takes_the_place_of_references_and_dask_that_of_threads(
    service: Service, media: dict[str, dict[str, str]], images_run: FlowRun
) -> None:
    index = service.at("indexes/photos")
    service.run("index-images/cpu", references=media["photos"]["references"], out=index, overrides=IMAGES)
    done = service.run(
        "match-images/cpu",
        queries=media["photos"]["queries"],
        references=index,
        out=service.at("out/indexed"),
        overrides=IMAGES,
        runner={"kind": "dask", "workers": 2},
    )
    tasks = service.tasks_of(done.id)
    assert {name for name in tasks if name.startswith("describe")} == {f"describe queries {n:05}" for n in (0, 1)}
    for name in ("matches.csv", "matches.parquet"):
        written = service.store.cat_file(service.at(f"out/indexed/{name}"))
        assert written == service.store.cat_file(service.at(f"out/images/{name}"))


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

    matched = service.run(
        "match-images/cpu",
        **media["photos"],
        out=service.at("out/champion"),
        overrides={**IMAGES, "descriptor": {"model": "models:/copytrace-descriptor@champion"}},
    )
    assert service.tracked(matched.id, "match-images").data.metrics["counts.queries"] == 3


def test_a_run_whose_worker_is_killed_crashes_and_a_new_one_takes_over_what_was_done(
    service: Service, photos: Mapping[str, Any], record_property: Callable[[str, object], None]
) -> None:
    for number in range(40):
        _, packed = cv2.imencode(".png", photos["astronaut"][number : number + 150, number : number + 200, ::-1])
        service.store.pipe_file(service.at(f"photos/many/{number:02}.png"), packed.tobytes())
    out, asked = service.at("indexes/many"), {"references": service.at("photos/many")}
    asked |= {"out": out, "overrides": {"media": {"shard_size": 2}}}
    first = service.start("index-images/cpu", **asked)
    service.until(first.id, lambda run: len(service.store.glob(f"{out}/receipts/*.json")) >= 3)
    [worker] = [process for process in service.stack.processes if isinstance(process, Worker)]
    killed = time.monotonic()
    worker.stop()
    done = {path: service.store.modified(path) for path in service.store.glob(f"{out}/receipts/*.json")}
    assert 3 <= len(done) < 20

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
    assert len(service.store.glob(f"{out}/receipts/*.json")) == 20


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
