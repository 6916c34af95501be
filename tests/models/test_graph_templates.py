from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from copytrace.runtime import WEIGHTS
from models.configs import LIGHT, read_descriptor_config, read_pair_config
from models.export import DESCRIPTOR_OUTPUT, INPUT, LOGITS, VALUES
from models.graph_templates import fill_template
from models.network_files import load_descriptor_file, save_descriptor, save_pair_classifier
from models.pair_network import PairNetwork, build_pair_classifier


@pytest.fixture
def classifier() -> PairNetwork:
    """A network of the architecture that ships, with other weights."""
    torch.manual_seed(0)
    return build_pair_classifier(LIGHT).eval()


@pytest.mark.parametrize("kind", ["descriptor", "overlay", "aligner", "pair-classifier"])
def test_each_network_that_ships_has_a_template(kind: str, tmp_path: Path) -> None:
    weights = WEIGHTS / f"{kind.replace('-', '_')}.safetensors"
    assert fill_template(kind, weights, tmp_path / "graph.onnx") == tmp_path / "graph.onnx"


@pytest.mark.parametrize("size", [32, 96, 288])
def test_the_template_of_a_descriptor_holds_for_all_sides_that_its_strides_divide(size: int, tmp_path: Path) -> None:
    weights = WEIGHTS / "descriptor.safetensors"
    graph = fill_template("descriptor", weights, tmp_path / "graph.onnx", input_size=size)
    assert graph
    images = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = load_descriptor_file(weights, size)(images).numpy()
    session = onnxruntime.InferenceSession(graph)
    np.testing.assert_allclose(session.run([DESCRIPTOR_OUTPUT], {INPUT: images.numpy()})[0], expected, atol=1e-4)
    assert session.get_inputs()[0].shape[1:] == [size, size, 3]


def test_a_file_that_states_another_side_has_a_graph_of_that_side(tmp_path: Path) -> None:
    network = load_descriptor_file(WEIGHTS / "descriptor.safetensors")
    config = read_descriptor_config(WEIGHTS / "descriptor.safetensors")
    weights = save_descriptor(
        network, tmp_path / "trained.safetensors", architecture=config.architecture, input_size=96
    )
    graph = fill_template("descriptor", weights, tmp_path / "graph.onnx")
    assert graph
    assert onnxruntime.InferenceSession(graph).get_inputs()[0].shape[1:] == [96, 96, 3]


def test_for_other_sides_it_has_none(tmp_path: Path) -> None:
    weights = WEIGHTS / "descriptor.safetensors"
    assert fill_template("descriptor", weights, tmp_path / "graph.onnx", input_size=100) is None


def test_other_weights_of_the_same_architecture_have_it_too(classifier: PairNetwork, tmp_path: Path) -> None:
    weights = save_pair_classifier(classifier, tmp_path / "weights.safetensors", notes={"threshold": 0.2})
    graph = fill_template("pair-classifier", weights, tmp_path / "graph.onnx")
    assert graph
    values = torch.rand(2, 1, 40, 55)
    stored = classifier.half().float()  # as the file holds them
    with torch.inference_mode():
        expected = stored(values).numpy()
    (found,) = onnxruntime.InferenceSession(graph).run([LOGITS], {VALUES: values.numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_weights_of_another_architecture_have_none(tmp_path: Path) -> None:
    weights = save_pair_classifier(build_pair_classifier("test_efficientnet"), tmp_path / "weights.safetensors")
    assert read_pair_config(weights).architecture == "test_efficientnet"
    assert fill_template("pair-classifier", weights, tmp_path / "graph.onnx") is None


def test_weights_that_are_not_finite_have_none(classifier: PairNetwork, tmp_path: Path) -> None:
    weights = save_pair_classifier(classifier, tmp_path / "weights.safetensors")
    with safe_open(weights, framework="numpy") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    next(iter(tensors.values())).flat[0] = np.nan
    save_file(tensors, weights, metadata)
    assert fill_template("pair-classifier", weights, tmp_path / "graph.onnx") is None
    assert not (tmp_path / "graph.onnx").exists()
