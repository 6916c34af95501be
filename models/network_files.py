"""A network as one safetensors file: its tensors, and in the header what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.descriptor_files import FORMAT, HEADER_KEY
from models.onnx_files import write_whole
from models.pretrained import ModelFileError

if TYPE_CHECKING:
    from torch import Tensor, nn


def save_network(
    network: nn.Module, path: Path, kind: str, config: Mapping[str, Any], notes: Mapping[str, Any] | None = None
) -> Path:
    """Write `network` atomically and return `path`: filters and matrices as float16, vectors as float32.

    `config` is what `read_header(path, kind)` gives back; `notes` is JSON for whoever reads the file. Raises
    `ValueError` for weights that are not finite.
    """
    import safetensors.torch  # here and below, not above: reading a header must not import torch  # noqa: PLC0415

    tensors = {name: _stored(name, tensor) for name, tensor in network.state_dict().items()}
    header = {"kind": kind, "format": FORMAT, **config, "notes": dict(notes or {})}
    write_whole(path, safetensors.torch.save(tensors, {HEADER_KEY: json.dumps(header, sort_keys=True)}))
    return path


def fill_network(network: nn.Module, path: Path, name: str, *, partly: bool = False) -> None:
    """Load the tensors of a file into `network`, which an error calls `name`; `partly` those only that fit.

    Raises `ModelFileError` when the file holds those of another network.
    """
    import safetensors.torch  # noqa: PLC0415

    tensors = safetensors.torch.load_file(path)
    if partly:
        own = network.state_dict()
        tensors = {key: tensors[key] if _fits(tensors.get(key), own[key]) else own[key] for key in own}
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(f"{path} does not fit {name}: {reason}; train it anew") from error


def _fits(tensor: Tensor | None, own: Tensor) -> bool:
    return tensor is not None and tensor.shape == own.shape


def digest_of_network(path: Path) -> str:
    """Return 16 hexadecimal digits that change with any byte of the file."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()[:16]


def _stored(name: str, tensor: Tensor) -> Tensor:
    stored = tensor.detach().cpu().contiguous()
    if stored.is_floating_point() and stored.ndim > 1:
        stored = stored.half()
    if stored.is_floating_point() and not bool(stored.isfinite().all()):
        raise ValueError(f"{name} holds values that are not finite (as {stored.dtype}); it was not saved")
    return stored
