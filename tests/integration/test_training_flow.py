"""Training as people run it: a process that dies, a run that goes on, an MLflow server, a registry to load from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import typer
from mlflow import MlflowClient
from skimage import data
from typer.testing import CliRunner

from configs.images import ImageSettings
from configs.load import load_settings
from configs.training import DescriptorTraining
from copytrace.images import match_images
from copytrace.training import export
from copytrace.training.log import read_history
from flows.parameters import parameters_from_cli
from flows.train_descriptor import main, train_descriptor
from tasks.registry import download

ROOT = Path(__file__).parents[2]
NAME = "copytrace-descriptor"
SMALL = """architecture=test_efficientnet start=random
input_size=64 described_size=64 dimensions=32 memory=16 whitening=off
photos.long_side=96 photos.validation_copies=2 photos.validation_share=0.3
loop.batch_size=8 loop.warmup_epochs=1 loop.workers=0 loop.threads=1 loop.validate_every=1 loop.learning_rate=0.002
""".split()  # noqa: SIM905 - settings read better in lines
EPOCHS = 3
SECONDS = 500
DIES = """
import os, signal
import typer
from copytrace.training import loop
from flows.train_descriptor import main

append = loop.append_history

def append_and_die(path, metrics, epoch):
    append(path, metrics, epoch)
    if epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)

loop.append_history = append_and_die
typer.run(main)
"""
Trained = tuple[Path, list[dict[str, Any]], dict[str, Any], str]


@pytest.fixture(scope="module")
def client(prefect_server: str, mlflow_server: str) -> Iterator[MlflowClient]:
    """The registry; this process finds both servers, and so does one that it starts."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", prefect_server)
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
        yield MlflowClient(mlflow_server)
    torch.set_num_threads(threads)  # loop.threads changed it


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-eight photos: parts of seven, each shown in no other."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "chelsea", "coffee", "rocket", "immunohistochemistry", "retina", "hubble_deep_field"):
        photo = cv2.resize(getattr(data, name)(), (240, 240), interpolation=cv2.INTER_AREA)
        for row, column in np.ndindex(2, 2):
            part = photo[row * 120 : row * 120 + 120, column * 120 : column * 120 + 120]
            cv2.imwrite(str(folder / f"{name}{row}{column}.png"), part[..., ::-1])
    return folder


@pytest.fixture(scope="module")
def trained(photos: Path, client: MlflowClient, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run whose process was killed at the end of its second epoch, and then done again: its folder, the epochs that
    it had when it was killed, what it had written of MLflow by then, and its last words."""
    out = tmp_path_factory.mktemp("trained")
    arguments = [str(photos), "--out", str(out), *SMALL, f"loop.epochs={EPOCHS}"]
    killed = subprocess.run(
        [sys.executable, "-c", DIES, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    epochs, receipt = read_history(out / "history.jsonl"), json.loads((out / "mlflow.json").read_text())
    command = typer.Typer()
    command.command()(main)
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out, epochs, receipt, done.stdout


def test_a_killed_run_goes_on_where_it_was_in_the_same_mlflow_run(trained: Trained, client: MlflowClient) -> None:
    out, epochs, receipt, _ = trained
    assert len(epochs) == 2
    assert read_history(out / "history.jsonl")[0] == epochs[0]  # its seconds too, so it was not done again
    assert json.loads((out / "mlflow.json").read_text()) == receipt
    run = client.get_run(receipt["run_id"])
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "micro_ap")]
    assert run.info.status == "FINISHED"
    assert run.data.tags["attempts"] == "2"
    assert sorted(set(steps)) == list(range(1, EPOCHS + 1))
    assert len(steps) <= EPOCHS + 1  # the epoch in which it died may have been told twice


def test_every_epoch_is_in_the_history_once_and_the_best_is_kept(trained: Trained) -> None:
    history = read_history(trained[0] / "history.jsonl")
    assert [line["epoch"] for line in history] == list(range(1, EPOCHS + 1))
    assert np.isfinite([line["loss"] for line in history]).all()
    result = json.loads((trained[0] / "result.json").read_text())
    figures = [line["micro_ap"] for line in history]
    assert result["best_epoch"] == 1 + int(np.argmax(figures))
    assert result["metrics"]["micro_ap"] == pytest.approx(max(figures), abs=1e-5)


def test_the_run_tells_what_was_learned_from_and_shows_pictures(trained: Trained, client: MlflowClient) -> None:
    run = client.get_run(trained[2]["run_id"])
    result = json.loads((trained[0] / "result.json").read_text())
    assert run.data.params["loop.batch_size"] == "8"
    assert run.data.params["dimensions"] == "32"
    assert run.data.tags["dataset_digest"] == result["dataset_digest"]
    assert run.data.tags["prefect.flow_name"] == "train-descriptor"
    assert {given.dataset.name for given in run.inputs.dataset_inputs} == {"training photos", "validation photos"}
    images = {file.path for file in client.list_artifacts(run.info.run_id, "images")}
    assert any("views" in path for path in images)
    assert any("mistakes" in path for path in images)


def test_the_first_version_is_the_champion_and_one_that_is_not_better_by_enough_is_refused(
    trained: Trained,
    photos: Path,
    client: MlflowClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "export_weights", lambda kind, weights: None)  # its graph is of no interest here
    assert f"{NAME} version 1: there was no champion" in trained[3]
    assert client.get_model_version_by_alias(NAME, "champion").version == "1"

    decision = train_descriptor(
        str(photos),
        str(tmp_path),
        **parameters_from_cli(DescriptorTraining, "cpu", None, [*SMALL, "loop.epochs=1", "start=random"]),
        min_improvement=1,
    )

    second = client.get_model_version(NAME, "2")
    assert (decision["version"], decision["promoted"]) == (2, False)
    assert second.tags["promotion"] == "refused"
    assert second.tags["validation_digest"] == client.get_model_version(NAME, "1").tags["validation_digest"]
    assert client.get_model_version_by_alias(NAME, "champion").version == "1"


def test_matching_loads_the_champion_from_the_registry(
    trained: Trained,
    photos: Path,
    client: MlflowClient,
    tmp_path: Path,
) -> None:
    champion = f"models:/{NAME}@champion"
    quick = ["descriptor.backend=torch", "overlay.detector=none", "local.stretches=[]", "report.max_matches=0"]
    settings = load_settings(ImageSettings, overrides=[f"descriptor.model={champion}", *quick])
    run = match_images(str(photos / "chelsea*.png"), str(photos), tmp_path / "run", settings)
    assert run["counts"]["queries"] == 4
    folder = download(champion)
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "descriptor.onnx", "descriptor.safetensors"]
    assert (folder / "descriptor.safetensors").read_bytes() == (trained[0] / "descriptor.safetensors").read_bytes()
