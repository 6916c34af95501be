from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import onnxruntime
import pytest
import skimage.data
import torch
from sklearn.datasets import load_sample_image
from torch import nn

from models.configs import efficientnet_lite0
from models.descriptor import DescriptorNetwork, GeM, build_descriptor, timm_backbone
from models.efficientnet_lite import load_backbone, load_classifier
from models.network_files import load_descriptor_file

CONFIG = efficientnet_lite0()
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    return load_classifier(CONFIG.weights)


def top_classes(classifier: nn.Module, photo: np.ndarray, count: int) -> list[int]:
    height, width = photo.shape[:2]
    side = int(min(height, width) * 0.875)
    top, left = (height - side) // 2, (width - side) // 2
    crop = cv2.resize(photo[top : top + side, left : left + side], (224, 224), interpolation=cv2.INTER_AREA)
    pixels = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 127.5 - 1.0
    with torch.inference_mode():
        return classifier(pixels)[0].topk(count).indices.tolist()


def small_network(
    architecture: str, size: int, projection: int | None = None
) -> tuple[DescriptorNetwork, torch.Tensor]:
    torch.manual_seed(0)
    backbone = timm_backbone(architecture)
    linear = nn.Linear(backbone.num_features, projection) if projection else None
    network = DescriptorNetwork(backbone, mean=HALF, std=HALF, projection=linear).eval()
    return network, torch.randint(0, 256, (3, size, size, 3), dtype=torch.uint8)


def test_the_packaged_weights_see_a_cat_in_chelsea(classifier):
    assert set(top_classes(classifier, skimage.data.chelsea(), 3)) == {281, 282, 285}  # tabby, tiger cat, Egyptian cat


@pytest.mark.parametrize(
    ("photo", "label"),
    [
        (skimage.data.coffee, 967),  # espresso
        (skimage.data.rocket, 657),  # missile
        (lambda: load_sample_image("china.jpg"), 698),  # palace
        (lambda: load_sample_image("flower.jpg"), 985),  # daisy
    ],
    ids=["coffee", "rocket", "china", "flower"],
)
def test_the_packaged_weights_name_what_a_photo_shows(classifier, photo, label):
    assert top_classes(classifier, photo(), 1) == [label]


def test_the_backbone_is_the_tensorflow_port(classifier):
    assert classifier.bn1.eps == 1e-3
    assert type(classifier.conv_stem).__name__ == "Conv2dSame"


def test_weights_that_are_not_in_timms_order_are_refused(tmp_path):
    packaged = torch.load(CONFIG.weights, weights_only=True)
    torch.save(dict(reversed(packaged.items())), tmp_path / "reversed.pth")
    with pytest.raises(ValueError, match="296 tensors"):
        load_classifier(tmp_path / "reversed.pth")


def test_gem_of_one_and_three_is_the_cube_root_of_fourteen():
    assert GeM()(torch.tensor([[[[1.0, 3.0]]]])).item() == pytest.approx(14 ** (1 / 3))


def test_gem_with_power_one_is_the_mean_of_what_is_positive():
    assert GeM(power=1.0)(torch.tensor([[[[-2.0, 4.0]]]])).item() == pytest.approx(2.0, abs=1e-5)


def test_gem_of_large_half_precision_activations_does_not_overflow():
    assert GeM()(torch.full((1, 1, 2, 2), 100.0, dtype=torch.float16)).item() == pytest.approx(100.0)


def test_black_and_white_are_normalised_to_minus_one_and_one():
    class Corner(nn.Module):
        num_features = 3

        def forward(self, pixels):
            return pixels[:, :, :1, :1] + 2.0  # shifted, as GeM drops what is negative

    network = DescriptorNetwork(Corner(), mean=HALF, std=HALF)
    vector = network(torch.tensor([0, 255, 255], dtype=torch.uint8).view(1, 1, 1, 3))
    assert vector[0].tolist() == pytest.approx([1 / 19**0.5, 3 / 19**0.5, 3 / 19**0.5])


