from __future__ import annotations

from collections.abc import Iterator

import pytest
import timm
import torch
from torch import nn

from configs.training import LoopSettings
from copytrace.errors import ConfigError
from copytrace.training.initial_weights import freeze, training_device


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def frozen(backbone: nn.Module) -> list[str]:
    return [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]


def parameters_of(backbone: nn.Module, *parts: str) -> list[str]:
    return [name for name, _ in backbone.named_parameters() if name.startswith(parts)]


@pytest.mark.parametrize(
    ("architecture", "stem"), [("test_efficientnet", ("conv_stem.", "bn1.")), ("test_vit", ("patch_embed.",))]
)
def test_the_stem_and_the_first_blocks_are_frozen(architecture: str, stem: tuple[str, ...]) -> None:
    backbone = timm.create_model(architecture, num_classes=0)
    freeze(backbone, 2)
    assert frozen(backbone) == parameters_of(backbone, *stem, "blocks.0.", "blocks.1.")
    assert len(parameters_of(backbone, "blocks.2.")) > 0


def test_nothing_is_frozen_at_zero() -> None:
    backbone = timm.create_model("test_resnet", num_classes=0)
    freeze(backbone, 0)
    assert frozen(backbone) == []


@pytest.mark.parametrize(
    ("architecture", "blocks", "has"), [("test_efficientnet", 99, r"\d+"), ("test_resnet", 1, "0")]
)
def test_more_blocks_than_there_are_cannot_be_frozen(architecture: str, blocks: int, has: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"has {has} blocks, fewer than the {blocks} to freeze; set frozen_blocks to 0"
    ):
        freeze(timm.create_model(architecture, num_classes=0), blocks)


def test_the_device_asked_for_is_used_and_its_cores_are_limited(threads: None) -> None:
    assert training_device(LoopSettings(device="cpu", threads=1)) == torch.device("cpu")
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("device", "message"), [("gpu", "loop.device=gpu is no torch device"), ("cuda:99", "torch finds .* GPUs here")]
)
def test_a_device_that_there_is_not_is_told(device: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as told:
        training_device(LoopSettings(device=device))
    assert "\n" not in str(told.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_cpu_trains() -> None:
    assert training_device(LoopSettings()) == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_more_gpus_than_there_are_cannot_train() -> None:
    with pytest.raises(ConfigError, match=r"loop\.devices=99, but this machine has"):
        training_device(LoopSettings(devices=99))
