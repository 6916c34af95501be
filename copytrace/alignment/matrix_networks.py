"""Running the networks that look at similarity matrices: ONNX Runtime on the CPU, torch on CUDA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from copytrace.errors import ConfigError, CopytraceError
from copytrace.runtime.onnx_cache import cached_graph
from models.export import LOGITS, VALUES
from models.network_files import digest_of_network

if TYPE_CHECKING:
    from torch import nn

Floats = NDArray[np.float32]
Run = Callable[[Floats], Floats]
N = TypeVar("N", bound="nn.Module")


def load_unchanged(path: Path, digest: str, load: Callable[[Path], N]) -> N:
    """Return the network that `load` reads, of a file that still has the digest by which its graph will be kept.

    Raises `ConfigError` if another file took its place meanwhile.
    """
    network = load(path)
    if digest_of_network(path) != digest:
        raise ConfigError(f"{path} was replaced while it was read; run the same command again")
    return network


def onnx_runner(name: str, export: Callable[[Path], Path]) -> Run:
    """Return what turns float32 [N, 1, H, W] into logits by the graph that is cached as `name`, or else exported.

    May be called from several threads at once; each call works on the core that it is called on.
    """
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        raise CopytraceError(
            "onnxruntime is not installed; pip install 'copytrace[cpu]' (or 'copytrace[gpu]')"
        ) from error

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_mem_pattern = False  # it would plan memory anew for every size of matrix, and keep the plans
    session = onnxruntime.InferenceSession(cached_graph(name, export), options, providers=["CPUExecutionProvider"])

    def run(values: Floats) -> Floats:
        (logits,) = session.run([LOGITS], {VALUES: values})
        return np.asarray(logits, np.float32)

    return run


def torch_runner(network: nn.Module, device: str | None) -> Run:
    """Return what turns float32 [N, 1, H, W] into logits by torch, on CUDA unless `device` names another place.

    Raises `ConfigError` for a device that torch does not know, or that is not there.
    """
    import torch  # noqa: PLC0415

    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        placed = network.to(place).eval()
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts that it has some
        raise ConfigError(f"torch has no device {device!r} here; give cpu, cuda or cuda:N") from error

    def run(values: Floats) -> Floats:
        with torch.inference_mode():
            logits = placed(torch.from_numpy(np.ascontiguousarray(values)).to(place))
        return np.asarray(logits.cpu().numpy(), np.float32)

    return run
