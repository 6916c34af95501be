from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.configs import IMAGENET_MEAN, IMAGENET_STD, DescriptorConfig, ModelFileError
from models.torchscript import check_torchscript, load_torchscript

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")

CPU = torch.device("cpu")
SIZE = 48


class LikeSSCD(nn.Module):
    """SSCD's shape: a backbone, GeM pooling, a linear projection; `sort` chooses what comes out."""

    def __init__(self, dimensions: int = 32, sort: str = "vectors") -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 24, 3, stride=2))
        self.embeddings = nn.Linear(24, dimensions)
        self.sort = sort

    def forward(self, x: Tensor) -> Tensor:
        features = self.backbone(x)
        if self.sort == "map":
            return features
        vectors = self.embeddings(features.clamp(min=1e-6).pow(3.0).mean(dim=(2, 3)).pow(1.0 / 3.0))
        if self.sort == "nan":
            return vectors / 0.0 * 0.0
        if self.sort == "one":
            return vectors[:1]
        return functional.normalize(vectors) * 7.0


def network_of(sort: str = "vectors") -> LikeSSCD:
    torch.manual_seed(0)
    return LikeSSCD(sort=sort).eval()


def config_of(path: Path) -> DescriptorConfig:
    return DescriptorConfig(
        name="sscd",
        architecture="torchscript",
        weights=path,
        dimensions=None,
        input_size=SIZE,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        storage="torchscript",
    )


def scripted(path: Path, sort: str = "vectors") -> DescriptorConfig:
    torch.jit.script(network_of(sort)).save(path)
    return config_of(path)


def traced(path: Path) -> DescriptorConfig:
    torch.jit.trace(network_of(), torch.zeros(1, 3, 64, 64)).save(path)
    return config_of(path)


@pytest.mark.parametrize("made", [scripted, traced])
def test_scripted_and_traced_networks_give_unit_vectors_of_normalised_pixels(made, tmp_path):
    network = load_torchscript(made(tmp_path / "sscd.torchscript.pt"), CPU)
    images = torch.randint(0, 256, (3, SIZE, SIZE, 3), dtype=torch.uint8)
    pixels = images.permute(0, 3, 1, 2) / 255.0
    normalised = (pixels - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    with torch.inference_mode():
        vectors = network(images)
        torch.testing.assert_close(vectors * 7.0, network_of()(normalised))
    assert vectors.shape == (3, 32) == (3, network.dimensions)


@pytest.mark.parametrize(
    ("sort", "message"),
    [("map", r"gives \[2, 24, \d+, \d+\]"), ("one", r"gives \[1, 32\]"), ("nan", "gives values that are not finite")],
)
def test_a_network_that_describes_nothing_is_refused(sort, message, tmp_path):
    with pytest.raises(ModelFileError, match=message):
        load_torchscript(scripted(tmp_path / "other.pt", sort), CPU)


def test_an_input_size_that_the_network_cannot_take_is_refused_in_one_line(tmp_path):
    config = replace(scripted(tmp_path / "sscd.pt"), input_size=4)
    with pytest.raises(ModelFileError, match=r"does not describe float32 \[2, 3, 4, 4\].*set input_size") as caught:
        load_torchscript(config, CPU)
    assert "\n" not in str(caught.value)


def test_a_pickled_checkpoint_is_refused_and_not_loaded(tmp_path):
    torch.save(network_of(), tmp_path / "sscd.torchscript.pt")
    with pytest.raises(ModelFileError, match=r"a pickled checkpoint, which is not loaded.*give the network's torchscr"):
        load_torchscript(config_of(tmp_path / "sscd.torchscript.pt"), CPU)


def test_an_archive_cut_short_is_refused(tmp_path):
    path = scripted(tmp_path / "sscd.pt").weights
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ModelFileError, match=r"not a whole zip archive.*download it again"):
        check_torchscript(path)


def test_an_archive_that_torch_cannot_read_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "sscd.pt", "w") as archive:
        for name in ("constants.pkl", "data.pkl", "code/__torch__.py"):
            archive.writestr(f"sscd/{name}", "nothing")
    with pytest.raises(ModelFileError, match=r"cannot be loaded.*download it again"):
        load_torchscript(config_of(tmp_path / "sscd.pt"), CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("made", [scripted, traced])
def test_cuda_gives_the_vectors_of_the_cpu(made, tmp_path):
    config = made(tmp_path / "sscd.pt")
    images = torch.randint(0, 256, (3, SIZE, SIZE, 3), dtype=torch.uint8)
    with torch.inference_mode(), torch.autocast("cuda", torch.float16):
        found = load_torchscript(config, torch.device("cuda"))(images.to("cuda")).cpu()
    with torch.inference_mode():
        torch.testing.assert_close(found, load_torchscript(config, CPU)(images), atol=1e-3, rtol=0)
