from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from copytrace.errors import ConfigError
from copytrace.training.checkpoint import read_checkpoint, write_checkpoint

CPU = torch.device("cpu")
STATE = {"weights": torch.arange(3.0), "place": {"epoch": 2, "sums": {"loss": 0.5}, "best": {}}}


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint.pt", "stamp", STATE)


def test_what_was_written_is_read(path: Path) -> None:
    state = read_checkpoint(path, "stamp", CPU)
    assert state is not None
    assert torch.equal(state.pop("weights"), STATE["weights"])
    assert state == {"place": STATE["place"]}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "checkpoint.pt", "stamp", CPU) is None


def test_a_checkpoint_of_another_run_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"belongs to a run with other settings or data; .*remove it to start again"):
        read_checkpoint(path, "other", CPU)


@pytest.mark.parametrize("keep", [0, 1, 100, 600, -1])
def test_a_checkpoint_cut_short_is_refused(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    refused(path)


@pytest.mark.parametrize("seed", range(8))
def test_bytes_of_something_else_are_refused(path: Path, seed: int) -> None:
    path.write_bytes(torch.randint(0, 256, (2000,), generator=torch.Generator().manual_seed(seed)).byte().numpy())
    refused(path)


@pytest.mark.parametrize("value", [[1, 2], torch.zeros(2), {"no": "fingerprint"}, "text", 3])
def test_values_of_somebody_else_are_refused(path: Path, value: object) -> None:
    torch.save(value, path)
    refused(path)


def test_safetensors_are_refused(path: Path) -> None:
    save_file({"weights": torch.zeros(2)}, path)
    refused(path)


@pytest.mark.parametrize("by_torch", [True, False])
def test_a_pickle_is_refused_without_being_executed(path: Path, tmp_path: Path, by_torch: bool) -> None:
    mark = tmp_path / "executed"
    state = {"fingerprint": "stamp", "weights": Harmful(mark)}
    if by_torch:
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state))
    refused(path)
    assert not mark.exists()


def refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a checkpoint of this version; remove it, or give another") as told:
        read_checkpoint(path, "stamp", CPU)
    assert "\n" not in str(told.value)
