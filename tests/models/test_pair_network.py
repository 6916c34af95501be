from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from models.aligner_network import build_aligner_network
from models.configs import PAIR_CANVAS, AlignerConfig, ModelFileError, PairConfig, read_pair_config, read_threshold
from models.export import LOGITS, VALUES, export_pair_classifier
from models.network_files import load_pair_classifier, save_aligner, save_pair_classifier
from models.pair_network import PairNetwork, build_pair_classifier

SMALL = "test_efficientnet"


def classifier_of(architecture: str) -> PairNetwork:
    """Random weights, with statistics of BatchNorm that fit them: without any, every logit is nearly the same."""
    torch.manual_seed(0)
    network = build_pair_classifier(architecture)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        network.train()(values(8, PAIR_CANVAS, PAIR_CANVAS))
    return network.eval()


def values(count: int, rows: int, columns: int) -> Tensor:
    return torch.rand(count, 1, rows, columns, generator=torch.Generator().manual_seed(count)) - 0.3


@pytest.fixture(scope="module", params=["light", SMALL])
def classifier(request: pytest.FixtureRequest) -> PairNetwork:
    return classifier_of(request.param)


@pytest.fixture(scope="module")
def light() -> PairNetwork:
    return classifier_of("light")


def test_every_canvas_gets_one_logit(classifier: PairNetwork) -> None:
    with torch.inference_mode():
        logits = classifier(values(3, PAIR_CANVAS, PAIR_CANVAS))
    assert logits.shape == (3,)
    assert logits.dtype == torch.float32
    assert len(set(logits.tolist())) == 3


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 7), (30, 45), (129, 64)])
def test_the_light_one_looks_at_matrices_of_any_size(light: PairNetwork, rows: int, columns: int) -> None:
    with torch.inference_mode():
        logits = light(values(2, rows, columns))
    assert logits.shape == (2,)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("rows", "columns"), [(9, 14), (30, 45), (31, 2)])
def test_the_light_one_answers_alike_alone_and_on_a_canvas(light: PairNetwork, rows: int, columns: int) -> None:
    matrix = values(2, rows, columns)
    canvas, inside = torch.zeros(2, 2, 1, 48, 48)
    canvas[..., :rows, :columns], inside[..., :rows, :columns] = matrix, 1.0
    with torch.inference_mode():
        torch.testing.assert_close(light(canvas, inside), light(matrix), atol=1e-5, rtol=1e-5)


def test_the_default_is_the_light_one_in_a_file_of_some_kilobytes(tmp_path: Path) -> None:
    path = save_pair_classifier(build_pair_classifier(), tmp_path / "pair_classifier.safetensors")
    assert read_pair_config(path) == PairConfig("light")
    assert path.stat().st_size < 100_000


def test_the_published_classifier_is_a_file_of_few_megabytes(tmp_path: Path) -> None:
    published = build_pair_classifier("mobilenetv3_small_100")
    path = save_pair_classifier(published, tmp_path / "pair_classifier.safetensors")
    assert read_pair_config(path) == PairConfig("mobilenetv3_small_100")
    assert path.stat().st_size < 3_500_000


def test_an_architecture_that_timm_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="timm builds no no_such_model of one channel"):
        build_pair_classifier("no_such_model")


def test_a_saved_classifier_gives_the_same_answers(classifier: PairNetwork, tmp_path: Path) -> None:
    again = load_pair_classifier(save_pair_classifier(classifier, tmp_path / "pairs.safetensors"))
    matrices = values(2, PAIR_CANVAS, PAIR_CANVAS)
    with torch.inference_mode():
        torch.testing.assert_close(again(matrices), classifier(matrices), atol=1e-2, rtol=1e-2)


def test_a_file_of_an_aligner_is_refused(tmp_path: Path) -> None:
    path = save_aligner(build_aligner_network(AlignerConfig()), tmp_path / "aligner.safetensors")
    with pytest.raises(ModelFileError, match="holds a model of kind 'aligner', not 'pair-classifier'"):
        load_pair_classifier(path)


def agrees(network: PairNetwork, graph: Path, shapes: list[tuple[int, int, int]]) -> None:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for shape in shapes:
        matrices = values(*shape)
        (found,) = session.run([LOGITS], {VALUES: matrices.numpy()})
        with torch.inference_mode():
            np.testing.assert_allclose(found, network(matrices).numpy(), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("notes", [{"threshold": "high"}, {"threshold": None}])
def test_a_threshold_that_is_no_number_is_told(notes: dict[str, object], tmp_path: Path) -> None:
    weights = save_pair_classifier(classifier_of(SMALL), tmp_path / "odd.safetensors", notes=notes)
    with pytest.raises(ModelFileError, match=r"odd\.safetensors has a damaged header \(its threshold is no number\)"):
        read_threshold(weights)


def test_the_exported_graph_of_the_light_one_agrees_with_torch_at_any_size(
    shipped_graph: Callable[[str], tuple[Path, Path]],
) -> None:
    weights, graph = shipped_graph("pair-classifier")
    network = load_pair_classifier(weights).eval()
    assert network.config == PairConfig("light")
    agrees(network, graph, [(1, 8, 5), (1, 64, 300), (3, 90, 61)])


def test_the_exported_graph_of_another_agrees_with_torch_on_its_canvas(tmp_path: Path) -> None:
    network = classifier_of(SMALL)
    graph = export_pair_classifier(network, tmp_path / "pairs.onnx")
    agrees(network, graph, [(1, PAIR_CANVAS, PAIR_CANVAS), (5, PAIR_CANVAS, PAIR_CANVAS)])
