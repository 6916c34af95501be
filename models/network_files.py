"""A network as one safetensors file: its tensors, and in the header its kind, format and configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError, safe_open

from models.atomic_file import write_atomically
from models.pretrained import ModelFileError

if TYPE_CHECKING:
    from torch import Tensor, nn

HEADER_KEY = "copytrace"
FORMAT: Literal[1] = 1  # raise it when files of the present format can no longer be read


def save_network(
    network: nn.Module, path: Path, kind: str, config: Mapping[str, Any], notes: Mapping[str, Any] | None = None
) -> Path:
    """Write `network` atomically and return `path`: filters and matrices as float16, vectors as float32.

    `config` is what `read_header(path, kind)` returns later; `notes` is JSON for the readers of the file. Raises
    `ValueError` for weights that are not finite.
    """
    import safetensors.torch  # here and below: reading a header must not import torch  # noqa: PLC0415

    header = {"kind": kind, "format": FORMAT, **config, "notes": dict(notes or {})}
    content = safetensors.torch.save(stored_tensors(network), {HEADER_KEY: json.dumps(header, sort_keys=True)})
    return write_atomically(path, content)


def fill_network(network: nn.Module, path: Path, name: str, *, partly: bool = False) -> None:
    """Load the tensors of a file into `network`, which an error calls `name`.

    With `partly`, tensors that the file lacks, or has in another shape, stay as they are. Raises `ModelFileError` when
    the file holds the tensors of another network.
    """
    import safetensors.torch  # noqa: PLC0415

    tensors = safetensors.torch.load_file(path)
    if partly:
        own = network.state_dict()
        tensors = {key: tensors[key] if _fits(tensors.get(key), own[key]) else own[key] for key in own}
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelFileError(f"{path} does not fit {name}: {one_line(error)}; train it again") from error


def read_header(path: Path, kind: str) -> dict[str, Any]:
    """Return Copytrace's JSON in the header of the safetensors file of a model of that `kind`.

    Raises `ModelFileError` when the file is absent, cut short, not safetensors, or of another kind or format.
    """
    cure = f"give a file that Copytrace's training of the {kind} wrote"
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} is not a whole safetensors file: {one_line(error)}; {cure}") from error
    try:
        header = json.loads(metadata[HEADER_KEY])
        found, version = header["kind"], header["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path} is a safetensors file, but not one of Copytrace; {cure}") from error
    if found != kind:
        raise ModelFileError(f"{path} holds a model of kind {found!r}, not {kind!r}; {cure}")
    if version != FORMAT:
        raise ModelFileError(f"{path} has format {version}, this version reads format {FORMAT}; upgrade copytrace")
    return dict(header)


def digest_of_network(path: Path) -> str:
    """Return 16 hexadecimal digits that change with any byte of the file."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()[:16]


def stored_tensors(network: nn.Module, *, half: bool = True) -> dict[str, Tensor]:
    """Return the tensors of `network` for its file: with `half`, filters and matrices as float16.

    Vectors such as biases and BatchNorm's statistics stay float32, as they are few and may exceed float16's range.
    Raises `ValueError` for weights that are not finite.
    """
    return {name: _stored(name, tensor, half) for name, tensor in network.state_dict().items()}


def one_line(error: Exception) -> str:
    """Return an error's text on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


def _fits(tensor: Tensor | None, own: Tensor) -> bool:
    return tensor is not None and tensor.shape == own.shape


def _stored(name: str, tensor: Tensor, half: bool) -> Tensor:
    stored = tensor.detach().cpu().contiguous()
    if not stored.is_floating_point():
        return stored
    if half and stored.ndim > 1:
        stored = stored.half()
    if not bool(stored.isfinite().all()):
        raise ValueError(f"{name} holds values that are not finite (as {stored.dtype}); it was not saved")
    return stored
