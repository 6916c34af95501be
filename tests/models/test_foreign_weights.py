from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from models.configs import DescriptorConfig, ModelFileError
from models.descriptor import timm_backbone
from models.foreign_weights import load_foreign_descriptor, read_state_dict
from tests.tiny_swin import original_names

HALF = (0.5, 0.5, 0.5)


def config_of(path: Path, architecture: str, pooling: Any) -> DescriptorConfig:
    return DescriptorConfig(
        name="foreign",
        architecture=architecture,
        weights=path,
        dimensions=None,
        input_size=64,
        mean=HALF,
        std=HALF,
        storage="state_dict",
        pooling=pooling,
    )


def shaken(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def swin() -> Any:
    return shaken(timm_backbone("tiny_swin", 64))


@pytest.fixture(scope="module")
def head() -> Any:
    torch.manual_seed(1)
    return nn.Linear(32 + 32 + 64 + 64, 6)


@pytest.fixture
def imgfp(swin: nn.Module, head: nn.Linear, tmp_path: Path) -> DescriptorConfig:
    names = original_names(swin) | {f"head.linear.{name}": value for name, value in head.state_dict().items()}
    content = {"epoch": 200, "model": {f"module.{name}": value for name, value in names.items()}}
    torch.save(content, tmp_path / "imgfp.pth")
    return config_of(tmp_path / "imgfp.pth", "tiny_swin", "last_blocks")


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def test_imgfps_head_takes_the_mean_tokens_of_the_last_four_blocks_of_which_the_last_stage_is_normalized(
    imgfp: DescriptorConfig, swin: Any, head: nn.Linear, images: Tensor
):
    seen: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _, __, output: seen.append(output))
        for stage in swin.layers[2:]
        for block in stage.blocks
    ]
    with torch.inference_mode():
        swin(images.permute(0, 3, 1, 2) / 127.5 - 1)
        means = [tokens.mean(dim=(1, 2)) for tokens in (*seen[:2], *map(swin.norm, seen[2:]))]
        expected = functional.normalize(head(torch.cat(means, dim=1)))
        found = load_foreign_descriptor(imgfp)(images)
    for hook in hooks:
        hook.remove()
    assert [mean.shape[1] for mean in means] == [32, 32, 64, 64]
    torch.testing.assert_close(found, expected)


def test_the_winners_of_vsc2022_pool_a_swin_by_gem_before_their_projection(swin: Any, tmp_path: Path, images: Tensor):
    projection = nn.Linear(64, 5)
    names = original_names(swin) | {f"output_proj.{name}": value for name, value in projection.state_dict().items()}
    torch.save({"state_dict": {f"module.backbone.{name}": value for name, value in names.items()}}, tmp_path / "v.pth")
    with torch.inference_mode():
        tokens = swin(images.permute(0, 3, 1, 2) / 127.5 - 1).flatten(1, 2)
        pooled = tokens.clamp(min=1e-6).pow(3).mean(dim=1).pow(1 / 3)
        found = load_foreign_descriptor(config_of(tmp_path / "v.pth", "tiny_swin", "gem"))(images)
        torch.testing.assert_close(found, functional.normalize(projection(pooled)))


def test_the_winners_vit_widens_all_tokens_and_pools_them_with_the_class_token(tmp_path: Path, images: Tensor):
    vit = shaken(timm_backbone("test_vit", 64))
    widening, projection = nn.Conv1d(vit.num_features, 96, 1), nn.Linear(96, 5)
    parts = {"backbone": vit, "embeddings.0.conv": widening, "embeddings.1": projection}
    names = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    torch.save(
        {"state_dict": {f"module.backbone.model.{name}": value for name, value in names.items()}}, tmp_path / "v"
    )
    with torch.inference_mode():
        tokens = widening(vit(images.permute(0, 3, 1, 2) / 127.5 - 1).transpose(1, 2))
        pooled = tokens.clamp(min=1e-6).pow(3).mean(dim=2).pow(1 / 3)
        found = load_foreign_descriptor(config_of(tmp_path / "v", "test_vit", "all_tokens"))(images)
        torch.testing.assert_close(found, functional.normalize(projection(pooled)))


def test_timms_own_names_are_read_without_the_classifier(tmp_path: Path, images: Tensor):
    torch.manual_seed(3)
    vit = timm_backbone("test_vit", 64).eval()
    save_file({**vit.state_dict(), "head.weight": torch.zeros(1000, 64)}, tmp_path / "timm.safetensors")
    found = load_foreign_descriptor(config_of(tmp_path / "timm.safetensors", "test_vit", "gem"))
    assert found.dimensions == 64
    torch.testing.assert_close(found.backbone.state_dict(), vit.state_dict())


def test_the_heads_of_esvits_pretraining_are_left_out(swin: nn.Module, tmp_path: Path) -> None:
    heads = {"head.mlp.0.weight": torch.zeros(8, 64), "head.last_layer.weight_g": torch.zeros(4, 1)}
    teacher = original_names(swin) | heads | {"head_dense.mlp.0.bias": torch.zeros(8)}
    torch.save({"epoch": 300, "teacher": teacher}, tmp_path / "esvit.pth")
    found = load_foreign_descriptor(config_of(tmp_path / "esvit.pth", "tiny_swin", "last_blocks"))
    assert (found.projection, found.dimensions) == (None, 32 + 32 + 64 + 64)
    torch.testing.assert_close(found.backbone.state_dict(), swin.state_dict())


class Bomb:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_objects_in_a_checkpoint_are_not_unpickled(tmp_path: Path):
    torch.save({"model": {"weight": torch.zeros(1)}, "args": Bomb(tmp_path / "written")}, tmp_path / "bomb.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Bomb(tmp_path / "written")))
    for name, what in (("bomb.pth", "objects such as getattr"), ("plain.pkl", "something else than tensors")):
        with pytest.raises(ModelFileError, match=f"{name} holds {what}.*save its state dict alone"):
            read_state_dict(tmp_path / name)
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(ModelFileError, match=r"text\.pth holds something else than tensors"):
        read_state_dict(tmp_path / "text.pth")
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x10\0\0\0\0\0\0\0{broken", "cannot be read as a checkpoint: .*; copy it again"),
    ],
)
def test_a_damaged_checkpoint_is_told(content: bytes, message: str, tmp_path: Path):
    (tmp_path / "damaged").write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        read_state_dict(tmp_path / "damaged")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_torchscript_is_told_from_a_state_dict_with_the_lines_that_make_one(tmp_path: Path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "submit.pt")
    with pytest.raises(ModelFileError, match=r"submit.pt is TorchScript, .*torch\.jit\.load\(FILE"):
        read_state_dict(tmp_path / "submit.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "test_vit", "pooling": "gem"}, "does not fit test_vit: it lacks backbone.blocks.0"),
        ({"architecture": "test_vit"}, "with pooling last_blocks: pooling last_blocks is for Swin"),
        ({"architecture": "no_such"}, "timm cannot build no_such for 64 pixels"),
        ({"pooling": "gem"}, "takes 192 numbers, and pooling gem gives 64; give another pooling"),
    ],
)
def test_weights_of_another_network_are_refused(imgfp: DescriptorConfig, changes: dict[str, Any], message: str):
    with pytest.raises(ModelFileError, match=message):
        load_foreign_descriptor(replace(imgfp, **changes))
