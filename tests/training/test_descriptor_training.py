from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from configs.training import DescriptorTraining
from copytrace.errors import ConfigError
from copytrace.features.descriptors import load_descriptor
from copytrace.runtime import WEIGHTS
from copytrace.storage import remove_tree, resolve_path
from copytrace.training.descriptor import choose_whitening, train_descriptor, typical_noise
from copytrace.training.descriptor_validation import ValidationSet, describe
from copytrace.training.export import export_weights
from copytrace.training.initial_descriptor import fit_pca_layer, initial_network
from copytrace.training.log import read_history
from copytrace.training.photos import PhotoSplit
from copytrace.training.training_result import read_result
from models.configs import IMAGENET_MEAN, IMAGENET_STD, read_header
from models.descriptor import DescriptorNetwork, timm_backbone
from models.network_files import load_descriptor_file

Pixels = NDArray[np.uint8]
ARCHITECTURE = "test_efficientnet"
Settings = Callable[..., DescriptorTraining]

pytestmark = pytest.mark.usefixtures("one_thread")


class Pictures:
    """Remembers what a training shows and tells."""

    def __init__(self) -> None:
        self.shown: dict[str, Pixels] = {}
        self.told: list[tuple[int, dict[str, float]]] = []

    def metrics(self, values: Mapping[str, float], epoch: int) -> None:
        self.told.append((epoch, dict(values)))

    def picture(self, name: str, pixels: Pixels, epoch: int) -> None:
        self.shown[name] = pixels


@pytest.fixture(scope="module")
def trained(
    source: str, tmp_path_factory: pytest.TempPathFactory, settings_of: Settings, one_thread: None
) -> tuple[Path, Pictures]:
    out, log = tmp_path_factory.mktemp("run") / "out", Pictures()
    assert train_descriptor(source, out, settings_of(whitening="off"), log) == out / "descriptor.safetensors"
    return out, log


def test_the_file_that_training_leaves_describes_as_the_trained_network_does(
    trained: tuple[Path, Pictures], validation: ValidationSet
) -> None:
    out, _ = trained
    backbone = timm_backbone(ARCHITECTURE)
    kept = DescriptorNetwork(backbone, mean=IMAGENET_MEAN, std=IMAGENET_STD, projection=nn.Linear(256, 16)).eval()
    kept.load_state_dict(torch.load(out / "checkpoint.pt", weights_only=True)["position"]["best"]["network"])
    found = load_descriptor(str(out), backend="torch", device="cpu")
    assert (found.dimensions, found.input_size) == (16, 48)
    np.testing.assert_allclose(found.describe(validation.copies), describe(kept, validation.copies), atol=3e-3)
    assert found.typical_noise == read_header(out / "descriptor.safetensors", "descriptor")["typical_noise"]
    assert found.typical_noise is not None
    assert -1 <= found.typical_noise <= 1


