"""Training of the two networks that look at videos: tracked, registered, promoted, and matched with."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime
import pytest
import torch
import typer
from mlflow import MlflowClient
from mlflow.entities import Run
from numpy.typing import NDArray
from prefect import Flow
from typer.testing import CliRunner

from configs.training import AlignerTraining, PairTraining
from configs.videos import VideoSettings
from copytrace.errors import InputError
from copytrace.exchange.npz_exchange import import_npz
from copytrace.exchange.npz_files import write_npz
from copytrace.index.media_index import Role
from copytrace.model_sources import ModelKind, model_file_name, resolve_model
from copytrace.runtime import WEIGHTS
from copytrace.storage import digest_of_file
from copytrace.training import export
from copytrace.training.log import read_history
from copytrace.videos import match_videos
from flows import train_aligner, train_pair_classifier
from flows.parameters import parameters_from_cli
from models.export import LOGITS
from tasks.experiment import open_run
from tasks.promotion import promote
from tasks.registry import download, register

EPOCHS = 2
QUICK = """folds=2 examples_per_epoch=16 synthetic_share=0.2 side=32 loop.batch_size=8 loop.ema_decay=0.5
loop.learning_rate=0.0002 loop.workers=0 loop.threads=1 loop.device=cpu""".split()  # noqa: SIM905 - settings read better in lines

WITHOUT_NETWORKS = {"alignment": {"aligner": "hough", "pair_filter": "none"}, "report": {"max_matches": 0}}


@dataclass(frozen=True)
class Network:
    """One of the two: its flow, its command, its settings, and the names of its model."""

    flow: Flow[..., dict[str, Any]]
    command: Callable[..., None]
    schema: type[AlignerTraining | PairTraining]
    model: str
    file: str

    @property
    def champion(self) -> str:
        return f"models:/{self.model}@champion"


NETWORKS = (
    Network(
        train_aligner.train_aligner,
        train_aligner.main,
        AlignerTraining,
        "copytrace-aligner",
        "aligner",
    ),
    Network(
        train_pair_classifier.train_pair_classifier,
        train_pair_classifier.main,
        PairTraining,
        "copytrace-pair-classifier",
        "pair_classifier",
    ),
)
each_network = pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.file)


@dataclass(frozen=True)
class Trained:
    """A training and what its command said."""

    out: Path
    told: str


@pytest.fixture(scope="module")
def client(prefect_server: str, mlflow_server: str) -> Iterator[MlflowClient]:
    """The registry; this process finds both servers."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
        yield MlflowClient(mlflow_server)
    torch.set_num_threads(threads)  # loop.threads changed it


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Path]]:
    """Finished runs over the same videos by two descriptors that nobody computed, and their ground truth.

    Eight queries of 20 s each show seconds 5 to 15 of one of four references of 30 s, from their second 4 on.
    """
    root, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(5)
    lines = [f"Q{query},R{query % 4},4,14,5,15\n" for query in range(8)]
    truth = root / "truth.csv"
    truth.write_text("query_id,ref_id,query_start,query_end,ref_start,ref_end\n" + "".join(lines), encoding="utf-8")
    folders = [root / "by-24", root / "by-32"]
    for run, dimensions in zip(folders, (24, 32), strict=True):
        queries, references = rng.normal(size=(8, 20, dimensions)), rng.normal(size=(4, 30, dimensions))
        queries[:, 4:14] = references[np.arange(8) % 4, 5:15] + 0.3 * rng.normal(size=(8, 10, dimensions))
        indexes = indexed(queries, run, "queries"), indexed(references, run, "references")
        match_videos(*indexes, run, VideoSettings.model_validate(WITHOUT_NETWORKS))
    return [(run, truth) for run in folders]


def indexed(vectors: NDArray[np.float64], run: Path, role: Role) -> Path:
    """Make an index, where a run keeps its own, of videos [N, seconds, D] with a frame per second."""
    count, seconds, dimensions = vectors.shape
    ids = [f"{role[0].upper()}{number}" for number in range(count) for _ in range(seconds)]
    starts = np.tile(np.arange(seconds, dtype=np.float64), count)
    file, times = run.with_name(f"{run.name}-{role}.npz"), np.stack([starts, starts + 1], axis=1)
    write_npz(file, ids, times, vectors.reshape(-1, dimensions).astype(np.float32))
    return import_npz(file, run / "work" / role, role, model=run.name).root


def call(network: Network, runs: list[tuple[Path, Path]], out: Path) -> str:
    """Train the network that ships a little further by the command of the flow, and return what it prints."""
    command = typer.Typer()
    command.command()(network.command)
    start = f"start={WEIGHTS / network.file}.safetensors"
    arguments = [*(str(path) for run in runs for path in run), *QUICK, start, f"loop.epochs={EPOCHS}"]
    done = CliRunner().invoke(command, [*arguments, "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def trained(
    runs: list[tuple[Path, Path]], client: MlflowClient, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Trained]:
    """Both networks, by the names of their files."""
    outs = {network: tmp_path_factory.mktemp(network.file) for network in NETWORKS}
    return {network.file: Trained(out, call(network, runs, out)) for network, out in outs.items()}


def run_of(done: Trained, client: MlflowClient) -> Run:
    return client.get_run(json.loads((done.out / "mlflow.json").read_text())["run_id"])


@each_network
def test_a_training_is_one_finished_mlflow_run_with_the_score_of_each_epoch(
    network: Network, trained: dict[str, Trained], client: MlflowClient
) -> None:
    done = trained[network.file]
    assert [line["epoch"] for line in read_history(done.out / "history.jsonl")] == list(range(1, EPOCHS + 1))
    run = run_of(done, client)
    score = json.loads((done.out / "result.json").read_text())["score"]
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, score)]
    assert run.info.status == "FINISHED"
    assert run.data.tags["prefect.flow_name"] == network.flow.name
    assert sorted(steps) == list(range(1, EPOCHS + 1))


