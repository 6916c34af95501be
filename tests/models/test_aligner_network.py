from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.aligner_network import HrnetAligner, LightAligner, build_aligner_network
from models.configs import AlignerConfig, ModelFileError, digest_of_network, read_aligner_config
from models.export import LOGITS, VALUES
from models.network_files import load_aligner_network, save_aligner

HRNET_GMAC = 17.4  # 34.8 GFLOP at 128x128, measured of the published model


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def used(network: LightAligner) -> LightAligner:
    """Give a fresh network the statistics of some similarities, as training would."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        network.train()(similarities(64, 64, count=2))
    return network.eval()


def similarities(rows: int, columns: int, count: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    return torch.rand(count, 1, rows, columns, generator=generator) - 0.3


def on_canvas(values: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The matrix in the upper left corner of a canvas that holds rubbish elsewhere, and where it is."""
    rows, columns = values.shape[-2:]
    canvas, inside = torch.full((1, 1, side, side), 0.7), torch.zeros(1, 1, side, side)
    canvas[..., :rows, :columns], inside[..., :rows, :columns] = values, 1.0
    return canvas, inside


def giga_multiply_adds(network: nn.Module) -> float:
    counts: list[int] = []

    def count(layer: nn.Module, _: object, answer: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        counts.append(answer.numel() * layer.weight[0].numel())

    handles = [layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    with torch.inference_mode():
        network(torch.zeros(1, 1, 128, 128))
    for handle in handles:
        handle.remove()
    return sum(counts) / 1e9


@pytest.fixture(scope="module")
def light() -> LightAligner:
    torch.manual_seed(0)
    network = build_aligner_network()
    assert isinstance(network, LightAligner)
    return used(network)


@pytest.fixture(scope="module")
def hrnet() -> HrnetAligner:
    torch.manual_seed(0)
    network = build_aligner_network(AlignerConfig("hrnet_w18"))
    assert isinstance(network, HrnetAligner)
    return network.eval()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 90), (37, 61), (64, 64), (130, 3)])
def test_every_cell_of_a_matrix_of_any_size_gets_a_logit(light: LightAligner, rows: int, columns: int) -> None:
    with torch.inference_mode():
        logits = light(similarities(rows, columns))
    assert logits.shape == (1, 1, rows, columns)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@pytest.mark.parametrize(("rows", "columns"), [(60, 60), (61, 37), (1, 127), (128, 5)])
def test_a_matrix_gets_the_same_logits_alone_and_on_a_larger_canvas(
    light: LightAligner, rows: int, columns: int
) -> None:
    values = similarities(rows, columns)
    with torch.inference_mode():
        alone, padded = light(values), light(*on_canvas(values, 128))
    torch.testing.assert_close(padded[..., :rows, :columns], alone, atol=1e-4, rtol=0)


def test_hrnet_gives_the_same_logits_alone_and_on_its_canvas(hrnet: HrnetAligner) -> None:
    values = similarities(30, 45)
    with torch.inference_mode():
        alone, padded = hrnet(values), hrnet(*on_canvas(values, 128))
    torch.testing.assert_close(padded[..., :30, :45], alone)


def test_similarities_beyond_the_range_count_as_its_ends(light: LightAligner) -> None:
    values = similarities(16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(light(values * 10), light((values * 10).clamp(-0.5, 1.0)))


def test_what_the_light_network_sees_reaches_across_the_training_canvas(light: LightAligner) -> None:
    values = similarities(128, 128).requires_grad_()
    light(values)[0, 0, 64, 64].backward()
    assert values.grad is not None
    rows, columns = values.grad[0, 0].nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 127, 0, 127)


def test_a_fresh_network_expects_few_cells_to_be_copied() -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        assert build_aligner_network().eval()(similarities(64, 64)).sigmoid().mean() < 0.05


def test_hrnet_costs_what_the_published_one_does_and_the_light_one_less_than_a_fiftieth(
    light: LightAligner, hrnet: HrnetAligner
) -> None:
    published = giga_multiply_adds(hrnet)
    assert published == pytest.approx(HRNET_GMAC, abs=0.1)
    assert giga_multiply_adds(light) < published / 50


def test_the_light_network_is_a_small_file_that_brings_back_the_same_answers(
    light: LightAligner, tmp_path: Path
) -> None:
    path = save_aligner(light, tmp_path / "aligner.safetensors", notes={"sets": ["synthetic"]})
    again = load_aligner_network(path)
    assert path.stat().st_size < 1_000_000
    assert again.config == AlignerConfig("light")
    with torch.inference_mode():
        torch.testing.assert_close(again(similarities(40, 50)), light(similarities(40, 50)), atol=0.05, rtol=0.02)


def test_the_digest_changes_with_a_single_weight(tmp_path: Path) -> None:
    network = build_aligner_network()
    one = digest_of_network(save_aligner(network, tmp_path / "one.safetensors"))
    with torch.no_grad():
        network.head.bias += 0.5
    assert digest_of_network(save_aligner(network, tmp_path / "other.safetensors")) != one


def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown backbone 'resnet'; give one of: light, hrnet_w18"):
        AlignerConfig("resnet")  # type: ignore[arg-type]


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    broken = build_aligner_network()
    nn.init.constant_(broken.head.bias, float("nan"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"head\.bias holds values that are not finite"):
        save_aligner(broken, tmp_path / "aligner.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match="not one of Copytrace"):
        read_aligner_config(tmp_path / "other.safetensors")


def test_a_file_of_another_backbone_is_refused(light: LightAligner, tmp_path: Path) -> None:
    light.config = AlignerConfig("hrnet_w18")
    path = save_aligner(light, tmp_path / "aligner.safetensors")
    light.config = AlignerConfig()
    with pytest.raises(ModelFileError, match="does not fit hrnet_w18"):
        load_aligner_network(path)


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 128, 128), (3, 60, 45), (1, 7, 301), (1, 1, 1)])
def test_the_exported_graph_agrees_with_torch_at_any_size(
    shipped_graph: Callable[[str], tuple[Path, Path]], count: int, rows: int, columns: int
) -> None:
    weights, graph = shipped_graph("aligner")
    network = load_aligner_network(weights).eval()
    assert network.config == AlignerConfig("light")
    values = similarities(rows, columns, count)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (found,) = session.run([LOGITS], {VALUES: values.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(found, network(values).numpy(), atol=1e-3, rtol=1e-4)
