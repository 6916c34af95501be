"""Networks of several folds, and those in the format of VSC2022's winners."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

import models.configs
from configs.settings import DescriptorSettings
from configs.videos import AlignmentSettings
from copytrace.alignment.aligners import FilteringAligner, SimilarityMatrix, load_aligner, model_digests
from copytrace.alignment.networks import NetworkAligner, PairFilter
from copytrace.errors import ConfigError
from models.aligner_network import build_aligner_network
from models.configs import ModelFileError
from models.network_files import load_aligner_network, load_pair_classifier, save_aligner, save_pair_classifier
from models.pair_network import build_pair_classifier

ON_TORCH: Any = {"backend": "torch", "device": "cpu"}


def matrix(rows: int, columns: int) -> SimilarityMatrix:
    values = np.random.default_rng(0).uniform(-0.8, 1, (rows, columns)).astype(np.float32)
    times = [np.stack([np.arange(n), np.arange(n) + 1], axis=1).astype(float) for n in (rows, columns)]
    return SimilarityMatrix(values, *times)


def seeded(build: Callable[[], Any], seed: int) -> Any:
    """A network with random weights of a seed."""
    torch.manual_seed(seed)
    network = build()
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape)
    return network.eval()


def fold_files(folder: Path, kind: str) -> list[str]:
    """Two light networks with other weights each."""
    build, save = {
        "aligner": (build_aligner_network, save_aligner),
        "classifier": (build_pair_classifier, save_pair_classifier),
    }[kind]
    return [str(save(seeded(build, seed), folder / f"{kind}{seed}.safetensors")) for seed in (1, 2)]


def canvases(values: np.ndarray) -> Tensor:
    """A matrix and its transpose as the published classifier takes them."""
    canvas = torch.zeros(2, 3, 160, 160)
    canvas[0, :, : values.shape[0], : values.shape[1]] = torch.from_numpy(values)
    canvas[1] = canvas[0].transpose(1, 2)
    return canvas


def published_classifier(folder: Path) -> tuple[Path, nn.Module]:
    """A classifier of the published class whose answers differ for matrices near `matrix(20, 30)`, and its file."""
    network = seeded(lambda: timm.create_model("mobilenetv3_small_100", num_classes=2), 1)
    with torch.inference_mode():
        network.classifier.weight *= 20
        network.classifier.bias -= network(canvases(matrix(20, 30).values)).mean(dim=0)
    path = folder / "cls.pth"
    torch.save({f"model.{name}": value for name, value in network.state_dict().items()}, path)
    return path, network


def test_the_heat_map_of_folds_is_the_mean_of_theirs(tmp_path: Path):
    first, second = fold_files(tmp_path, "aligner")
    values = matrix(20, 30).values
    apart = [NetworkAligner(each, **ON_TORCH).heat_map(values) for each in (first, second)]
    assert np.abs(apart[0] - apart[1]).max() > 1e-3
    np.testing.assert_allclose(NetworkAligner(first, folds=[second], **ON_TORCH).heat_map(values), sum(apart) / 2)


def test_the_probability_of_folds_is_the_mean_of_theirs(tmp_path: Path):
    first, second = fold_files(tmp_path, "classifier")
    pairs = [matrix(20, 30)]
    apart = [PairFilter(each, **ON_TORCH).probability(pairs) for each in (first, second)]
    assert apart[0] != apart[1]
    together = PairFilter(first, folds=[second], threshold=0.25, **ON_TORCH)
    np.testing.assert_allclose(together.probability(pairs), sum(apart) / 2, rtol=1e-5)
    assert together.threshold == 0.25


def test_folds_and_the_threshold_are_settings_and_their_files_are_known(tmp_path: Path):
    (aligner, aligner2), (pair, pair2) = fold_files(tmp_path, "aligner"), fold_files(tmp_path, "classifier")
    settings = AlignmentSettings(
        model=aligner, model_folds=(aligner2,), pair_filter=pair, pair_filter_folds=(pair2,), pair_threshold=0.0005
    )
    loaded = load_aligner(settings, DescriptorSettings(**ON_TORCH))
    assert isinstance(loaded, FilteringAligner)
    assert loaded.filter.threshold == 0.0005
    assert loaded.filter.digest == PairFilter(pair, folds=[pair2], **ON_TORCH).digest
    assert list(model_digests(settings)) == ["aligner", "aligner 2", "pair_filter", "pair_filter 2"]
    assert len(set(model_digests(settings).values())) == 4


def test_a_published_classifier_gives_the_larger_softmax_of_a_matrix_and_its_transpose(tmp_path: Path):
    path, network = published_classifier(tmp_path)
    pair = matrix(20, 30)
    with torch.inference_mode():
        expected = network(canvases(pair.values)).softmax(dim=1)[:, 1]
    assert abs(expected[0] - expected[1]) > 1e-3
    found = PairFilter(str(path), **ON_TORCH)
    np.testing.assert_allclose(found.probability([pair]), [expected.max()], atol=1e-5)
    assert found.threshold == 0.0


def test_classifiers_of_two_kinds_are_no_folds(tmp_path: Path):
    path, _ = published_classifier(tmp_path)
    with pytest.raises(ConfigError, match="pair_filter_folds are of other kinds"):
        PairFilter(str(path), folds=fold_files(tmp_path, "classifier")[:1], **ON_TORCH)


def test_a_published_aligner_gives_the_softmax_of_its_two_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models.configs, "PUBLISHED_CANVAS", 32)  # it takes a second instead of a minute
    torch.manual_seed(0)
    original: Any = timm.create_model("hrnet_w18", features_only=True, feature_location="", out_indices=(0, 1, 2, 3, 4))
    original.conv1.stride = original.conv2.stride = (1, 1)
    fuse = nn.Sequential(nn.Conv2d(334, 64, 1), nn.ReLU(), nn.Conv2d(64, 2, 1))
    tensors = {f"model.{name}": value for name, value in original.eval().state_dict().items()}
    torch.save(tensors | {f"fuse.{name}": value for name, value in fuse.state_dict().items()}, tmp_path / "match.pth")
    values = torch.from_numpy(matrix(20, 30).values)
    canvas = functional.pad(values, (0, 2, 0, 12)).expand(1, 3, 32, 32)
    with torch.inference_mode():
        maps = original(canvas)
        joined = torch.cat([torch.kron(part, torch.ones(1, 1, *[32 // part.shape[-1]] * 2)) for part in maps], dim=1)
        expected: Tensor = fuse(joined).softmax(dim=1)[0, 1, :20, :30]
        found = load_aligner_network(tmp_path / "match.pth")(values[None, None]).sigmoid()[0, 0]
    assert expected.std() > 1e-4
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_weights_of_another_network_are_no_published_ones(tmp_path: Path):
    path, _ = published_classifier(tmp_path)
    with pytest.raises(ModelFileError, match="does not fit the published aligner, HRNet-W18: it lacks backbone"):
        load_aligner_network(path)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ModelFileError, match="does not fit the published pair classifier, mobilenetv3_small_100"):
        load_pair_classifier(tmp_path / "other.pth")
