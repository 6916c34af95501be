"""Time and memory of the networks of the two challenges' winners, with random weights, loaded as published ones are.

Each network has the published shapes, and its checkpoint the published names and wrappers.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import yaml
from torch import nn

from benchmarks.results import Row, Section
from copytrace.alignment.networks import NetworkAligner, PairFilter
from copytrace.alignment.segments import SimilarityMatrix
from copytrace.features.descriptors import load_descriptor
from copytrace.memory import peak_memory_mib
from models.configs import IMAGENET_MEAN, IMAGENET_STD
from models.descriptor import timm_backbone

BATCH = 4
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}
IMAGENET = {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}


@dataclass(frozen=True)
class Published:
    """A published network: its spec, its head, and what precedes the names of the backbone and of the head."""

    spec: Mapping[str, Any]
    head: Mapping[str, nn.Module]
    backbone: str
    prefix: str
    container: str


NETWORKS = {
    "imgFp: EsViT Swin-B/14": Published(
        {
            "architecture": "esvit_swin_base_patch4_window14_224",
            "pooling": "last_blocks",
            "input_size": 224,
            **IMAGENET,
        },
        {"head.linear": nn.Linear(3072, 256)},
        "module.",
        "module.",
        "model",
    ),
    "VSC2022: SwinV2-B, one of three": Published(
        {"architecture": "swinv2_base_window12to16_192to256", "input_size": 256, **HALF},
        {"output_proj": nn.Linear(1024, 512)},
        "module.backbone.",
        "module.backbone.",
        "state_dict",
    ),
    "VSC2022: ViT-B/32": Published(
        {"architecture": "vit_base_patch32_384", "pooling": "all_tokens", "input_size": 384, **HALF},
        {"embeddings.0.conv": nn.Conv1d(768, 2048, 1), "embeddings.1": nn.Linear(2048, 512)},
        "module.backbone.model.backbone.",
        "module.backbone.model.",
        "state_dict",
    ),
}


def measure(given: Sequence[Path], work: Path) -> list[Section]:
    """Measure each network by torch and by ONNX Runtime, in processes of their own, on one core."""
    rows = []
    for number, (name, network) in enumerate(NETWORKS.items()):
        spec = write_random(network, work / str(number))
        rows += [_row(f"{name}, {backend}", "descriptor", spec, backend, work) for backend in ("torch", "onnx")]
    for kind, name in (("classifier", "VSC2022: two MobileNetV3"), ("aligner", "VSC2022: two HRNet-W18")):
        rows.append(_row(f"{name}, torch", kind, write_folds(kind, work / kind), "torch", work))
    text = (
        f"Random weights in the published shapes, names and files, on one core. Descriptors get {BATCH} pictures at a "
        "time; the others a pair of 40 and 60 frames, with both folds, and its transpose. Loading for ONNX Runtime is "
        "that from its cached graph."
    )
    return [Section("Networks of the winners of both challenges", text, rows)]


def write_folds(kind: str, folder: Path) -> Path:
    """Write the state dicts of two folds of a network of alignment, and return their folder."""
    folder.mkdir(parents=True)
    for fold in (1, 2):
        if kind == "classifier":
            network: nn.Module = timm.create_model("mobilenetv3_small_100", num_classes=2)
            tensors = {}
        else:
            network = timm.create_model("hrnet_w18", features_only=True, feature_location="", out_indices=range(5))
            fuse = nn.Sequential(nn.Conv2d(334, 64, 1), nn.ReLU(), nn.Conv2d(64, 2, 1))
            tensors = {f"fuse.{key}": value for key, value in fuse.state_dict().items()}
        tensors |= {f"model.{key}": value for key, value in network.state_dict().items()}
        torch.save(tensors, folder / f"{fold}.pth")
    return folder


def write_random(network: Published, folder: Path) -> Path:
    """Write a checkpoint and its spec, and return the spec."""
    backbone = timm_backbone(network.spec["architecture"], network.spec["input_size"])
    tensors = {f"{network.backbone}{_published(key)}": value for key, value in backbone.state_dict().items()}
    for part, layer in network.head.items():
        tensors |= {f"{network.prefix}{part}.{key}": value for key, value in layer.state_dict().items()}
    folder.mkdir(parents=True)
    torch.save({network.container: tensors}, folder / "network.pth")
    path = folder / "network.yaml"
    path.write_text(yaml.safe_dump({"weights": "network.pth", "interpolation": "bicubic", **network.spec}))
    return path


def _published(name: str) -> str:
    """Return the original name of a tensor of timm's: the original Swin shrinks at the end of a stage."""
    return re.sub(r"layers\.(\d)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", name)


def _row(name: str, kind: str, path: Path, backend: str, work: Path) -> Row:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.published_networks", kind, str(path), backend]
    environment = {**os.environ, "COPYTRACE_CACHE": str(work / "cache"), "OMP_NUM_THREADS": "1"}
    if backend == "onnx":
        subprocess.run(command, env=environment, check=True, capture_output=True)
    found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()
    seconds, milliseconds, mebibytes = map(float, found)
    folder = path if path.is_dir() else path.parent
    size = sum(file.stat().st_size for file in folder.glob("*.pth")) / 1e6
    return Row(name, {"s to load": seconds, "ms": milliseconds, "peak MiB": mebibytes, "MB": size})


def main(kind: str, path: str, backend: Any) -> None:
    """Print the seconds to load a network, its milliseconds per input, and the most memory of this process in MiB."""
    begin = time.process_time()
    work, inputs = _load(kind, path, {"backend": backend, "device": "cpu"})
    loaded = time.process_time() - begin
    work()
    begin = time.process_time()
    work()
    milliseconds = (time.process_time() - begin) / inputs * 1000
    print(loaded, milliseconds, peak_memory_mib())


def _load(kind: str, path: str, options: dict[str, Any]) -> tuple[Callable[[], object], int]:
    """Return a function that runs a network once, and the number of its inputs."""
    generator = np.random.default_rng(0)
    if kind == "descriptor":
        descriptor = load_descriptor(path, threads=1, **options)
        frames = [generator.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(BATCH)]
        batch = np.stack([descriptor.resize(frame) for frame in frames])
        return lambda: descriptor.describe(batch), BATCH
    values = generator.random((40, 60)).astype(np.float32)
    first, second = (f"{path}/{fold}.pth" for fold in (1, 2))
    if kind == "aligner":
        aligner = NetworkAligner(first, folds=[second], **options)
        return lambda: aligner.heat_map(values), 1
    times = [np.stack([np.arange(length), np.arange(length) + 1.0], axis=1) for length in values.shape]
    pair_filter, pair = PairFilter(first, folds=[second], **options), SimilarityMatrix(values, *times)
    return lambda: pair_filter.probability([pair]), 1


if __name__ == "__main__":
    main(*sys.argv[1:])
