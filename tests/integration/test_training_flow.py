"""Training as people run it: a process that dies and goes on, an MLflow server, a registry that matching loads from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mlflow import MlflowClient
from skimage import data

from configs.images import ImageSettings
from configs.load import load_settings
from configs.training import DescriptorTraining
from copytrace.images import match_images
from copytrace.training import export
from copytrace.training.log import read_history
from flows.parameters import parameters_from_cli
from flows.train_descriptor import train_descriptor
from tasks.registry import download

ROOT = Path(__file__).parents[2]
NAME = "copytrace-descriptor"
SMALL = """architecture=test_efficientnet start=random
input_size=64 described_size=64 dimensions=32 memory=16 whitening=off
photos.long_side=96 photos.validation_copies=2 photos.validation_share=0.3
loop.batch_size=8 loop.warmup_epochs=1 loop.workers=0 loop.threads=1 loop.validate_every=1 loop.learning_rate=0.002
""".split()  # noqa: SIM905 - settings read better in lines
SECONDS = 500
Trained = tuple[Path, list[dict[str, Any]], dict[str, Any], str]


@pytest.fixture(scope="module")
def environment(prefect_server: str, mlflow_server: str) -> dict[str, str]:
    """What a training process needs to find both servers."""
    return {**os.environ, "PREFECT_API_URL": prefect_server, "MLFLOW_TRACKING_URI": mlflow_server}


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


def start(photos: Path, out: Path, environment: dict[str, str], *changes: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flows.train_descriptor", str(photos), "--out", str(out), *SMALL, *changes]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def trained(photos: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run that was killed after two epochs or more, and then done again: its folder, the epochs that it had when it
    was killed, what it had written of MLflow by then, and its last words."""
    out = tmp_path_factory.mktemp("trained")
    process = start(photos, out, environment, "loop.epochs=12")
    deadline = time.monotonic() + SECONDS
    while len(read_history(out / "history.jsonl")) < 2:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    epochs, receipt = read_history(out / "history.jsonl"), json.loads((out / "mlflow.json").read_text())
    return out, epochs, receipt, finish(start(photos, out, environment, "loop.epochs=12"))


def test_a_killed_run_goes_on_where_it_was_in_the_same_mlflow_run(
    trained: Trained, environment: dict[str, str]
) -> None:
    out, epochs, receipt, _ = trained
    assert 2 <= len(epochs) < 12
    assert read_history(out / "history.jsonl")[0] == epochs[0]  # its seconds too, so it was not done again
    assert json.loads((out / "mlflow.json").read_text()) == receipt
    client = MlflowClient(environment["MLFLOW_TRACKING_URI"])
    run = client.get_run(receipt["run_id"])
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "micro_ap")]
    assert run.info.status == "FINISHED"
    assert run.data.tags["attempts"] == "2"
    assert sorted(set(steps)) == list(range(1, 13))
    assert len(steps) <= 13  # the epoch in which it died may have been told twice


def test_every_epoch_is_in_the_history_once_and_the_best_is_kept(trained: Trained) -> None:
    history = read_history(trained[0] / "history.jsonl")
    assert [line["epoch"] for line in history] == list(range(1, 13))
    assert np.isfinite([line["loss"] for line in history]).all()
    result = json.loads((trained[0] / "result.json").read_text())
    figures = [line["micro_ap"] for line in history]
    assert result["best_epoch"] == 1 + int(np.argmax(figures))
    assert result["metrics"]["micro_ap"] == pytest.approx(max(figures), abs=1e-5)


def test_the_run_tells_what_was_learned_from_and_shows_pictures(trained: Trained, environment: dict[str, str]) -> None:
    client = MlflowClient(environment["MLFLOW_TRACKING_URI"])
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
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", environment["MLFLOW_TRACKING_URI"])
    monkeypatch.setattr(export, "export_weights", lambda kind, weights: None)  # its graph is of no interest here
    client = MlflowClient(environment["MLFLOW_TRACKING_URI"])
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
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", environment["MLFLOW_TRACKING_URI"])
    champion = f"models:/{NAME}@champion"
    settings = load_settings(
        ImageSettings, overrides=[f"descriptor.model={champion}", "overlay.detector=none", "report.max_matches=0"]
    )
    run = match_images(str(photos / "chelsea*.png"), str(photos), tmp_path / "run", settings)
    assert run["counts"]["queries"] == 4
    folder = download(champion)
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "descriptor.onnx", "descriptor.safetensors"]
    assert (folder / "descriptor.safetensors").read_bytes() == (trained[0] / "descriptor.safetensors").read_bytes()
