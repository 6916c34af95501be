"""The two runtimes of a global descriptor: ONNX Runtime on the CPU, torch on CUDA or, for comparison, anywhere."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from copytrace.errors import CopytraceError, InputError
from copytrace.runtime.devices import usable_cores
from copytrace.runtime.onnx_cache import cached_graph
from copytrace.runtime.sessions import open_session, torch_device
from models.descriptor_files import load_descriptor_file
from models.export import DESCRIPTOR_GRAPH_VERSION, DESCRIPTOR_OUTPUT, INPUT, export_descriptor
from models.pretrained import DescriptorConfig

if TYPE_CHECKING:
    import torch

    from models.descriptor import DescriptorNetwork
    from models.torchscript import ScriptedDescriptor

logger = logging.getLogger(__name__)

# Images per run of a session on one core. Larger runs were slower: their feature maps do not fit the core's cache.
IMAGES_PER_RUN = 2
LARGEST_CUDA_BATCH = 256


class OnnxDescriptor:
    """A descriptor run by ONNX Runtime on the CPU.

    Each core runs its own slices of the batch. ONNX Runtime's default shares every layer of one run among all cores,
    which then wait for each other some fifty times per run: that halves the speed if other processes are busy. Only a
    batch with fewer pictures than cores is run in this way.
    """

    def __init__(self, config: DescriptorConfig, *, threads: int = 0) -> None:
        self.name, self.digest, self.input_size = config.name, config.digest, config.input_size
        self.typical_noise = config.typical_noise
        self._threads = threads or usable_cores()
        graph = descriptor_graph(config)
        self._one_core = open_session(graph, threads=1)
        self.dimensions = int(self._one_core.get_outputs()[0].shape[1])
        self._all_cores = open_session(graph, threads=self._threads) if self._threads > 1 else self._one_core
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="describe")

    def describe(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Describe uint8 [N, S, S, 3] RGB pictures as float32 [N, D] unit vectors; see `Descriptor`."""
        _check_batch(batch, self.input_size)
        if 0 < len(batch) < self._threads:
            (described,) = self._all_cores.run([DESCRIPTOR_OUTPUT], {INPUT: batch})
            return np.asarray(described, dtype=np.float32)
        size = min(IMAGES_PER_RUN, max(1, -(-len(batch) // self._threads)))
        vectors = np.empty((len(batch), self.dimensions), dtype=np.float32)

        def run(start: int) -> None:
            part = slice(start, start + size)
            (vectors[part],) = self._one_core.run([DESCRIPTOR_OUTPUT], {INPUT: batch[part]})

        list(self._pool.map(run, range(0, len(batch), size)))
        return vectors


class TorchDescriptor:
    """A descriptor run by torch: float16 autocast and channels_last on CUDA (TorchScript in float32), else float32.

    When CUDA's memory runs out, the batch size is halved permanently. On the CPU, `threads` other than 0 sets torch's
    number of threads for the whole process.
    """

    def __init__(self, config: DescriptorConfig, *, device: str | None = None, threads: int = 0) -> None:
        import torch  # noqa: PLC0415

        self.device = torch_device(device)
        if threads and self.device.type == "cpu":
            torch.set_num_threads(threads)
        self.network = build_network(config, self.device).to(memory_format=torch.channels_last)
        self.name, self.digest, self.input_size = config.name, config.digest, config.input_size
        self.typical_noise = config.typical_noise
        self.dimensions = self.network.dimensions
        self.largest_batch = LARGEST_CUDA_BATCH

    def describe(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Describe uint8 [N, S, S, 3] RGB pictures as float32 [N, D] unit vectors; see `Descriptor`.

        Raises `CopytraceError` when CUDA's memory does not hold one picture.
        """
        import torch  # noqa: PLC0415

        _check_batch(batch, self.input_size)
        vectors = np.empty((len(batch), self.dimensions), dtype=np.float32)
        start = 0
        while start < len(batch):
            part = slice(start, min(start + self.largest_batch, len(batch)))
            try:
                vectors[part] = self._run(batch[part])
            except torch.OutOfMemoryError as error:
                self._halve_batch(part.stop - part.start, error)
                continue
            start = part.stop
        return vectors

    def _run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch  # noqa: PLC0415

        on_cuda = self.device.type == "cuda"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.float16, enabled=on_cuda):
            vectors = self.network(torch.from_numpy(np.ascontiguousarray(batch)).to(self.device))
        return np.asarray(vectors.cpu().numpy(), dtype=np.float32)

    def _halve_batch(self, size: int, error: Exception) -> None:
        import torch  # noqa: PLC0415

        if size == 1:
            raise CopytraceError(
                f"{self.device} has too little free memory for one picture of {self.input_size} pixels; "
                "stop other programs there, or set device to cpu"
            ) from error
        self.largest_batch = size // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        logger.warning("%s ran out of memory at %d pictures; continuing with %d", self.device, size, self.largest_batch)


def build_network(config: DescriptorConfig, device: torch.device) -> DescriptorNetwork | ScriptedDescriptor:
    """Return the network of `config` with its weights, in eval mode on `device`.

    Raises `ModelFileError` when the file does not fit `config`.
    """
    if config.storage == "torchscript":
        from models.torchscript import load_torchscript  # noqa: PLC0415

        return load_torchscript(config, device)
    if config.storage == "safetensors":
        return load_descriptor_file(config.weights, config.input_size).to(device)

    from models.descriptor import build_descriptor  # here: it imports torch  # noqa: PLC0415

    return build_descriptor(config).to(device)


def descriptor_graph(config: DescriptorConfig) -> bytes:
    """Return the descriptor's ONNX graph from the cache, see `cached_graph`."""

    def export(path: Path) -> Path:
        import torch  # here: a graph in the cache does not need it  # noqa: PLC0415

        return export_descriptor(build_network(config, torch.device("cpu")), path, config.input_size)

    return cached_graph(f"{config.name}-{config.digest}-v{DESCRIPTOR_GRAPH_VERSION}.onnx", export)


def _check_batch(batch: NDArray[np.uint8], size: int) -> None:
    if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != (size, size, 3):
        wanted = f"uint8 [N, {size}, {size}, 3]"
        raise InputError(f"a batch must be {wanted}, not {batch.dtype} {list(batch.shape)}; use resize_for_descriptor")
