"""Global descriptors: one vector per image, by ONNX Runtime on the CPU or by torch on CUDA."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from copytrace.errors import ConfigError, CopytraceError, InputError
from copytrace.features.descriptor_sources import descriptor_config
from copytrace.features.resize import SquareInput
from copytrace.runtime import Backend, cached_graph, open_session, torch_device, usable_cores, uses_onnx
from models.configs import DescriptorConfig, Interpolation, ModelFileError
from models.export import DESCRIPTOR_GRAPH_VERSION, DESCRIPTOR_OUTPUT, INPUT, export_descriptor
from models.graph_templates import fill_template
from models.network_files import load_descriptor_file

if TYPE_CHECKING:
    import torch

    from models.descriptor import DescriptorNetwork
    from models.torchscript import ScriptedDescriptor

SMALLEST_INPUT = 32  # the backbone's stride: a smaller picture gives no feature map

logger = logging.getLogger(__name__)

# Images per run of a session on one core. Larger runs were slower: their feature maps do not fit the core's cache.
IMAGES_PER_RUN = 2
LARGEST_CUDA_BATCH = 256


class Descriptor(Protocol):
    """Model that turns pictures into unit vectors; only vectors of the same `digest` are comparable."""

    @property
    def name(self) -> str:
        """Name of the model for people; it does not identify the model."""

    @property
    def digest(self) -> str:
        """16 hexadecimal digits; the same for every runtime of one model, input size and pooling."""

    @property
    def dimensions(self) -> int:
        """Length of the vectors."""

    @property
    def input_size(self) -> int:
        """Side in pixels of the largest square picture that a network gets; smaller frames lose detail."""

    @property
    def typical_noise(self) -> float | None:
        """Mean cosine of a picture to its nearest unrelated ones in a large collection; None if it was not measured."""

    def resize(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return what `describe` takes of a picture, uint8 [H, W, 3] RGB: uint8 of one shape for all pictures.

        Raises `InputError` for another shape or type.
        """

    def describe(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Describe N pictures of `resize`, uint8 [N, …], as float32 [N, D] unit vectors.

        N may be 0. Raises `InputError` for another shape or type.
        """


class SquareDescriptor(Descriptor, Protocol):
    """Descriptor of one square picture: `resize` returns uint8 [S, S, 3] RGB."""

    @property
    def interpolation(self) -> Interpolation:
        """Filter by which `resize_for_descriptor` makes that picture of `input_size` pixels."""


def load_descriptor(
    model: str = "shipped",
    *,
    backend: Backend = "auto",
    device: str | None = None,
    threads: int = 0,
    input_size: int | None = None,
    trust_torchscript: bool = False,
) -> SquareDescriptor:
    """Load a global descriptor: ONNX Runtime on the CPU, torch on CUDA and for TorchScript.

    `model` is a name or a source for `descriptor_config`: "shipped", a file or folder, a URI. The file is one that
    `save_descriptor` wrote, a spec of published weights, or TorchScript as published for SSCD, which takes float
    [N, 3, S, S] normalized as for ImageNet and returns [N, D]. TorchScript is a program that can read and write files,
    and is refused unless `trust_torchscript`. `device` is a torch device such as "cpu" or "cuda:1"; the default is CUDA
    if there is some. `threads` is the number of CPU cores, 0 for all. `input_size` is by default that of the model.
    ONNX Runtime needs a graph file, which is made once and kept in `cache_folder()`: of the architecture that ships
    without torch, of others by its export, which takes from 15 s to minutes.

    Raises `ConfigError` for unknown or conflicting settings and for a model that is missing, damaged, not trusted or
    not a descriptor. Raises `CopytraceError` if onnxruntime is not installed, the model cannot be exported, or the
    cache cannot be written.
    """
    if input_size is not None and input_size < SMALLEST_INPUT:
        raise ConfigError(f"input_size is {input_size}; give {SMALLEST_INPUT} or more pixels, 256 for instance")
    if threads < 0:
        raise ConfigError(f"threads is {threads}; give 0 for all cores, or a positive number")
    try:
        config = descriptor_config(model, input_size)
        scripted = config.storage == "torchscript"
        if scripted and backend == "onnx":
            raise ConfigError(f"{config.weights} is TorchScript, which onnx does not run; set backend to auto or torch")
        if scripted and not trust_torchscript:
            _refuse_torchscript(config.weights)
        if not scripted and uses_onnx(backend, device):
            return OnnxDescriptor(config, threads=threads)
        return TorchDescriptor(config, device=device, threads=threads)
    except ModelFileError as error:
        raise ConfigError(str(error)) from error


def _refuse_torchscript(path: Path) -> NoReturn:
    from models.torchscript import check_torchscript  # here: it imports torch  # noqa: PLC0415

    check_torchscript(path)
    raise ConfigError(
        f"{path} is TorchScript, a program that can read and write files of this machine; if you trust its maker, "
        "set descriptor.trust_torchscript=true"
    )


def model_label(descriptor: Descriptor) -> str:
    """Return a label of the model that a person recognizes and that no two models share."""
    return f"{descriptor.name} at {descriptor.input_size} px ({descriptor.digest})"


class OnnxDescriptor(SquareInput):
    """A descriptor run by ONNX Runtime on the CPU.

    Each core runs its own slices of the batch. ONNX Runtime's default shares every layer of one run among all cores,
    which then wait for each other some fifty times per run: that halves the speed if other processes are busy. Only a
    batch with fewer pictures than cores is run in this way.
    """

    def __init__(self, config: DescriptorConfig, *, threads: int = 0) -> None:
        self.name, self.digest, self.input_size = config.name, config.digest, config.input_size
        self.interpolation, self.typical_noise = config.interpolation, config.typical_noise
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


class TorchDescriptor(SquareInput):
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
        self.interpolation, self.typical_noise = config.interpolation, config.typical_noise
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
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, torch.float16, enabled=on_cuda):
                vectors = self.network(torch.from_numpy(np.ascontiguousarray(batch)).to(self.device))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a TorchScript network may refuse pictures that others take
            from models.torchscript import last_line  # noqa: PLC0415

            raise CopytraceError(
                f"the descriptor {self.name} fails on {len(batch)} pictures: {last_line(error)}; check it, "
                "or choose another one with descriptor.model"
            ) from error
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

    if config.storage == "state_dict":
        from models.foreign_weights import load_foreign_descriptor  # noqa: PLC0415

        return load_foreign_descriptor(config).to(device)

    from models.descriptor import build_descriptor  # here: it imports torch  # noqa: PLC0415

    return build_descriptor(config).to(device)


def descriptor_graph(config: DescriptorConfig) -> bytes:
    """Return the descriptor's ONNX graph from the cache, see `cached_graph`."""

    def export(path: Path) -> Path:
        if config.storage == "safetensors":
            filled = fill_template("descriptor", config.weights, path, input_size=config.input_size)
            if filled:
                return filled
        import torch  # here: other graphs do not need it  # noqa: PLC0415

        return export_descriptor(build_network(config, torch.device("cpu")), path, config.input_size)

    return cached_graph(f"{config.name}-{config.digest}-v{DESCRIPTOR_GRAPH_VERSION}.onnx", config.weights, export)


def _check_batch(batch: NDArray[np.uint8], size: int) -> None:
    if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != (size, size, 3):
        wanted = f"uint8 [N, {size}, {size}, 3]"
        raise InputError(
            f"a batch must be {wanted}, not {batch.dtype} {list(batch.shape)}; use the descriptor's resize"
        )
