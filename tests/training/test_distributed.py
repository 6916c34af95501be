from __future__ import annotations

import os

import pytest
import torch

from copytrace.errors import ConfigError, CopytraceError
from copytrace.training.distributed import broadcast, gather_rows, is_first_process, launch, rank, world_size


def fail(error: type[Exception], text: str) -> str:
    """Fail in the second process, while the first one waits for it."""
    torch.set_num_threads(1)
    if rank() == 1:
        raise error(text)
    gather_rows(torch.zeros(1))
    return "not reached"


@pytest.mark.usefixtures("forked_from_one_import")
def test_what_one_process_raises_on_purpose_is_raised_here() -> None:
    with pytest.raises(ConfigError, match=r"^start: absent\.safetensors is not there; check the path$"):
        launch(fail, ConfigError, "start: absent.safetensors is not there; check the path", devices=2)


@pytest.mark.usefixtures("forked_from_one_import")
def test_a_process_that_fails_otherwise_is_told_in_one_line() -> None:
    with pytest.raises(CopytraceError, match=r"^a training process failed: RuntimeError: out of memory$") as told:
        launch(fail, RuntimeError, "out of\nmemory", devices=2)
    assert "\n" not in str(told.value)


def test_one_device_needs_no_processes() -> None:
    assert launch(os.getpid, devices=1) == os.getpid()
    assert (rank(), world_size(), is_first_process(), broadcast("value")) == (0, 1, True, "value")
    values = torch.zeros(2, 3, requires_grad=True)
    assert gather_rows(values) is values
