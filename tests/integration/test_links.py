"""What a flow run and what it leaves say of each other, on a real Prefect server and a real MLflow store."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec.config
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from prefect import flow
from prefect.artifacts import Artifact
from prefect.runtime import flow_run

from copytrace.errors import ConfigError
from copytrace.storage import resolve_path, write_text
from tasks import storage_access
from tasks.artifacts import MATCH_COLUMNS, show_outputs, top_rows
from tasks.experiment import open_run
from tasks.registry import register
from tasks.storage_access import BLOCK, S3Access, open_access
from tasks.tracking import track

ROOT = Path(__file__).parents[2]
SECRET = "the-secret-key-of-nobody"
RUN: dict[str, Any] = {
    "settings": {"media": {"shard_size": 2}},
    "versions": {"copytrace": "0.1.0"},
    "counts": {"queries": 3},
    "stages": {"merge": {"count": 1, "seconds": 0.5}},
}


@pytest.fixture
def store(empty_mlflow_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    shutil.copyfile(empty_mlflow_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return MlflowClient(uri)


@pytest.fixture(params=["folder", "store"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a run has written: a local folder, or a place in an object store (that of fsspec in memory)."""
    place = resolve_path(tmp_path / "out" if request.param == "folder" else f"memory://{uuid4().hex}/out")
    write_text(place / "run.json", "{}\n")
    write_text(place / "matches.csv", ",".join(MATCH_COLUMNS) + "\nq,r,0.9,global,12,false\n")
    write_text(place / "work" / "plan.json", "{}\n")
    return place


@flow(name="match-again", retries=1)
def match_again(out: str) -> tuple[str, str]:
    """Fail after the run was tracked, the first time."""
    identity = track(resolve_path(out), "match-images", RUN)
    if flow_run.run_count == 1:
        raise ConnectionError("the server went away")
    return identity or "", str(flow_run.id)


@flow(name="train-again", retries=1)
def train_again(out: Path) -> tuple[str, str]:
    with open_run(out, "train-again", {"loop": {"epochs": 2}}) as run:
        run.log_dataset("runs/a, runs/b", "0123", "training", of="runs of match-videos")
        if flow_run.run_count == 1:
            raise ConnectionError("the server went away")
        weights = out / "aligner.safetensors"
        weights.write_bytes(b"weights")
        register(run, "copytrace-linked", [weights], {"recall": 0.5}, score="recall")
    return run.id, str(flow_run.id)


def only_run(store: MlflowClient, experiment: str) -> Run:
    found = store.get_experiment_by_name(experiment)
    assert found is not None
    [run] = store.search_runs([found.experiment_id])
    return run


def origin(flow_name: str, identity: str) -> dict[str, str]:
    """The tags by which a run in MLflow is traced to its flow run and its code."""
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    flow_tags = {"prefect.flow_run_id": identity, "prefect.flow_name": flow_name, "prefect.deployment": ""}
    return {**flow_tags, "git_commit": asked.stdout.strip()}


def test_a_flow_run_that_is_tried_again_stays_one_mlflow_run_that_says_where_it_came_from(
    prefect_server: str, store: MlflowClient, out: Path
) -> None:
    tracked, identity = match_again(str(out))
    run = only_run(store, "match-images")
    assert (run.info.run_id, run.info.status) == (tracked, "FINISHED")
    assert origin("match-again", identity).items() <= run.data.tags.items()
    assert identity in run.data.tags["prefect.flow_run_url"]
    assert run.data.params["media.shard_size"] == "2"
    assert run.data.metrics["counts.queries"] == 3
    assert {file.path for file in store.list_artifacts(tracked)} == {"run.json", "matches.csv"}


def test_another_flow_run_is_another_mlflow_run(prefect_server: str, store: MlflowClient, tmp_path: Path) -> None:
    assert match_again(str(tmp_path))[0] != match_again(str(tmp_path))[0]


def test_a_tracking_server_that_fails_does_not_fail_the_run(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nosuchstore://anywhere")

    @flow
    def track_once() -> str | None:
        return track(tmp_path, "match-images", RUN)

    assert track_once() is None


def test_a_training_says_the_same_and_so_does_the_version_that_it_registers(
    prefect_server: str, store: MlflowClient, tmp_path: Path
) -> None:
    tracked, identity = train_again(tmp_path)
    run = only_run(store, "train-again")
    assert run.info.run_id == tracked
    assert origin("train-again", identity).items() <= run.data.tags.items()
    assert run.data.tags["attempts"] == "2"
    assert {given.dataset.name for given in run.inputs.dataset_inputs} == {"training runs of match-videos"}
    version = store.get_model_version("copytrace-linked", "1")
    assert origin("train-again", identity).items() <= version.tags.items()


def test_the_page_of_a_run_leads_to_its_mlflow_run(prefect_server: str, store: MlflowClient, tmp_path: Path) -> None:
    tracked, identity = match_again(str(tmp_path))
    link: Any = Artifact.get("mlflow-run")
    assert str(link.flow_run_id) == identity
    assert tracked in link.data


def test_the_page_of_a_run_leads_to_what_it_wrote(prefect_server: str, out: Path) -> None:
    @flow
    def wrote() -> None:
        show_outputs(out, "match-images")

    wrote()
    shown: Any = Artifact.get("match-images-outputs")
    assert "plan.json" not in shown.data
    if isinstance(out, Path):
        assert f"[matches.csv]({(out / 'matches.csv').as_uri()})" in shown.data
    else:
        assert f"`{out}/matches.csv`" in shown.data
        assert f"aws s3 cp --recursive {out}/ out/" in shown.data


def test_the_best_matches_are_read_wherever_they_lie(out: Path) -> None:
    assert [row["query_id"] for row in top_rows(out / "matches.csv", MATCH_COLUMNS)] == ["q"]


@pytest.fixture
def no_access(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fsspec.config, "conf", {})
    storage_access._load_access.cache_clear()
    yield
    storage_access._load_access.cache_clear()


@pytest.mark.usefixtures("prefect_server", "no_access")
def test_a_block_gives_the_keys_of_a_store_and_nobody_sees_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    block = S3Access(
        endpoint_url="http://seaweed:8333", access_key_id="copytrace", secret_access_key=SECRET, region="here"
    )
    block.save("corpus")
    monkeypatch.setenv(BLOCK, "corpus")
    with caplog.at_level(logging.DEBUG):
        open_access()
    assert fsspec.config.conf["s3"] == {
        "key": "copytrace",
        "secret": SECRET,
        "client_kwargs": {"endpoint_url": "http://seaweed:8333", "region_name": "here"},
    }
    assert SECRET not in caplog.text
    assert SECRET not in repr(block)


@pytest.mark.usefixtures("prefect_server", "no_access")
def test_a_block_that_is_not_there_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BLOCK, "nothing")
    with pytest.raises(ConfigError, match="names 'nothing', and the Prefect server has no S3Access block of that name"):
        open_access()
    assert "s3" not in fsspec.config.conf


@pytest.mark.usefixtures("no_access")
def test_without_a_block_the_environment_of_the_process_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BLOCK, raising=False)
    open_access()
    assert fsspec.config.conf == {}
