from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from copytrace.alignment.networks import TILE, PairFilter, pair_canvas, pair_canvases
from copytrace.alignment.segments import SimilarityMatrix
from copytrace.errors import ConfigError
from models.configs import PAIR_CANVAS, PairConfig
from models.network_files import save_pair_classifier
from models.pair_network import build_pair_classifier


@pytest.fixture(scope="module")
def by_onnx() -> PairFilter:
    """The light classifier that ships, whose graph other tests need too."""
    return PairFilter(backend="onnx")


@pytest.fixture(scope="module", params=("light", "test_efficientnet"))
def any_filter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PairFilter:
    """A classifier of a matrix as it is, and one of its canvas."""
    if request.param == "light":
        return request.getfixturevalue("by_onnx")
    torch.manual_seed(0)
    classifier = build_pair_classifier(request.param).eval()
    path = save_pair_classifier(classifier, tmp_path_factory.mktemp("weights") / "pair_classifier.safetensors")
    return PairFilter(str(path.parent), backend="torch", device="cpu")


def seconds(count: int) -> NDArray[np.float64]:
    return np.stack([np.arange(count), np.arange(1, count + 1)], axis=1).astype(np.float64)


def matrix(rows: int, columns: int) -> SimilarityMatrix:
    values = np.random.default_rng(rows).uniform(-0.3, 1.0, (rows, columns)).astype(np.float32)
    return SimilarityMatrix(values, seconds(rows), seconds(columns))


def test_a_small_matrix_lies_in_the_upper_left_corner_of_zeros() -> None:
    values = np.full((3, 5), 0.5, np.float32)
    canvas = pair_canvas(values, PAIR_CANVAS)
    assert canvas.shape == (160, 160)
    assert canvas[:3, :5].tolist() == values.tolist()
    assert canvas.sum() == pytest.approx(7.5)


@pytest.mark.parametrize("length", [161, 480, 1003])
def test_a_long_matrix_is_reduced_and_keeps_its_faintest_peak(length: int) -> None:
    values = np.full((2, length), -0.3, np.float32)
    values[1, length - 1] = 0.8
    canvas = pair_canvas(values, PAIR_CANVAS)
    assert canvas[1, 159] == np.float32(0.8)
    assert (canvas[0] == np.float32(-0.3)).all()


def test_a_long_axis_is_cut_into_even_runs() -> None:
    values = np.arange(320, dtype=np.float32)[:, None]
    assert pair_canvas(values, PAIR_CANVAS)[:, 0].tolist() == list(range(1, 320, 2))


def test_the_light_classifier_sees_a_matrix_as_it_is_and_the_others_its_canvas() -> None:
    values = matrix(12, 300).values
    (seen,) = pair_canvases(values, PairConfig("light"))
    assert seen.tolist() == values.tolist()
    (canvas,) = pair_canvases(values, PairConfig("mobilenetv3_small_100"))
    assert canvas.tolist() == pair_canvas(values, PAIR_CANVAS).tolist()


def test_the_light_classifier_sees_every_cell_of_a_long_matrix() -> None:
    values = np.arange(3 * (TILE + 200), dtype=np.float32).reshape(3, -1)
    tiles = list(pair_canvases(values, PairConfig("light")))
    assert max(tile.shape[1] for tile in tiles) <= TILE
    assert set(np.concatenate([tile.ravel() for tile in tiles])) == set(values.ravel())


def test_no_pairs_have_no_probabilities(any_filter: PairFilter) -> None:
    assert any_filter.probability([]).shape == (0,)


def test_a_pair_and_its_exchange_are_equally_probable(any_filter: PairFilter) -> None:
    pair = matrix(30, 170)
    there, back = any_filter.probability([pair, pair.transpose()])
    assert there == pytest.approx(back, abs=1e-6)
    assert 0 < there < 1


def test_an_empty_matrix_is_not_probable(any_filter: PairFilter) -> None:
    assert any_filter.probability([matrix(0, 5)]).tolist() == [0.0]


def test_a_long_pair_is_as_probable_as_its_surest_tile(by_onnx: PairFilter) -> None:
    long = matrix(20, TILE + 300)
    tiles = [
        SimilarityMatrix(tile, seconds(20), seconds(tile.shape[1]))
        for tile in pair_canvases(long.values, by_onnx.config)
    ]
    assert by_onnx.probability([long])[0] == by_onnx.probability(tiles).max()


def test_a_pair_is_as_probable_alone_as_among_others(any_filter: PairFilter) -> None:
    pairs = [matrix(20 + number, 30) for number in range(4)]
    alone = [any_filter.probability([pair])[0] for pair in pairs]
    together = any_filter.probability(pairs)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert len(set(together.round(6))) > 1


def test_both_runtimes_give_the_same_probabilities(by_onnx: PairFilter) -> None:
    by_torch = PairFilter(backend="torch", device="cpu")
    pairs = [matrix(40, 60), matrix(200, 90)]
    assert by_torch.digest == by_onnx.digest
    np.testing.assert_allclose(by_torch.probability(pairs), by_onnx.probability(pairs), atol=1e-5)


def test_an_absent_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no pair-classifier model at .*pair_classifier\.safetensors does not exist"):
        PairFilter(str(tmp_path))


def test_a_file_that_is_no_classifier_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "pair_classifier.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="not a whole safetensors file") as refusal:
        PairFilter(str(tmp_path))
    assert "\n" not in str(refusal.value)
