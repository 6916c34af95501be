"""Training runs and models on a real MLflow server, and in the database file that serves without one."""

from __future__ import annotations

import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any
from uuid import uuid4

import mlflow
import numpy as np
import pytest
import typer
from prefect.exceptions import TerminationSignal
from typer.testing import CliRunner

from copytrace.errors import InputError
from copytrace.training.log import append_history
from tasks import registry_commands
from tasks.experiment import MlflowLog, TrainingRun, open_run
from tasks.mlflow_store import ServerUnavailableError, TrackingError
from tasks.promotion import Promotion, promote, rollback
from tasks.registry import download, register

ROOT = Path(__file__).parents[2]
NOBODY = "http://127.0.0.1:9"
SETTINGS = {"architecture": "tf_efficientnet_lite0", "loop": {"epochs": 4, "batch_size": 8}}
PICTURE = np.full((40, 60, 3), (255, 0, 0), dtype=np.uint8)


@pytest.fixture
def server(mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    """The server, as the user's, and an empty cache folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.setenv("COPYTRACE_CACHE", str(tmp_path / "cache"))
    return mlflow.MlflowClient(mlflow_server)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask a server that is down once only."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def name() -> str:
    """A model that no other test has registered."""
    return f"copytrace-{uuid4().hex[:8]}"


def steps(client: mlflow.MlflowClient, run_id: str, metric: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run_id, metric))


def trained(folder: Path, name: str, micro_ap: float, *, digest: str = "photos-a", weights: bytes = b"w") -> int:
    """Register a model as the end of a training run does, and return its version."""
    folder.mkdir(exist_ok=True)
    files = [folder / "descriptor.safetensors", folder / "descriptor.onnx", folder / "README.md"]
    for file, content in zip(files, (weights, b"onnx", f"# A model with {micro_ap}".encode()), strict=True):
        file.write_bytes(content)
    with open_run(folder, "train-descriptor", SETTINGS) as run:
        run.log_dataset("s3://key:secret@photos/train", "photos-t", "training")
        run.log_dataset("photos/validation", digest, "validation")
        return register(run, name, files, {"micro_ap": micro_ap, "loss": 0.5}, score="micro_ap")


def died(server: mlflow.MlflowClient, out: Path) -> str:
    """Open a run in another process, log two of its three epochs, and kill it; return the run's id."""
    script = """
        import os, signal, sys
        from pathlib import Path
        from copytrace.training.log import append_history
        from tasks.experiment import open_run
        from tests_settings import SETTINGS

        out = Path(sys.argv[1])
        with open_run(out, "train-descriptor", SETTINGS) as run:
            print(run.id, flush=True)
            for epoch in (1, 2, 3):
                append_history(out / "history.jsonl", {"loss": 1 / epoch}, epoch)
                if epoch < 3:
                    run.log.metrics({"loss": 1 / epoch}, epoch)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    script = dedent(script).replace("from tests_settings import SETTINGS", f"SETTINGS = {SETTINGS!r}")
    process = subprocess.run(
        [sys.executable, "-c", script, str(out)], cwd=ROOT, capture_output=True, text=True, timeout=500, check=False
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    return process.stdout.strip()


def test_a_run_that_was_killed_goes_on_as_the_same_run_with_every_epoch(
    server: mlflow.MlflowClient, tmp_path: Path
) -> None:
    run_id = died(server, tmp_path)
    assert server.get_run(run_id).info.status == "RUNNING"
    assert len(steps(server, run_id, "loss")) == 2

    faster = {**SETTINGS, "loop": {"epochs": 4, "batch_size": 16}}
    with open_run(tmp_path, "train-descriptor", faster) as run:
        assert run.id == run_id
        assert server.get_run(run_id).info.status == "RUNNING"
        append_history(tmp_path / "history.jsonl", {"loss": 0.25, "recall@0.5": 0.9}, 4)
        run.log.metrics({"loss": 0.25, "recall@0.5": 0.9}, 4)

    ended = server.get_run(run_id)
    assert ended.info.status == "FINISHED"
    assert steps(server, run_id, "loss") == [(1, 1.0), (2, 0.5), (3, 0.333333), (4, 0.25)]
    assert ended.data.metrics["recall_0.5"] == 0.9
    assert ended.data.tags["attempts"] == "2"
    assert ended.data.params["loop.batch_size"] == "8"
    assert ended.data.tags["changed.loop.batch_size"] == "16"


def test_a_run_says_what_it_learned_from_and_with_which_code(server: mlflow.MlflowClient, tmp_path: Path) -> None:
    with open_run(tmp_path, "train-descriptor", SETTINGS, {"gpu": "none"}) as run:
        for _ in range(2):
            run.log_dataset("s3://key:secret@photos/train", "0123456789abcdef", "training")
    found = server.get_run(run.id)
    [data] = [entry.dataset for entry in found.inputs.dataset_inputs]
    assert (data.digest, data.source_type, data.source) == ("0123456789abcdef", "s3", '{"uri": "s3://photos/train"}')
    assert found.data.params["architecture"] == "tf_efficientnet_lite0"
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    tags = found.data.tags
    assert tags.get("mlflow.source.git.commit", "") == commit.stdout.strip()
    assert tags["dataset_digest"] == "0123456789abcdef"
    assert tags["gpu"] == "none"
    assert tags["version.torch"]
    assert tags["host"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("the loss became nan"), "FAILED"), (TerminationSignal(15), "KILLED"), (KeyboardInterrupt(), "KILLED")],
)
def test_a_run_that_ends_early_says_how(
    server: mlflow.MlflowClient, tmp_path: Path, error: BaseException, status: str
) -> None:
    with pytest.raises(type(error)), open_run(tmp_path, "train-descriptor", SETTINGS) as run:
        raise error
    found = server.get_run(run.id)
    assert found.info.status == status
    assert found.data.tags["error"].startswith(type(error).__name__)


def test_the_load_of_the_machine_and_pictures_are_logged(
    server: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    with open_run(tmp_path, "train-descriptor", SETTINGS) as run:
        pickle.loads(pickle.dumps(run.log)).picture("views", PICTURE, 3)
        wait_for_load(server, run)
    [png, _] = sorted(server.list_artifacts(run.id, "images"), key=lambda file: file.path, reverse=True)
    assert png.path.startswith("images/views+step+3+")
    shown = mlflow.artifacts.download_artifacts(
        run_id=run.id, artifact_path=png.path, tracking_uri=run.uri, dst_path=str(tmp_path)
    )
    assert Path(shown).stat().st_size > 0


def wait_for_load(server: mlflow.MlflowClient, run: TrainingRun) -> None:
    deadline = time.monotonic() + 500
    while "system/cpu_utilization_percentage" not in server.get_run(run.id).data.metrics:
        assert time.monotonic() < deadline, "no load was logged"
        time.sleep(0.2)


def test_a_server_that_is_gone_in_mid_training_costs_a_warning_and_the_end_sends_what_it_missed(
    server: mlflow.MlflowClient, impatient: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_run(tmp_path, "train-descriptor", SETTINGS) as run:
        for epoch, log in enumerate((run.log, MlflowLog(NOBODY, run.id), run.log), start=1):
            append_history(tmp_path / "history.jsonl", {"loss": 1.0 / epoch}, epoch)
            log.metrics({"loss": 1.0 / epoch}, epoch)
        assert [epoch for epoch, _ in steps(server, run.id, "loss")] == [1, 3]
    assert [epoch for epoch, _ in steps(server, run.id, "loss")] == [1, 2, 3]
    assert "epoch 2 were not tracked" in caplog.text


def test_the_end_of_a_run_without_a_server_is_only_a_warning(
    server: mlflow.MlflowClient, impatient: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = open_run(tmp_path, "train-descriptor", SETTINGS)
    append_history(tmp_path / "history.jsonl", {"loss": 0.5}, 1)
    with TrainingRun(NOBODY, opened.experiment, opened.id, tmp_path):
        pass
    assert "the end of the run was not tracked" in caplog.text
    with open_run(tmp_path, "train-descriptor", SETTINGS) as again:
        pass
    assert (again.id, server.get_run(again.id).info.status) == (opened.id, "FINISHED")
    assert steps(server, again.id, "loss") == [(1, 0.5)]


def test_no_server_is_one_line_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    begin = time.monotonic()
    with pytest.raises(ServerUnavailableError) as opening:
        open_run(tmp_path, "train-descriptor", SETTINGS)
    with pytest.raises(ServerUnavailableError, match=r"http://127\.0\.0\.1:9 does not answer"):
        download("models:/copytrace-descriptor@champion")
    assert time.monotonic() - begin < 120  # MLflow itself would try for four minutes, twice
    assert "\n" not in str(opening.value)
    assert "secret" not in str(opening.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nosuchstore://anywhere")
    with pytest.raises(TrackingError, match="nosuchstore"):
        download("models:/copytrace-descriptor@champion")


def test_a_model_is_registered_once_with_its_evidence(server: mlflow.MlflowClient, tmp_path: Path, name: str) -> None:
    assert trained(tmp_path, name, 0.9) == 1
    assert trained(tmp_path, name, 0.9) == 1
    [version] = server.search_model_versions(f"name = '{name}'")
    tags = version.tags
    assert version.description == "# A model with 0.9"
    assert tags["validation.micro_ap"] == "0.9"
    assert (tags["dataset_digest"], tags["validation_digest"]) == ("photos-t", "photos-a")
    assert tags["mlflow_run_id"] == version.run_id
    assert tags["validation_status"] == "pending"
    logged = server.get_logged_model(tags["model_id"])
    assert logged.status == "READY"
    assert {metric.key: metric.value for metric in logged.metrics} == {"best.micro_ap": 0.9, "best.loss": 0.5}
    [output] = server.get_run(version.run_id).outputs.model_outputs
    assert output.model_id == logged.model_id

    assert trained(tmp_path, name, 0.95, weights=b"trained further") == 2


def test_a_registration_that_died_half_way_is_finished_with_the_model_that_it_began(
    server: mlflow.MlflowClient, tmp_path: Path, name: str
) -> None:
    weights = tmp_path / "descriptor.safetensors"
    with pytest.raises(FileNotFoundError), open_run(tmp_path, "train-descriptor", SETTINGS) as run:
        weights.write_bytes(b"w")
        register(run, name, [weights, tmp_path / "missing.onnx"], {"micro_ap": 0.9}, score="micro_ap")
    assert trained(tmp_path, name, 0.9) == 1
    models = server.search_logged_models([run.experiment], filter_string=f"name = '{name}'")
    assert [model.status for model in models] == ["READY"]


def test_weights_must_be_safetensors(server: mlflow.MlflowClient, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"no \.safetensors"), open_run(tmp_path, "train-descriptor", SETTINGS) as run:
        register(run, name, [tmp_path / "model.pt"], {}, score="micro_ap")


@dataclass(frozen=True)
class Promotions:
    """Four versions of a model that were promoted one after the other: what was decided, and who was champion then."""

    name: str
    decisions: dict[int, Promotion]
    champions: dict[int, str]


@pytest.fixture(scope="module")
def promotions(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Promotions]:
    """The second is hardly better, the third has other validation photos, and the fourth is better."""
    root, name = tmp_path_factory.mktemp("promotions"), f"copytrace-{uuid4().hex[:8]}"
    figures = [(0.8, "photos-a"), (0.805, "photos-a"), (0.99, "photos-b"), (0.85, "photos-a")]
    client, decisions, champions = mlflow.MlflowClient(mlflow_server), {}, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
        for number, (micro_ap, digest) in enumerate(figures, start=1):
            assert trained(root / str(number), name, micro_ap, digest=digest) == number
            named = number if number < 4 else None
            decisions[number] = promote(name, named, min_improvement=0.01)
            champions[number] = champion_of(client, name)
        yield Promotions(name, decisions, champions)


def champion_of(client: mlflow.MlflowClient, name: str) -> str:
    return str(client.get_model_version_by_alias(name, "champion").version)


def test_only_a_better_version_on_the_same_validation_set_takes_the_place_of_the_champion(
    promotions: Promotions,
) -> None:
    decisions = promotions.decisions
    assert {number: decision.promoted for number, decision in decisions.items()} == {
        1: True,
        2: False,
        3: False,
        4: True,
    }
    assert promotions.champions == {1: "1", 2: "1", 3: "1", 4: "4"}
    assert decisions[2].champion_before == 1
    assert "0.8050 against 0.8000" in decisions[2].reason
    assert "another set (photos-b)" in decisions[3].reason


def test_a_decision_is_written_on_the_version(server: mlflow.MlflowClient, promotions: Promotions) -> None:
    evidence = {number: server.get_model_version(promotions.name, str(number)).tags for number in (1, 2, 4)}
    assert [evidence[number]["promotion"] for number in (1, 2, 4)] == ["promoted", "refused", "promoted"]
    assert [evidence[number]["champion_before"] for number in (1, 2, 4)] == ["", "1", "1"]
    assert (evidence[4]["promotion.figure"], evidence[4]["promotion.champion_figure"]) == ("0.85", "0.8")
    assert evidence[2]["validation_status"] == "rejected"
    assert evidence[2]["promotion.when"]


def test_the_newest_version_is_meant_where_none_is_named(server: mlflow.MlflowClient, promotions: Promotions) -> None:
    assert promotions.decisions[4].version == 4
    assert promote(promotions.name, 4, min_improvement=0.5).reason == "it is the champion already"


def test_a_version_can_be_forced_and_champions_rolled_back_to_the_first(
    server: mlflow.MlflowClient, promotions: Promotions
) -> None:
    name = promotions.name
    assert promote(name, 3, force=True).promoted
    assert champion_of(server, name) == "3"
    assert [rollback(name).version for _ in range(2)] == [4, 1]
    assert champion_of(server, name) == "1"
    with pytest.raises(InputError, match="no champion before"):
        rollback(name)
    assert server.get_model_version(name, "3").tags["promotion"] == "rolled back"


def test_a_model_is_downloaded_once_by_alias_version_or_id(
    server: mlflow.MlflowClient, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path / "run", name, 0.9, weights=b"the weights")
    promote(name)
    folder = download(f"models:/{name}@champion")
    assert {file.name for file in folder.iterdir()} == {"descriptor.safetensors", "descriptor.onnx", "README.md"}
    assert (folder / "descriptor.safetensors").read_bytes() == b"the weights"
    before = (folder / "descriptor.safetensors").stat().st_ino
    assert download(f"models:/{name}/1") == folder
    identity = server.get_model_version(name, "1").tags["model_id"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    assert download(f"models:/{identity}") == folder, "what is cached needs no server"
    assert (folder / "descriptor.safetensors").stat().st_ino == before


def test_a_model_that_is_not_there_is_an_error_with_its_cure(
    server: mlflow.MlflowClient, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InputError, match=rf"no model '{name}' is registered in MLflow at http://127.*copytrace models"):
        download(f"models:/{name}@champion")
    trained(tmp_path, name, 0.9)
    with pytest.raises(InputError, match=f"@champion yet; run `copytrace promote {name} 1`, or name .*{name}/1"):
        download(f"models:/{name}@champion")
    with pytest.raises(InputError, match=f"{name} has no version 7; its latest is 1"):
        download(f"models:/{name}/7")
    with pytest.raises(InputError, match="there is no model m-00000000000000000000000000000000"):
        download("models:/m-00000000000000000000000000000000")
    with pytest.raises(InputError, match="models:/NAME@champion"):
        download(f"models:/{name}/latest/descriptor.safetensors")


@pytest.fixture
def commands() -> typer.Typer:
    app = typer.Typer()
    for command in (registry_commands.promote, registry_commands.rollback, registry_commands.models):
        app.command()(command)
    return app


def test_the_commands_list_promote_and_roll_back(
    server: mlflow.MlflowClient, tmp_path: Path, name: str, commands: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    trained(tmp_path / "1", name, 0.8)
    trained(tmp_path / "2", name, 0.9)

    def call(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(commands, arguments)
        return done.exit_code, done.stdout

    assert call("promote", name, "1") == (0, f"version 1 is {name}@champion: there was no champion\n")
    code, said = call("promote", name, "2", "--min-improvement", "0.2")
    assert (code, "version 2 was refused: 0.9000 against 0.8000" in said) == (1, True)
    assert call("promote", name)[0] == 0
    assert call("rollback", name)[1].startswith(f"version 1 is {name}@champion")
    _, table = call("models", name)
    assert name in table
    rows = {cells[0]: cells for line in table.splitlines() if (cells := line.split()) and cells[0].isdigit()}
    assert rows["1"][1:4] == ["@champion", "micro_ap", "0.8000"]
    assert rows["2"][1:3] == ["micro_ap", "0.9000"]
    assert "rolled back" in " ".join(rows["2"])
    assert "no model like nothing-%" in call("models", "nothing-%")[1]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The default store of a user without a server, not made yet."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("COPYTRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data" / "copytrace" / "mlflow.db"


def test_without_a_server_a_database_in_the_data_folder_does_the_same(database: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model is registered yet"):
        download("models:/copytrace-descriptor@champion")
    assert not database.exists()

    assert trained(tmp_path / "run", "copytrace-descriptor", 0.9, weights=b"the weights") == 1
    assert trained(tmp_path / "run", "copytrace-descriptor", 0.9, weights=b"the weights") == 1
    assert promote("copytrace-descriptor").promoted
    folder = download("models:/copytrace-descriptor@champion")

    assert (folder / "descriptor.safetensors").read_bytes() == b"the weights"
    assert database.exists()
    assert (database.parent / "mlartifacts" / "train-descriptor" / "models").is_dir()
    assert {file.name for file in tmp_path.iterdir()} == {"data", "cache", "run"}, "nothing lies in the current folder"


def test_a_run_that_moves_to_another_store_goes_on_there_with_every_epoch(
    server: mlflow.MlflowClient, empty_mlflow_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_run(tmp_path, "train-descriptor", SETTINGS)
    append_history(tmp_path / "history.jsonl", {"loss": 0.5}, 1)
    shutil.copyfile(empty_mlflow_database, tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    with open_run(tmp_path, "train-descriptor", SETTINGS) as moved:
        pass
    client: Any = mlflow.MlflowClient(moved.uri)
    assert moved.id != first.id
    assert steps(client, moved.id, "loss") == [(1, 0.5)]
