"""Checks of the networks on a GPU: torch and ONNX Runtime beside ONNX Runtime on the CPU, memory, and speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_check import Check, Finding, Target, UnavailableError
from benchmarks.published_networks import NETWORKS, write_random
from copytrace.alignment.networks import NetworkAligner, PairFilter
from copytrace.alignment.segments import SimilarityMatrix
from copytrace.arrays import Floats
from copytrace.features.descriptors import TorchDescriptor, descriptor_graph, load_descriptor
from copytrace.features.resize import resize_for_descriptor
from copytrace.media.decode import decode_image
from copytrace.overlays.boxes import Box
from copytrace.overlays.detectors import load_overlay_detector
from copytrace.runtime import WEIGHTS, import_onnxruntime
from copytrace.synthesis.sample_photos import sample_photos
from models.configs import read_descriptor_config
from models.export import DESCRIPTOR_OUTPUT, INPUT

Pixels = NDArray[np.uint8]

# On a GPU, autocast to float16 and TF32 in convolutions round to 11 bits, so that results differ a little.
LEAST_COSINE, MOST_PROBABILITY, LEAST_IOU = 0.999, 0.02, 0.9


@cache
def sample_pictures() -> list[Pixels]:
    """Return the sample photos, decoded, uint8 [H, W, 3]."""
    return [decode_image(str(photo.path), short_side=480).pixels for photo in sample_photos()]


def descriptor(target: Target) -> Iterator[Finding]:
    """Compare the vectors of the descriptor that ships."""
    here, there = load_descriptor(backend="torch", device=target.device), load_descriptor(backend="onnx", device="cpu")
    batch = np.stack([here.resize(picture) for picture in sample_pictures()])
    yield Finding(
        "least cosine of a picture's two vectors",
        _least_cosine(here.describe(batch), there.describe(batch)),
        LEAST_COSINE,
    )


def published_descriptors(target: Target) -> Iterator[Finding]:
    """Compare networks of the shapes of the challenges' winners, with random weights."""
    for number, (name, network) in enumerate(NETWORKS.items()):
        spec = str(write_random(network, target.work / f"published-{number}"))
        here, there = (load_descriptor(spec, backend="torch", device=device) for device in (target.device, "cpu"))
        batch = np.stack([here.resize(picture) for picture in sample_pictures()[:2]])
        yield Finding(f"{name}: least cosine", _least_cosine(here.describe(batch), there.describe(batch)), 0.99)


def overlay_detector(target: Target) -> Iterator[Finding]:
    """Compare the boxes of pictures pasted onto others."""
    here, there = (
        load_overlay_detector("network", backend=backend, device=device)
        for backend, device in (("torch", target.device), ("onnx", "cpu"))
    )
    assert here and there
    pairs = [(here.detect(picture)[0], there.detect(picture)[0]) for picture in pasted_pictures()]
    yield Finding("least IoU of the best boxes", min(a.iou(b) for a, b in pairs), LEAST_IOU)
    yield Finding("most difference of confidence", max(_gap(a, b) for a, b in pairs), most=2 * MOST_PROBABILITY)


def aligner(target: Target) -> Iterator[Finding]:
    """Compare heat maps, also of a matrix of several tiles."""
    here, there = NetworkAligner(backend="torch", device=target.device), NetworkAligner(backend="onnx", device="cpu")
    for rows, columns in ((40, 61), (70, 600)):
        values = matrix_with_copy(rows, columns).values
        difference = np.abs(here.heat_map(values) - there.heat_map(values)).max()
        yield Finding(f"{rows} x {columns} frames: most difference of heat", float(difference), most=MOST_PROBABILITY)


def pair_classifier(target: Target) -> Iterator[Finding]:
    """Compare probabilities of pairs."""
    here, there = PairFilter(backend="torch", device=target.device), PairFilter(backend="onnx", device="cpu")
    matrices = [matrix_with_copy(rows, 60, strength) for rows in (9, 44, 130) for strength in (0.0, 0.7)]
    difference = np.abs(here.probability(matrices) - there.probability(matrices)).max()
    yield Finding("most difference of probability", float(difference), most=MOST_PROBABILITY)


def onnx_on_gpu(target: Target) -> Iterator[Finding]:
    """Compare the descriptor's graph by ONNX Runtime on CUDA; Copytrace itself runs graphs on the CPU only."""
    target.require_gpu()
    runtime = import_onnxruntime()
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        raise UnavailableError("onnxruntime-gpu is not installed")
    if hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()  # CUDA's libraries in torch's packages
    graph = descriptor_graph(read_descriptor_config(WEIGHTS / "descriptor.safetensors", None))
    there = load_descriptor(backend="onnx", device="cpu")
    batch = np.stack([there.resize(picture) for picture in sample_pictures()])
    options = {"device_id": "0", "use_tf32": "0"}
    session = runtime.InferenceSession(graph, providers=[("CUDAExecutionProvider", options), "CPUExecutionProvider"])
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise UnavailableError("onnxruntime-gpu finds no fitting CUDA")
    (vectors,) = session.run([DESCRIPTOR_OUTPUT], {INPUT: batch})
    yield Finding("least cosine of a picture's two vectors", _least_cosine(vectors, there.describe(batch)), 0.9999)