@each_network
def test_the_run_tells_which_runs_were_learned_from(
    network: Network, trained: dict[str, Trained], runs: list[tuple[Path, Path]], client: MlflowClient
) -> None:
    run = run_of(trained[network.file], client)
    result = json.loads((trained[network.file].out / "result.json").read_text())
    assert run.data.params["loop.batch_size"] == "8"
    assert run.data.params["folds"] == "2"
    assert run.data.tags["dataset_digest"] == result["dataset_digest"]
    assert run.data.tags["validation_digest"] == result["validation_digest"]
    sources = [given.dataset.source for given in run.inputs.dataset_inputs]
    assert all(str(folder) in source for source in sources for folder, _ in runs)


@each_network
def test_the_first_version_is_the_champion_and_has_weights_graph_and_card(
    network: Network, trained: dict[str, Trained], client: MlflowClient
) -> None:
    done = trained[network.file]
    assert f"{network.model} version 1: there was no champion" in done.told
    assert client.get_model_version_by_alias(network.model, "champion").version == "1"
    folder = download(network.champion)
    weights, graph = (folder / f"{network.file}{suffix}" for suffix in (".safetensors", ".onnx"))
    assert sorted(folder.iterdir()) == sorted([folder / "README.md", graph, weights])
    assert weights.read_bytes() == (done.out / weights.name).read_bytes()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == [LOGITS]


@each_network
def test_a_worse_version_is_refused(
    network: Network,
    trained: dict[str, Trained],
    runs: list[tuple[Path, Path]],
    client: MlflowClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "export_weights", lambda kind, weights: None)  # its graph is of no interest here
    words = [*QUICK, "loop.epochs=1", "loop.learning_rate=1.0"]  # from random weights
    # As the server starts a deployment: plain JSON.
    parameters = {
        "runs": [{"run": str(run), "ground_truth": str(truth)} for run, truth in runs],
        "out": str(tmp_path / "worse"),
        **parameters_from_cli(network.schema, "cpu", None, words),
    }
    decision = network.flow(**parameters)

    best = json.loads((trained[network.file].out / "result.json").read_text())
    assert decision["metrics"][best["score"]] < best["metrics"][best["score"]]
    assert (decision["version"], decision["promoted"]) == (2, False)
    worse = client.get_model_version(network.model, "2")
    assert worse.tags["promotion"] == "refused"
    assert worse.tags["validation_digest"] == client.get_model_version(network.model, "1").tags["validation_digest"]
    assert client.get_model_version_by_alias(network.model, "champion").version == "1"


def test_matching_aligns_with_both_champions_and_tells_which_they_were(
    trained: dict[str, Trained], runs: list[tuple[Path, Path]], tmp_path: Path
) -> None:
    aligner, classifier = NETWORKS
    alignment = {"aligner": "network", "model": aligner.champion, "pair_filter": classifier.champion}
    indexes = runs[0][0] / "work"
    # By torch, as their graphs would be exported once more.
    quick = {"descriptor": {"backend": "torch", "device": "cpu"}, "report": {"max_matches": 0}}
    settings = VideoSettings.model_validate({"alignment": alignment, **quick})

    run = match_videos(indexes / "queries", indexes / "references", tmp_path / "run", settings)

    with (tmp_path / "run" / "segments.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    right = [row for row in found if int(row["query_id"][1:]) % 4 == int(row["ref_id"][1:])]
    assert len({row["query_id"] for row in right}) >= 6
    assert found[0] in right
    times = [float(found[0][name]) for name in ("query_start", "query_end", "ref_start", "ref_end")]
    assert times == pytest.approx([4, 14, 5, 15], abs=2)
    assert run["models"]["alignment"] == {
        "aligner": digest_of_file(trained["aligner"].out / "aligner.safetensors"),
        "pair_filter": digest_of_file(trained["pair_classifier"].out / "pair_classifier.safetensors"),
    }


def test_the_champion_of_each_kind_of_model_is_found(client: MlflowClient, tmp_path: Path) -> None:
    kinds: tuple[ModelKind, ...] = get_args(ModelKind)
    with open_run(tmp_path, "train", {}) as run:
        for kind in kinds:
            name, weights = f"copytrace-found-{kind}", tmp_path / model_file_name(kind)
            weights.write_bytes(kind.encode())
            weights.with_suffix(".onnx").write_bytes(b"graph")
            version = register(run, name, [weights, weights.with_suffix(".onnx")], {"recall": 0.5}, score="recall")
            promote(name, version, min_improvement=0.0)
    for kind in kinds:
        found = resolve_model(f"models:/copytrace-found-{kind}@champion", kind)
        assert found != tmp_path / model_file_name(kind)
        assert found.read_bytes() == kind.encode()


def test_a_model_without_a_champion_stops_matching_before_any_video_is_looked_at(
    client: MlflowClient, tmp_path: Path
) -> None:
    alignment = {"aligner": "network", "model": "models:/copytrace-nobody@champion"}
    with pytest.raises(InputError, match="no model 'copytrace-nobody' is registered"):
        match_videos("queries", "references", tmp_path / "out", VideoSettings.model_validate({"alignment": alignment}))
    assert not (tmp_path / "out").exists()