@pytest.mark.parametrize(
    ("architecture", "size", "dimensions"),
    [("test_resnet", 64, 96), ("test_efficientnet", 64, 256), ("test_vit", 160, 64)],
)
def test_any_timm_backbone_gives_unit_vectors(architecture, size, dimensions):
    network, images = small_network(architecture, size)
    with torch.inference_mode():
        vectors = network(images)
    assert vectors.shape == (3, dimensions) == (3, network.dimensions)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))


def test_a_projection_sets_the_dimensions():
    network, images = small_network("test_resnet", 64, projection=16)
    with torch.inference_mode():
        assert network(images).shape == (3, 16)
    assert network.dimensions == 16


def test_whitening_takes_unit_vectors_and_gives_unit_vectors():
    class Pixel(nn.Module):
        num_features = 3

        def forward(self, pixels):
            return pixels[:, :, :1, :1]

    whitening = nn.Linear(3, 2)
    with torch.no_grad():
        whitening.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 5.0, 0.0]]))
        whitening.bias.copy_(-whitening.weight @ torch.tensor([0.0, 0.2, 0.0]))  # the mean, folded
    network = DescriptorNetwork(Pixel(), mean=HALF, std=HALF, whitening=whitening)
    vector = network.embed(torch.tensor([6.0, 8.0, 0.0]).view(1, 3, 1, 1))  # of length 10: (0.6, 0.8, 0)
    assert vector[0].tolist() == pytest.approx([0.6 / 9.36**0.5, 3.0 / 9.36**0.5])
    assert network.dimensions == 2


def test_the_built_descriptor_is_the_classifier_before_its_head(classifier):
    network = build_descriptor(CONFIG)
    pixels = torch.zeros(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network.backbone(pixels), classifier.forward_features(pixels))
        torch.testing.assert_close(load_backbone(CONFIG.weights)(pixels), classifier.forward_features(pixels))
    assert network.dimensions == CONFIG.dimensions


def test_an_architecture_without_packaged_weights_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"resnet50.*tf_efficientnet_lite0"):
        build_descriptor(replace(CONFIG, architecture="resnet50"))


def test_the_digest_changes_with_whatever_changes_a_vector(tmp_path):
    other = tmp_path / "other.pth"
    other.write_bytes(CONFIG.weights.read_bytes() + b".")
    variants = [
        replace(CONFIG, input_size=224),
        replace(CONFIG, gem_power=4.0),
        replace(CONFIG, architecture="efficientnet_lite0"),
        replace(CONFIG, weights=other),
    ]
    assert len({CONFIG.digest, *(variant.digest for variant in variants)}) == 5


def test_the_digest_does_not_change_with_where_the_weights_lie(tmp_path):
    moved = tmp_path / "moved.pth"
    moved.write_bytes(CONFIG.weights.read_bytes())
    assert replace(CONFIG, weights=moved).digest == CONFIG.digest


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_exported_graph_agrees_with_torch_at_any_batch_size(shipped_graph, count):
    weights, graph = shipped_graph("descriptor")
    network = load_descriptor_file(weights, 256).eval()
    images = torch.randint(0, 256, (count, 256, 256, 3), dtype=torch.uint8)
    (found,) = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(
        ["descriptors"], {"images": images.numpy()}
    )
    with torch.inference_mode():
        np.testing.assert_allclose(found, network(images).numpy(), atol=1e-4)


def test_an_export_leaves_one_whole_file_beside_its_digest(shipped_graph):
    _, graph = shipped_graph("descriptor")
    left = {file.name.removeprefix(graph.stem) for file in graph.parent.glob(f"{graph.stem}*")}
    assert left - {".lock"} == {".onnx", ".onnx.sha256"}


def test_timm_knows_the_shape_of_imgfps_backbone() -> None:
    with torch.device("meta"):
        backbone = timm_backbone("swin_base_patch4_window14_224")
    tables = {shape[0] for name, shape in shapes_of(backbone).items() if "relative_position_bias_table" in name}
    assert tables == {27 * 27, 13 * 13}  # the last stage sees 7 x 7, and its window is that
    assert sum(math.prod(shape) for shape in shapes_of(backbone).values()) == pytest.approx(86.9e6, rel=0.01)


def shapes_of(network: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in network.named_parameters()}
