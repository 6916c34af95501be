from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from configs.training import Switch
from copytrace.training.precision import Precision, is_compiled

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "dtype"), [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_the_network_computes_in_the_type_asked_for(name: str, dtype: torch.dtype) -> None:
    with Precision(name, CPU).autocast():
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == dtype


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_step_is_no_longer_than_the_clipped_gradient_and_forgets_it(name: str) -> None:
    weight = nn.Parameter(torch.zeros(2))
    precision = Precision(name, CPU)
    precision.backward(weight @ torch.tensor([3.0, 4.0]))
    precision.step(torch.optim.SGD([weight], lr=1.0), [weight], clip_norm=0.5)
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.3, -0.4]), rtol=1e-3, atol=0)
    assert weight.grad is None


def test_float16_skips_a_step_that_overflows_and_remembers_its_smaller_scale() -> None:
    weight = nn.Parameter(torch.ones(2))
    precision, resumed = Precision("float16", CPU), Precision("float16", CPU)
    before = precision.state()["scale"]
    precision.backward((weight * torch.inf).sum())
    precision.step(torch.optim.SGD([weight], lr=1.0), [weight], clip_norm=1.0)
    assert weight.tolist() == [1.0, 1.0]
    assert precision.state()["scale"] == before / 2
    resumed.load_state(precision.state())
    assert resumed.state() == precision.state()


def test_without_a_scale_there_is_nothing_to_take_up() -> None:
    precision = Precision("bfloat16", CPU)
    precision.load_state(precision.state())
    assert precision.state() == {}


@pytest.mark.parametrize(
    ("choice", "device", "compiler", "expected"),
    [
        ("auto", "cuda", "gcc", True),
        ("auto", "cuda", None, False),  # as in the image
        ("auto", "cpu", "gcc", False),
        ("on", "cpu", None, True),
        ("off", "cuda", "gcc", False),
    ],
)
def test_a_network_is_compiled_on_cuda_where_there_is_a_compiler(
    choice: Switch, device: str, compiler: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: compiler if name == compiler else None)
    assert is_compiled(choice, torch.device(device)) is expected
