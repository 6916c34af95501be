from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.transforms import InterpolationMode, Resize

from copytrace.errors import ConfigError, CopytraceError, InputError
from copytrace.features.descriptors import Descriptor, TorchDescriptor, load_descriptor
from copytrace.features.resize import resize_for_descriptor
from copytrace.runtime import WEIGHTS, read_graph
from models.configs import efficientnet_lite0, read_descriptor_config

SIZE = 96
GRAPH_NAME = f"descriptor-{read_descriptor_config(WEIGHTS / 'descriptor.safetensors').digest}-v1.onnx"
EXPORTS = int(os.environ.get("COPYTRACE_EXPORTS", "0"))
DESCRIBE_GREY = """
import sys, numpy
from copytrace.features.descriptors import load_descriptor
vector = load_descriptor(device="cpu").describe(numpy.full((1, 256, 256, 3), 90, "uint8"))
print(vector.shape, "torch" in sys.modules)
"""


def start(cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", DESCRIBE_GREY],
        env={**os.environ, "COPYTRACE_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def rival_starts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str, str]]]:
    """Two processes that found a damaged graph in the cache at once: the cache, and each one's exit code and output."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / GRAPH_NAME).write_bytes(b"cut short")
    processes = [start(cache), start(cache)]
    outputs = [process.communicate() for process in processes]
    return cache, [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


@pytest.fixture(scope="module")
def descriptor() -> Descriptor:
    return load_descriptor(device="cpu", input_size=SIZE)


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    samples = [getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")]
    samples += [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    return np.stack([resize_for_descriptor(sample, SIZE) for sample in samples])


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.sum(one.astype(np.float64) * other, axis=1)


def test_two_processes_that_find_no_whole_graph_both_end_well(rival_starts):
    cache, ends = rival_starts
    assert [(code, output.split(")")[0]) for code, output, _ in ends] == [(0, "(1, 256")] * 2, ends
    assert read_graph(cache / GRAPH_NAME) is not None
    assert [file.name for file in cache.glob("*.onnx")] == [GRAPH_NAME]


def test_a_damaged_graph_is_made_anew_once_with_a_warning(rival_starts):
    cache, ends = rival_starts
    warnings = "".join(errors for _, _, errors in ends)
    assert warnings.count(f"{cache / GRAPH_NAME} is damaged") == 1


def test_neither_a_first_start_nor_a_warm_one_imports_torch(rival_starts):
    cache, ends = rival_starts
    outputs = [output for _, output, _ in ends] + [start(cache).communicate()[0]]
    assert outputs == ["(1, 256) False\n"] * 3


def test_a_cache_that_cannot_be_written_is_an_error_that_names_the_setting(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COPYTRACE_CACHE", str(tmp_path / "file"))
    with pytest.raises(CopytraceError, match="set COPYTRACE_CACHE"):
        load_descriptor("imagenet", backend="onnx", input_size=SIZE)


def test_a_missing_onnxruntime_is_an_error_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CopytraceError, match=r"pip install 'copytrace\[cpu\]'"):
        load_descriptor("imagenet", backend="onnx")


@pytest.mark.parametrize(("model", "dimensions"), [("shipped", 256), ("imagenet", 1280)])
def test_torch_and_onnx_describe_photos_alike(model, dimensions, photos, device):
    if model == "imagenet" and not EXPORTS:
        pytest.skip("an export of ten seconds; left to make test-faults")
    one = load_descriptor(model, backend="onnx", input_size=SIZE)
    other = load_descriptor(model, backend="torch", device=device, input_size=SIZE)
    np.testing.assert_allclose(cosines(one.describe(photos), other.describe(photos)), 1.0, atol=1e-3)
    assert (other.digest, other.dimensions, other.input_size) == (one.digest, dimensions, SIZE)


def test_the_network_of_imagenet_is_another_one_than_that_which_ships(descriptor, photos):
    other = load_descriptor("imagenet", backend="torch", device="cpu", input_size=SIZE)
    assert other.digest != descriptor.digest
    np.testing.assert_allclose(np.linalg.norm(other.describe(photos), axis=1), 1.0, atol=1e-5)
    assert (other.name, other.dimensions, other.input_size) == ("efficientnet_lite0", 1280, SIZE)


def test_vectors_are_float32_of_unit_length(descriptor, photos):
    vectors = descriptor.describe(photos)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
def test_neither_threads_nor_batch_size_change_a_vector(descriptor, photos, threads):
    many = np.concatenate([photos, photos[:, :, ::-1], photos[::-1]])
    found = load_descriptor(backend="onnx", threads=threads, input_size=SIZE).describe(many)
    one_by_one = np.concatenate([descriptor.describe(picture[None]) for picture in many])
    np.testing.assert_allclose(found, one_by_one, atol=1e-6)


def test_an_edited_photo_is_nearer_to_its_original_than_any_other_photo(descriptor, photos):
    edited = np.clip(photos[:, 6:-6, 6:-6].astype(int) + 25, 0, 255).astype(np.uint8)
    queries = descriptor.describe(np.stack([resize_for_descriptor(picture, SIZE) for picture in edited]))
    similarity = queries @ descriptor.describe(photos).T
    assert similarity.argmax(axis=1).tolist() == [0, 1, 2, 3, 4, 5]


def test_no_pictures_give_no_vectors(descriptor, device):
    nothing = np.empty((0, SIZE, SIZE, 3), np.uint8)
    by_torch = load_descriptor(backend="torch", device=device, input_size=SIZE)
    assert descriptor.describe(nothing).shape == by_torch.describe(nothing).shape == (0, 256)


@pytest.mark.parametrize("batch", [np.zeros((1, SIZE, SIZE, 3), np.float32), np.zeros((1, 3, SIZE, SIZE), np.uint8)])
def test_a_batch_of_another_type_or_shape_is_refused(descriptor, batch):
    with pytest.raises(InputError, match="use the descriptor's resize"):
        descriptor.describe(batch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "sscd"}, r"no descriptor model at 'sscd': .*give imagenet, shipped, a file, .*models:/"),
        ({"backend": "tensorrt"}, "unknown backend 'tensorrt'"),
        ({"backend": "onnx", "device": "cuda"}, "set backend to torch"),
        ({"backend": "torch", "device": "gpu"}, "torch has no device 'gpu' here"),
        ({"backend": "torch", "device": "cuda:99"}, "torch has no device 'cuda:99' here"),
        ({"input_size": 31}, "input_size is 31"),
        ({"threads": -1}, "threads is -1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_with_the_cure(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_descriptor(**settings)


def test_a_batch_too_large_for_the_memory_is_halved_until_it_fits(photos, caplog):
    descriptor = TorchDescriptor(efficientnet_lite0(SIZE), device="cpu")
    whole = descriptor.describe(photos)
    sizes: list[int] = []

    def hold_two(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        sizes.append(len(inputs[0]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("three pictures do not fit")

    descriptor.network.register_forward_pre_hook(hold_two)
    with caplog.at_level(logging.WARNING, "copytrace"):
        np.testing.assert_allclose(descriptor.describe(photos[:5]), whole[:5], atol=1e-6)
    assert sizes == [5, 2, 2, 1]
    assert "ran out of memory at 5 pictures; continuing with 2" in caplog.text


def test_a_single_picture_that_does_not_fit_is_an_error_with_the_cure(photos):
    descriptor = TorchDescriptor(efficientnet_lite0(SIZE), device="cpu")

    def hold_nothing(*_: object) -> None:
        raise torch.OutOfMemoryError("nothing fits")

    descriptor.network.register_forward_pre_hook(hold_nothing)
    with pytest.raises(CopytraceError, match="too little free memory for one picture of 96 pixels"):
        descriptor.describe(photos)


def test_what_a_network_raises_of_a_batch_is_told_in_one_line(photos):
    descriptor = TorchDescriptor(efficientnet_lite0(SIZE), device="cpu")

    def refuse(*_: object) -> None:
        raise RuntimeError(
            "Traceback of TorchScript:\n  File serialized.py, line 3\n\nAssertionError: no more than two\n"
        )

    descriptor.network.register_forward_pre_hook(refuse)
    with pytest.raises(
        CopytraceError, match=r"^the descriptor .* pictures: AssertionError: no more than two; check it"
    ):
        descriptor.describe(photos)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_small_share_of_cuda_memory_gives_the_same_vectors(photos):
    descriptor = TorchDescriptor(efficientnet_lite0(SIZE), device="cuda")
    batch = np.tile(photos, (40, 1, 1, 1))
    plenty = descriptor.describe(batch)
    torch.cuda.empty_cache()
    share = (torch.cuda.memory_reserved() + 64 * 2**20) / torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        scarce = descriptor.describe(batch)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert descriptor.largest_batch < 240
    np.testing.assert_allclose(cosines(plenty, scarce), 1.0, atol=1e-3)


def test_resizing_ignores_the_aspect_and_gives_the_wanted_square():
    assert resize_for_descriptor(np.zeros((30, 500, 3), np.uint8), 64).shape == (64, 64, 3)


def test_shrinking_averages_what_it_covers():
    columns = np.tile(np.array([0, 200], np.uint8)[None, :, None], (128, 64, 3))
    assert np.unique(resize_for_descriptor(columns, 64)).tolist() == [100]


def test_a_side_that_shrinks_does_not_alias_because_the_other_grows():
    columns = np.tile(np.array([0, 200], np.uint8)[None, :, None], (8, 64, 3))
    assert np.unique(resize_for_descriptor(columns, 64)).tolist() == [100]


@pytest.mark.parametrize("interpolation", ["area", "bicubic"])
def test_a_picture_of_the_wanted_size_is_kept(interpolation):
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_for_descriptor(picture, 64, interpolation), picture)


def test_bicubic_is_what_torchvision_makes_of_a_pillow_image():
    picture = np.random.default_rng(0).integers(0, 256, (90, 40, 3), dtype=np.uint8)
    theirs = Resize([64, 64], InterpolationMode.BICUBIC)(Image.fromarray(picture))
    np.testing.assert_array_equal(resize_for_descriptor(picture, 64, "bicubic"), np.asarray(theirs))


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_not_a_picture_is_not_resized(pixels):
    with pytest.raises(InputError, match=r"uint8 \[H, W, 3\]"):
        resize_for_descriptor(pixels, 64)
