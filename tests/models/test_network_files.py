from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from models.configs import IMAGENET_MEAN, IMAGENET_STD, ModelFileError, read_descriptor_config, read_header
from models.descriptor import DescriptorNetwork, resize_input, timm_backbone
from models.network_files import load_descriptor_file, save_descriptor
from tests import tiny_swin as _registered  # noqa: F401

SIZE = 64


def network_of(architecture: str, size: int, *, heads: bool = True) -> DescriptorNetwork:
    torch.manual_seed(0)
    backbone = timm_backbone(architecture, size)
    return DescriptorNetwork(
        backbone,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        gem_power=4.0,
        projection=nn.Linear(backbone.num_features, 16) if heads else None,
        whitening=nn.Linear(16, 8) if heads else None,
    ).eval()


def rounded(network: DescriptorNetwork) -> DescriptorNetwork:
    """The network with matrices as its file holds them, in half precision."""
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.half().float()
    return network


def images_of(size: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def network() -> DescriptorNetwork:
    return network_of("test_efficientnet", SIZE)


@pytest.fixture
def saved(network: DescriptorNetwork, tmp_path: Path) -> Path:
    notes = {"photos": 400}
    path = tmp_path / "run" / "descriptor.safetensors"
    return save_descriptor(network, path, architecture="test_efficientnet", input_size=SIZE, notes=notes)


def rewritten(saved: Path, *, drop: str = "", add: str = "", **changes: object) -> Path:
    """A copy of the file with a tensor less or more, and other values in its header."""
    tensors = {key: tensor for key, tensor in load_file(saved).items() if key != drop}
    if add:
        tensors[add] = torch.zeros(3)
    header = read_header(saved, "descriptor") | changes
    path = saved.with_name("rewritten.safetensors")
    save_file(tensors, path, {"copytrace": json.dumps(header)})
    return path


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        ("tf_efficientnet_lite0", 64),
        ("test_vit", 96),
        ("vit_tiny_patch16_224", 64),
        ("swin_tiny_patch4_window7_224", 64),
        ("swinv2_tiny_window8_256", 64),
    ],
)
def test_a_network_of_any_family_comes_back_from_its_file(architecture, size, tmp_path):
    network = rounded(network_of(architecture, size))
    path = save_descriptor(network, tmp_path / "d.safetensors", architecture=architecture, input_size=size)
    with torch.inference_mode():
        torch.testing.assert_close(load_descriptor_file(path)(images_of(size)), network(images_of(size)))


@pytest.mark.parametrize(
    ("architecture", "pooling", "pooled"),
    [("tiny_swin", "last_blocks", 192), ("test_vit", "all_tokens", 96)],
    ids=["imgFp's head", "that of VSC2022's winners for a ViT"],
)
def test_a_network_with_a_published_head_comes_back_with_it(architecture, pooling, pooled, tmp_path):
    torch.manual_seed(0)
    network = DescriptorNetwork(
        timm_backbone(architecture, SIZE),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        pooling=pooling,
        projection=nn.Linear(pooled, 16),
    ).eval()
    if pooling == "all_tokens":
        network.expansion = nn.Linear(64, 96)
    path = tmp_path / "d.safetensors"
    save_descriptor(rounded(network), path, architecture=architecture, input_size=SIZE, interpolation="bicubic")
    config = read_descriptor_config(path)
    assert (config.pooling, config.interpolation, config.dimensions) == (pooling, "bicubic", 16)
    with torch.inference_mode():
        torch.testing.assert_close(load_descriptor_file(path)(images_of(SIZE)), network(images_of(SIZE)))


@pytest.mark.parametrize("heads", [True, False], ids=["with heads", "without heads"])
def test_half_the_bits_give_nearly_the_same_vectors(heads, tmp_path):
    network = network_of("test_efficientnet", SIZE, heads=heads)
    path = save_descriptor(network, tmp_path / "d.safetensors", architecture="test_efficientnet", input_size=SIZE)
    with torch.inference_mode():
        cosines = (load_descriptor_file(path)(images_of(SIZE)) * network(images_of(SIZE))).sum(dim=1)
    assert cosines.min() > 0.9999
    assert path.stat().st_size < 0.6 * sum(tensor.nbytes for tensor in network.state_dict().values())


def test_the_header_says_how_to_build_and_feed_the_network(saved):
    assert read_header(saved, "descriptor") == {
        "kind": "descriptor",
        "format": 1,
        "name": "descriptor",
        "architecture": "test_efficientnet",
        "dimensions": 8,
        "input_size": SIZE,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "gem_power": 4.0,
        "interpolation": "area",
        "pooling": "gem",
        "expansion": False,
        "projection": True,
        "whitening": True,
        "typical_noise": None,
        "notes": {"photos": 400},
    }


def test_the_config_is_that_of_the_header(saved):
    config = read_descriptor_config(saved)
    assert (config.name, config.architecture, config.dimensions) == ("descriptor", "test_efficientnet", 8)
    assert (config.input_size, config.mean, config.std, config.gem_power) == (SIZE, IMAGENET_MEAN, IMAGENET_STD, 4.0)


def test_the_same_network_gives_the_same_bytes(network, saved, tmp_path):
    notes = {"photos": 400}
    again = save_descriptor(network, tmp_path / "again", architecture="test_efficientnet", input_size=SIZE, notes=notes)
    assert again.read_bytes() == saved.read_bytes()
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