def test_training_into_a_store_leaves_the_same_network_which_another_training_and_matching_take_up(
    trained: tuple[Path, Pictures],
    source: str,
    split: PhotoSplit,
    settings_of: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COPYTRACE_CACHE", str(tmp_path))
    out = resolve_path("memory://training/out")
    weights = train_descriptor(source, str(out), settings_of(whitening="off"))
    assert weights == out / "descriptor.safetensors"
    assert {path.name for path in out.iterdir()} == {path.name for path in trained[0].iterdir()}
    there, here = load_file(weights), load_file(trained[0] / "descriptor.safetensors")
    assert there.keys() == here.keys()
    assert all(torch.equal(there[name], here[name]) for name in here)
    assert read_result(out).metrics == read_result(trained[0]).metrics
    assert load_descriptor(str(out), backend="torch", device="cpu").dimensions == 16
    continued = initial_network(settings_of(start=str(weights)), split).state_dict()
    assert continued["projection.weight"].shape == (16, 256)
    remove_tree(out)


def test_weights_in_a_store_get_their_graph_beside_them() -> None:
    # Those of a network whose graph ships: to trace another takes seconds, and is the subject of the training flow.
    weights = resolve_path("memory://exported/pair-classifier.safetensors")
    weights.write_bytes((WEIGHTS / "pair_classifier.safetensors").read_bytes())
    graph = export_weights("pair-classifier", weights)
    assert graph == weights.with_suffix(".onnx")
    assert graph.is_file()
    remove_tree(weights.parent)


def load_file(path: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(path.read_bytes())


def test_training_leaves_its_figures_a_card_and_pictures(
    trained: tuple[Path, Pictures], split: PhotoSplit, validation: ValidationSet
) -> None:
    out, log = trained
    outcome = read_result(out)
    assert outcome == outcome.__class__(**json.loads((out / "result.json").read_text()))
    assert set(outcome.metrics) == {"micro_ap", "recall_at_p90", "top1"}
    assert outcome.metrics["micro_ap"] == max(values["micro_ap"] for _, values in log.told)
    assert (outcome.images, outcome.validation_images) == (len(split.train), len(split.validation))
    assert (outcome.dataset_digest, outcome.validation_digest) == (split.digest, validation.digest)
    assert outcome.device == "cpu"
    notes = read_header(out / "descriptor.safetensors", "descriptor")["notes"]
    assert notes == {
        name: value for name, value in json.loads((out / "result.json").read_text()).items() if name in notes
    }
    assert f"{outcome.metrics['micro_ap']:.4f}" in (out / "README.md").read_text()
    assert [epoch for epoch, _ in log.told] == [line["epoch"] for line in read_history(out / "history.jsonl")] == [1, 2]
    assert log.shown["views"].shape == (8 * 32, 2 * 32, 3)
    assert log.shown["mistakes"].shape[1:] == (3 * 48, 3)
    assert log.shown["mistakes"].dtype == np.uint8


def test_a_finished_training_called_again_gives_the_same_bytes(
    trained: tuple[Path, Pictures], source: str, settings_of: Settings
) -> None:
    out, _ = trained
    names = ("descriptor.safetensors", "result.json", "README.md", "history.jsonl")
    before = {name: (out / name).read_bytes() for name in names}
    train_descriptor(source, out, settings_of(whitening="off"))
    assert {name: (out / name).read_bytes() for name in names} == before


def test_settings_that_change_the_speed_alone_may_change_when_a_run_goes_on(
    trained: tuple[Path, Pictures], source: str, tmp_path: Path, settings_of: Settings
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes((trained[0] / "checkpoint.pt").read_bytes())
    train_descriptor(source, tmp_path, settings_of(whitening="off", loop={"workers": 3, "checkpoint_minutes": 1}))
    assert read_result(tmp_path).metrics == read_result(trained[0]).metrics


def test_a_folder_of_another_run_is_refused(trained: tuple[Path, Pictures], source: str, settings_of: Settings) -> None:
    with pytest.raises(ConfigError, match="belongs to a run with other settings or data"):
        train_descriptor(source, trained[0], settings_of(whitening="off", temperature=0.1))


def test_whitening_is_fitted_and_stored_where_it_is_on(
    source: str, tmp_path: Path, validation: ValidationSet, settings_of: Settings
) -> None:
    path = train_descriptor(source, tmp_path, settings_of(whitening="on", loop={"epochs": 1}))
    network = load_descriptor_file(path)
    assert network.whitening is not None
    measured = validation.metrics(network)
    assert read_result(tmp_path).metrics["micro_ap"] == pytest.approx(measured["micro_ap"], abs=0.05)


@pytest.mark.parametrize(
    ("whitening", "before", "kept"), [("off", 0.0, False), ("on", 1.0, True), ("auto", 0.0, True), ("auto", 1.0, False)]
)
def test_whitening_is_kept_if_so_set_or_if_it_validates_better(
    whitening: str, before: float, kept: bool, split: PhotoSplit, validation: ValidationSet, settings_of: Settings
) -> None:
    settings = settings_of(whitening=whitening)
    network = initial_network(settings, split).eval()
    features = describe(network, validation.references)
    found, metrics = choose_whitening(network, settings, features, validation, {"micro_ap": before})
    assert (found.whitening is not None) == kept
    assert metrics == (validation.metrics(found) if kept else {"micro_ap": before})


def test_the_noise_level_is_the_mean_cosine_to_the_nearest_photos_learned_from(
    split: PhotoSplit, validation: ValidationSet, settings_of: Settings
) -> None:
    network = initial_network(settings_of(), split).eval()
    features = describe(network, validation.references)
    cosines = np.sort(describe(network, validation.copies) @ features.T, axis=1)[:, -10:]
    assert typical_noise(network, features, validation) == pytest.approx(cosines.mean(), abs=1e-4)
    network.whitening = fit_pca_layer(features, 16, whiten=True)
    whitened = np.sort(describe(network, validation.copies) @ describe(network, validation.references).T, axis=1)
    assert typical_noise(network, features, validation) == pytest.approx(whitened[:, -10:].mean(), abs=1e-4)


def test_a_random_start_freezes_nothing(
    trained: tuple[Path, Pictures], split: PhotoSplit, settings_of: Settings
) -> None:
    before = initial_network(settings_of(), split).backbone.state_dict()
    after = torch.load(trained[0] / "checkpoint.pt", weights_only=True)["module"]
    assert not torch.equal(after["network.backbone.conv_stem.weight"], before["conv_stem.weight"])


def test_training_goes_on_from_an_earlier_file(
    trained: tuple[Path, Pictures], source: str, split: PhotoSplit, tmp_path: Path, settings_of: Settings
) -> None:
    earlier = trained[0] / "descriptor.safetensors"
    settings = settings_of(start=str(earlier), loop={"epochs": 1})
    before, started = load_descriptor_file(earlier), initial_network(settings, split)
    assert started.whitening is None
    for name, value in before.state_dict().items():
        assert torch.equal(started.state_dict()[name], value), name
    after = load_descriptor_file(train_descriptor(source, tmp_path, settings))
    assert not torch.equal(after.projection.weight, before.projection.weight)
    assert torch.equal(after.backbone.conv_stem.weight, before.backbone.conv_stem.weight)  # frozen, as it was learned