def out_of_memory(target: Target) -> Iterator[Finding]:
    """Describe a batch with memory for a part of it: it must be halved, and give the same vectors."""
    target.require_gpu()
    model = TorchDescriptor(read_descriptor_config(WEIGHTS / "descriptor.safetensors", None), device=target.device)
    batch = np.stack([model.resize(picture) for picture in sample_pictures()])
    batch = np.tile(batch, (-(-model.largest_batch // len(batch)), 1, 1, 1))[: model.largest_batch]
    torch.cuda.reset_peak_memory_stats()
    whole, before = model.describe(batch), model.largest_batch
    needed = torch.cuda.max_memory_reserved() / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    try:
        torch.cuda.set_per_process_memory_fraction(needed / 2)
        halved = model.describe(batch)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    yield Finding("size of the batch, as a share of the first", model.largest_batch / before, 1 / 256, 0.5)
    yield Finding("least cosine of a picture's two vectors", _least_cosine(whole, halved), 0.9999)


def speed(target: Target) -> Iterator[Finding]:
    """Measure each network beside the product of matrices that the device computes in the same type."""
    half, full = (matrix_product(target, dtype) for dtype in (torch.float16, torch.float32))
    yield Finding("product of float16 matrices, TFLOP/s", half)
    yield Finding("product of float32 matrices, TFLOP/s", full)
    count = 256 if target.on_gpu else 4
    model = TorchDescriptor(read_descriptor_config(WEIGHTS / "descriptor.safetensors", None), device=target.device)
    batch = np.resize(
        np.stack([model.resize(each) for each in sample_pictures()]), (count, model.input_size, model.input_size, 3)
    )
    images = torch.from_numpy(batch[:1]).to(model.device)
    rate = count / seconds(lambda: model.describe(batch))
    yield from _beside(
        "descriptor, pictures/s", rate, flops(lambda: model.network(images)), half if target.on_gpu else full
    )
    network = NetworkAligner(backend="torch", device=target.device)
    values = matrix_with_copy(128, 128).values
    rate = 1 / seconds(lambda: network.heat_map(values))
    yield from _beside("aligner, matrices of 128 x 128/s", rate, flops(lambda: network.heat_map(values)), full)
    classifier, pair = PairFilter(backend="torch", device=target.device), matrix_with_copy(40, 40)
    yield Finding("pair classifier, pairs of 40 x 40/s", 1 / seconds(lambda: classifier.probability([pair])))
    detector = load_overlay_detector("network", backend="torch", device=target.device)
    assert detector
    yield Finding("overlay detector, pictures/s", 1 / seconds(lambda: detector.detect(pasted_pictures()[0])))


def _beside(what: str, rate: float, operations: float, limit: float) -> Iterable[Finding]:
    """Return a rate, and the share of the device's `limit` in TFLOP/s that its floating-point operations are."""
    return [
        Finding(what, rate),
        Finding(f"{what.partition(',')[0]}: share of the limit", rate * operations / limit / 1e12),
    ]


def matrix_product(target: Target, dtype: torch.dtype) -> float:
    """Return the TFLOP/s of a product of square matrices; those of float32 in TF32, as torch's convolutions are."""
    side = 8192 if target.on_gpu else 512
    matrix = torch.randn(side, side, device=target.device).to(dtype)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        return 2 * side**3 / seconds(lambda: matrix @ matrix) / 1e12
    finally:
        torch.set_float32_matmul_precision(before)


def seconds(work: Callable[[], object], rounds: int = 5) -> float:
    """Return the fewest seconds of `work`, after a first call that is not counted."""
    work()
    fewest = float("inf")
    for _ in range(rounds):
        _wait()
        begin = time.perf_counter()
        work()
        _wait()
        fewest = min(fewest, time.perf_counter() - begin)
    return fewest


def flops(work: Callable[[], object], *, training: bool = False) -> int:
    """Return the floating-point operations of the products and convolutions that torch runs in `work`."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode(not training):
        work()
    return int(counter.get_total_flops())


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def pasted_pictures() -> list[Pixels]:
    """Return sample photos with another one on each."""
    pictures = sample_pictures()[:6]
    pasted = []
    for back, inset in zip(pictures, pictures[1:] + pictures[:1], strict=True):
        side = min(back.shape[:2]) // 2
        canvas = back.copy()
        canvas[side // 3 : side // 3 + side, side // 2 : side // 2 + side] = resize_for_descriptor(inset, side)
        pasted.append(canvas)
    return pasted


def matrix_with_copy(rows: int, columns: int, strength: float = 0.8) -> SimilarityMatrix:
    """Return similarities of noise, with a diagonal of half the frames."""
    values = np.random.default_rng(rows).normal(0.05, 0.1, (rows, columns)).astype(np.float32)
    middle = np.arange(min(rows, columns) // 2)
    values[middle + rows // 4, middle + columns // 4] = strength
    return SimilarityMatrix(values, *(np.stack([np.arange(n), np.arange(n) + 1.0], axis=1) for n in (rows, columns)))


def _least_cosine(one: Floats, other: Floats) -> float:
    return float((one * other).sum(axis=1).min())


def _gap(one: Box, other: Box) -> float:
    return abs(one.confidence - other.confidence)


CHECKS: dict[str, Check] = {
    "descriptor": descriptor,
    "descriptors of the winners": published_descriptors,
    "overlay detector": overlay_detector,
    "aligner": aligner,
    "pair classifier": pair_classifier,
    "ONNX Runtime on CUDA": onnx_on_gpu,
    "too little memory": out_of_memory,
    "speed of networks": speed,
}
