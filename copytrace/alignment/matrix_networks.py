"""Networks that take similarity matrices, run by ONNX Runtime on the CPU or by torch on CUDA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from copytrace.arrays import Floats
from copytrace.errors import ConfigError
from copytrace.runtime import cached_graph, open_session, torch_device
from models.configs import digest_of_network
from models.export import LOGITS, VALUES

if TYPE_CHECKING:
    from torch import nn

Run = Callable[[Floats], Floats]
N = TypeVar("N", bound="nn.Module")


def load_unchanged(path: Path, digest: str, load: Callable[[Path], N]) -> N:
    """Return the network that `load` reads from a file, which must still have `digest`, the key of the cached graph.

    Raises `ConfigError` if the file was replaced since `digest` was computed.
    """
    network = load(path)
    if digest_of_network(path) != digest:
        raise ConfigError(f"{path} was replaced while it was read; run the same command again")
    return network


def onnx_runner(name: str, export: Callable[[Path], Path]) -> Run:
    """Return a function that turns float32 [N, 1, H, W] into logits by the graph in the cache, exported if missing.

    `name` is that of the graph's file in the cache, see `cached_graph`. Several threads may call the function at once;
    each call uses one core.
    """
    session = open_session(cached_graph(name, export), threads=1, any_shape=True)

    def run(values: Floats) -> Floats:
        (logits,) = session.run([LOGITS], {VALUES: values})
        return np.asarray(logits, np.float32)

    return run


def torch_runner(network: nn.Module, device: str | None) -> Run:
    """Return a function that turns float32 [N, 1, H, W] into logits by torch, on the device of that name.

    Raises `ConfigError` as `torch_device` does.
    """
    import torch  # noqa: PLC0415

    target = torch_device(device)
    network = network.to(target).eval()

    def run(values: Floats) -> Floats:
        with torch.inference_mode():
            logits = network(torch.from_numpy(np.ascontiguousarray(values)).to(target))
        return np.asarray(logits.cpu().numpy(), np.float32)

    return run
