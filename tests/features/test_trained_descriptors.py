"""`load_descriptor` with models from files: Copytrace's own safetensors, and TorchScript."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from configs.images import ImageSettings
from copytrace.errors import ConfigError, CopytraceError, ModelMismatchError
from copytrace.features.descriptors import OnnxDescriptor, TorchDescriptor, load_descriptor
from copytrace.features.resize import resize_for_descriptor
from copytrace.images import check_images, index_images
from copytrace.runtime import WEIGHTS
from models import export, onnx_graphs
from models.descriptor import DescriptorNetwork, timm_backbone
from models.network_files import save_descriptor
from models.onnx_graphs import Trace

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")

SIZE = 64
HALF = (0.5, 0.5, 0.5)


class Pooled(nn.Module):
    """A convolution, GeM and a projection, as SSCD's networks end."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 3, stride=4)
        self.embeddings = nn.Linear(8, 512)

    def forward(self, x: Tensor) -> Tensor:
        return self.embeddings(self.backbone(x).clamp(min=1e-6).pow(3.0).mean(dim=(2, 3)).pow(1.0 / 3.0))


def saved(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    backbone = timm_backbone("test_efficientnet")
    network = DescriptorNetwork(backbone, mean=HALF, std=HALF, projection=nn.Linear(backbone.num_features, 24))
    return save_descriptor(network, path, architecture="test_efficientnet", input_size=SIZE)


def scripted(path: Path) -> Path:
    torch.manual_seed(0)
    torch.jit.script(Pooled().eval()).save(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model") / "descriptor.safetensors")


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)


def test_a_trained_model_describes_alike_by_onnx_and_torch(photos):
    # The model that ships, as a folder of the user's: its graph is needed by other tests too.
    onnx, by_torch = (load_descriptor(str(WEIGHTS), backend=name, device="cpu") for name in ("onnx", "torch"))
    assert isinstance(onnx, OnnxDescriptor)
    assert (onnx.name, onnx.dimensions, onnx.input_size) == ("descriptor", 256, 256)
    assert (onnx.digest, onnx.dimensions, onnx.input_size) == (by_torch.digest, by_torch.dimensions, 256)
    pictures = np.stack([resize_for_descriptor(photo, 256) for photo in photos.values()])
    np.testing.assert_allclose(onnx.describe(pictures), by_torch.describe(pictures), atol=1e-4)


def test_a_trained_model_tells_its_name_and_sizes(model):
    found = load_descriptor(str(model), backend="torch", device="cpu")
    assert (found.name, found.dimensions, found.input_size) == ("descriptor", 24, SIZE)


def test_another_input_size_is_another_model(model):
    other = load_descriptor(str(model), backend="torch", device="cpu", input_size=96)
    assert other.input_size == 96
    assert other.digest != load_descriptor(str(model), backend="torch", device="cpu").digest


def test_the_untrained_network_looks_at_256_pixels_by_default():
    assert load_descriptor(backend="torch", device="cpu").input_size == 256


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_torchscript_runs_by_torch_at_the_size_of_sscd(backend, tmp_path):
    file = scripted(tmp_path / "sscd_disc.torchscript.pt")
    found = load_descriptor(str(file), backend=backend, device="cpu", trust_torchscript=True)
    assert isinstance(found, TorchDescriptor)
    assert (found.name, found.dimensions, found.input_size) == ("sscd_disc", 512, 288)
    vectors = found.describe(np.random.default_rng(0).integers(0, 256, (3, 288, 288, 3), dtype=np.uint8))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_torchscript_by_onnx_is_refused_with_the_cure(tmp_path):
    with pytest.raises(ConfigError, match="is TorchScript, which onnx does not run; set backend to auto or torch"):
        load_descriptor(str(scripted(tmp_path / "sscd.pt")), backend="onnx")


class Writer(torch.nn.Module):
    """A descriptor that writes a file beside itself."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        written = torch.from_file(self.path, shared=True, size=4).fill_(1.0)
        return pixels.mean(dim=(2, 3)) * written[0]


def test_torchscript_that_would_write_a_file_is_refused_before_it_runs(tmp_path):
    written = tmp_path / "written"
    torch.jit.script(Writer(str(written))).save(str(tmp_path / "writer.pt"))
    with pytest.raises(ConfigError, match=r"writer.pt is TorchScript, a program .*; if you trust its maker, set"):
        load_descriptor(str(tmp_path / "writer.pt"), device="cpu")
    assert not written.exists()
    load_descriptor(str(tmp_path / "writer.pt"), device="cpu", trust_torchscript=True)
    assert written.exists()  # that is what the refusal is for


def test_a_checkpoint_is_refused_whatever_its_name(tmp_path):
    torch.save(Pooled().state_dict(), tmp_path / "descriptor.safetensors")
    with pytest.raises(ConfigError, match="not TorchScript but a pickled checkpoint"):
        load_descriptor(str(tmp_path), backend="torch")


def test_a_model_cut_short_is_refused_before_any_work(model, tmp_path):
    (tmp_path / "descriptor.safetensors").write_bytes(model.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="is not a whole safetensors file"):
        load_descriptor(str(tmp_path))


def test_a_network_that_cannot_be_exported_is_an_error_that_names_the_other_backend(model, tmp_path, monkeypatch):
    monkeypatch.setenv("COPYTRACE_CACHE", str(tmp_path))
    nothing = np.full((3, 24), np.nan, np.float32)  # what a network gives whose weights overflow
    monkeypatch.setattr(export, "trace_onnx", lambda *_, **__: Trace(b"graph", {}, (), [nothing]))
    monkeypatch.setattr(onnx_graphs, "run_onnx", lambda graph, inputs, outputs: [nothing])
    told = r"descriptor-.* cannot be exported to ONNX: .* differs from torch by nan.*set descriptor.backend to torch"
    with pytest.raises(CopytraceError, match=told):
        load_descriptor(str(model), backend="onnx", device="cpu")
    assert not list(tmp_path.glob("*.onnx"))


def test_an_index_of_one_model_is_not_searched_with_another(
    tmp_path: Path, photos: dict[str, np.ndarray], write_photos: Callable[..., Path], image_settings: ImageSettings
) -> None:
    folder = write_photos(tmp_path / "photos", photos)

    def with_model(seed: int) -> ImageSettings:
        path = saved(tmp_path / f"model-{seed}" / "descriptor.safetensors", seed)
        update = {"model": str(path), "backend": "torch", "device": "cpu", "input_size": SIZE}
        return image_settings.model_copy(update={"descriptor": image_settings.descriptor.model_copy(update=update)})

    one, other = with_model(1), with_model(2)
    index_images(folder, tmp_path / "index", one)
    check_images(one, [tmp_path / "index"])
    with pytest.raises(ModelMismatchError, match="index it again, or choose its model"):
        check_images(other, [tmp_path / "index"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("made", "size"), [(saved, SIZE), (scripted, 288)])
def test_cuda_gives_nearly_the_vectors_of_the_cpu(made, size, tmp_path):
    path = str(made(tmp_path / "model.pt"))
    pictures = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    vectors = [load_descriptor(path, backend="torch", device=name).describe(pictures) for name in ("cpu", "cuda")]
    np.testing.assert_allclose(np.sum(vectors[0] * vectors[1], axis=1), 1.0, atol=1e-3)