def test_statistics_outside_half_precision_survive(network, tmp_path):
    other = network_of("test_efficientnet", SIZE)
    other.backbone.bn1.running_var.fill_(1e6)
    path = save_descriptor(other, tmp_path / "d.safetensors", architecture="test_efficientnet", input_size=SIZE)
    assert load_descriptor_file(path).backbone.bn1.running_var.unique().tolist() == [1e6]


def test_matrices_are_half_precision_in_the_file(saved):
    with safe_open(saved, framework="pt") as file:
        assert file.get_slice("projection.weight").get_dtype() == "F16"
        assert file.get_slice("projection.bias").get_dtype() == "F32"


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    other = network_of("test_efficientnet", SIZE)
    with torch.no_grad():
        other.projection.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"projection.weight holds values that are not finite"):
        save_descriptor(other, tmp_path / "d.safetensors", architecture="test_efficientnet", input_size=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_an_architecture_that_timm_does_not_know_is_not_saved(network, tmp_path):
    with pytest.raises(ValueError, match="timm has no architecture 'lite0'"):
        save_descriptor(network, tmp_path / "d.safetensors", architecture="lite0", input_size=SIZE)


@pytest.mark.parametrize("architecture", ["test_vit", "test_resnet"])
def test_another_input_size_is_what_timm_makes_of_it(architecture, tmp_path):
    network = network_of(architecture, 64, heads=False)
    path = save_descriptor(network, tmp_path / "d.safetensors", architecture=architecture, input_size=64)
    assert read_descriptor_config(path, 96).input_size == 96
    with torch.inference_mode():
        vectors = load_descriptor_file(path, 96)(images_of(96))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("architecture", ["test_vit", "swinv2_cr_tiny_ns_224"])
def test_a_network_trained_at_one_size_and_saved_for_another_is_resized(architecture, tmp_path):
    network = network_of(architecture, 64, heads=False)
    path = save_descriptor(network, tmp_path / "d.safetensors", architecture=architecture, input_size=96)
    resize_input(network.backbone, 96)
    rounded(network)
    with torch.inference_mode():
        torch.testing.assert_close(load_descriptor_file(path)(images_of(96)), network(images_of(96)))


def test_the_noise_level_of_the_model_is_kept(network, tmp_path):
    path = tmp_path / "d.safetensors"
    save_descriptor(network, path, architecture="test_efficientnet", input_size=SIZE, typical_noise=0.25)
    assert read_descriptor_config(path).typical_noise == 0.25


def test_an_input_size_that_an_architecture_cannot_take_is_refused(tmp_path):
    network = network_of("mixer_s32_224", 64, heads=False)
    path = save_descriptor(network, tmp_path / "d.safetensors", architecture="mixer_s32_224", input_size=64)
    with pytest.raises(ModelFileError, match=r"was trained at 64 pixels and cannot take 96.*leave input_size out"):
        load_descriptor_file(path, 96)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop": "backbone.conv_stem.weight"}, "lacks backbone.conv_stem.weight"),
        ({"drop": "whitening.weight"}, "lacks whitening.weight"),
        ({"add": "head.weight"}, "has head.weight, unknown there"),
        ({"pooling": "last_blocks"}, "pooling last_blocks is for Swin"),
        ({"dimensions": 9}, "gives 8 dimensions instead of 9"),
        ({"architecture": "test_resnet"}, r"does not fit test_resnet: .*\(and \d+ more\)"),
        ({"architecture": "resnet_of_tomorrow"}, "timm cannot build resnet_of_tomorrow.*upgrade timm"),
        ({"format": 2}, "format 2, this version reads format 1; upgrade copytrace"),
        ({"kind": "overlay"}, "holds a model of kind 'overlay', not 'descriptor'"),
        ({"input_size": "large"}, "damaged header .*input_size"),
        ({"std": [0, 1, 1]}, r"damaged header .*std\.0"),
        ({"name": "../name"}, "damaged header .*name"),
    ],
)
def test_a_file_that_is_not_as_it_says_is_refused_in_one_line(saved, changes, message):
    with pytest.raises(ModelFileError, match=message) as caught:
        load_descriptor_file(rewritten(saved, **changes))
    assert "\n" not in str(caught.value)


def test_a_tensor_of_another_shape_is_refused(saved):
    tensors = load_file(saved) | {"projection.bias": torch.zeros(5)}
    save_file(tensors, saved, {"copytrace": json.dumps(read_header(saved, "descriptor"))})
    with pytest.raises(ModelFileError, match=r"has projection.bias of shape \[5\] instead of \[16\]"):
        load_descriptor_file(saved)


@pytest.mark.parametrize("keep", [0, 5, 400, -1])
def test_a_file_cut_short_is_refused_by_its_header(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ModelFileError, match="is not a whole safetensors file"):
        read_descriptor_config(saved)


def test_a_pickle_by_the_name_of_safetensors_is_refused(network, tmp_path):
    path = tmp_path / "descriptor.safetensors"
    torch.save(network.state_dict(), path)
    with pytest.raises(ModelFileError, match="is not a whole safetensors file"):
        read_descriptor_config(path)


def test_safetensors_of_somebody_else_are_refused(saved):
    save_file(load_file(saved), saved)
    with pytest.raises(ModelFileError, match="a safetensors file, but not one of Copytrace"):
        read_descriptor_config(saved)
