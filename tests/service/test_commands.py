"""`copytrace setup` and `copytrace stack` where they cannot work: one line with the cure."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.service.connection import connect_to_server
from tasks.service.server_process import ServerError
from tasks.service.setup import SetupError
from tasks.service.stack import Stack, visible_gpus


def test_without_an_address_of_the_server_the_line_says_how_to_get_one() -> None:
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(SetupError, match="make stack"),
        connect_to_server(),
    ):
        pass


def test_a_server_that_does_not_answer_is_named() -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(SetupError, match=r"no Prefect server answers at http://127\.0\.0\.1:9/api"),
        connect_to_server() as client,
    ):
        client.read_work_pools()


def test_a_second_stack_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock"), pytest.raises(ServerError, match=r"runs in .* already"):
        Stack(tmp_path).start()


def test_a_stack_without_deployments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"no prefect\.yaml in"):
        Stack(tmp_path / "stack", project=tmp_path).start()
    assert not (tmp_path / "stack").exists()


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name that lists two GPUs."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA A100 (UUID: a)'\necho 'GPU 1: NVIDIA A100 (UUID: b)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


def test_the_gpus_are_those_that_the_driver_lists_or_those_that_were_chosen(
    nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert visible_gpus() == ["1"]
    nvidia_smi.unlink()
    assert visible_gpus() == []
