from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import nn

from copytrace.alignment.aligners import TiledAligner, build_aligner
from copytrace.alignment.networks import CONTEXT, TILE, NetworkAligner, pad_to_canvas, tile_spans
from copytrace.alignment.segments import SimilarityMatrix
from copytrace.errors import ConfigError
from models.aligner_network import LightAligner, build_aligner_network
from models.configs import AlignerConfig
from models.network_files import load_aligner_network, save_aligner

GAIN, BIAS = 20.0, -8.0
Floats = NDArray[np.float32]


def transparent() -> LightAligner:
    """A network that looks at single cells: logit = 20 x similarity - 8, and similarities below 0 as 0."""
    network = build_aligner_network()
    assert isinstance(network, LightAligner)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    with torch.no_grad():
        network.stem[0].weight[0, 0, 1, 1] = 1.0  # type: ignore[index,union-attr]
        network.head.weight[0, 0] = GAIN
        network.head.bias[0] = BIAS  # type: ignore[index]
    return network.eval()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_aligner(transparent(), tmp_path_factory.mktemp("weights") / "aligner.safetensors")


@pytest.fixture(scope="module")
def aligner(weights: Path) -> NetworkAligner:
    return NetworkAligner(str(weights), backend="torch", device="cpu")


@pytest.fixture(scope="module")
def by_onnx() -> NetworkAligner:
    """The aligner that ships, whose graph other tests need too."""
    return NetworkAligner(backend="onnx")


def seconds(count: int) -> NDArray[np.float64]:
    return np.stack([np.arange(count), np.arange(1, count + 1)], axis=1).astype(np.float64)


def noise(rows: int, columns: int) -> Floats:
    return np.random.default_rng(rows).uniform(-0.3, 0.6, (rows, columns)).astype(np.float32)


def copied(rows: int, columns: int, first_row: int, first_column: int, length: int) -> SimilarityMatrix:
    values = np.full((rows, columns), -0.1, np.float32)
    steps = np.arange(length)
    values[first_row + steps, first_column + steps] = 0.9
    return SimilarityMatrix(values, seconds(rows), seconds(columns))


def test_a_copy_is_found_at_its_seconds(aligner: NetworkAligner) -> None:
    (segment,) = aligner.align(copied(50, 70, first_row=12, first_column=31, length=20))
    assert segment.box == pytest.approx((12.0, 32.0, 31.0, 51.0), abs=0.6)
    assert not segment.reversed


def test_nothing_is_found_in_an_empty_matrix(aligner: NetworkAligner) -> None:
    for rows, columns in ((0, 0), (0, 5), (5, 0)):
        empty = SimilarityMatrix(np.zeros((rows, columns), np.float32), seconds(rows), seconds(columns))
        assert aligner.align(empty) == []


@pytest.mark.parametrize(("rows", "columns"), [(40, 33), (TILE + 1, 20), (3, 1100)])
def test_each_cell_of_a_matrix_in_one_tile_or_many_gets_its_own_probability(
    aligner: NetworkAligner, rows: int, columns: int
) -> None:
    values = noise(rows, columns)
    expected = expit(GAIN * values.clip(0, None) + BIAS)
    np.testing.assert_allclose(aligner.heat_map(values), expected, atol=1e-3)


def test_the_heat_map_of_the_transpose_is_the_transpose(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = save_aligner(build_aligner_network().eval(), tmp_path / "aligner.safetensors")
    uneven = NetworkAligner(str(path), backend="torch", device="cpu")
    values = noise(30, 44)
    np.testing.assert_allclose(uneven.heat_map(values.T), uneven.heat_map(values).T, atol=1e-6)
    with torch.inference_mode():
        upright = load_aligner_network(path)(torch.from_numpy(values)[None, None]).sigmoid()[0, 0]
    assert not np.allclose(uneven.heat_map(values), upright.numpy(), atol=1e-6)


def test_both_runtimes_see_the_same_heat(by_onnx: NetworkAligner) -> None:
    by_torch = NetworkAligner(backend="torch", device="cpu")
    assert by_torch.digest == by_onnx.digest
    heat = by_onnx.heat_map(copied(45, 61, first_row=8, first_column=20, length=15).values)
    assert heat.max() > 0.5
    np.testing.assert_allclose(by_onnx.heat_map(noise(45, 61)), by_torch.heat_map(noise(45, 61)), atol=1e-5)


def test_matrices_from_several_threads_get_the_answers_that_they_get_alone(by_onnx: NetworkAligner) -> None:
    matrices = [copied(30 + n, 40 + n, first_row=n, first_column=2 * n, length=12) for n in range(12)]
    alone = [by_onnx.align(matrix) for matrix in matrices]
    assert all(alone)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(by_onnx.align, matrices)) == alone


def test_tiles_keep_every_cell_once_and_see_what_is_around_it() -> None:
    for length in (1, TILE, TILE + 1, 1500):
        pieces = list(tile_spans(length))
        assert np.concatenate([np.arange(length)[piece.core] for piece in pieces]).tolist() == list(range(length))
        for piece in pieces:
            assert piece.tile.stop - piece.tile.start <= TILE
            assert piece.tile.start == max(0, piece.core.start - CONTEXT)
            assert piece.tile.stop == min(length, piece.core.stop + CONTEXT)
            assert np.arange(length)[piece.tile][piece.core_in_tile].tolist() == np.arange(length)[piece.core].tolist()


@pytest.mark.parametrize(("side", "canvas"), [(1, 128), (128, 128), (129, 136)])
def test_hrnet_gets_a_canvas_that_it_can_take_and_the_light_network_the_matrix(side: int, canvas: int) -> None:
    values = noise(side, 130)
    assert pad_to_canvas(values, AlignerConfig("hrnet_w18")).shape == (canvas, 136)
    assert pad_to_canvas(values, AlignerConfig("light")).tolist() == values.tolist()


def test_the_network_is_loaded_by_its_name_from_a_folder(weights: Path) -> None:
    loaded = build_aligner("network", model=str(weights.parent), backend="torch", device="cpu")
    assert isinstance(loaded, TiledAligner)
    (segment,) = loaded.align(copied(20, 20, first_row=2, first_column=2, length=15))
    assert segment.box == pytest.approx((2.0, 17.0, 2.0, 17.0), abs=0.6)


def test_a_folder_without_an_aligner_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no aligner model at .*aligner\.safetensors does not exist; give shipped"):
        NetworkAligner(str(tmp_path))


def test_a_file_that_is_no_aligner_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "aligner.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"not a whole safetensors file.*set alignment\.aligner to hough") as refusal:
        NetworkAligner(str(tmp_path))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("device", ["abacus", "cuda:63"])
def test_a_device_that_is_not_there_is_refused(weights: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"torch has no device '{device}' here"):
        NetworkAligner(str(weights), backend="torch", device=device)
