"""An overlay detector as one safetensors file: its tensors, and in the header how to build and feed the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.descriptor_files import FORMAT, HEADER_KEY, read_header
from models.onnx_files import write_whole
from models.pretrained import ModelFileError

if TYPE_CHECKING:
    from torch import Tensor

    from models.overlay_network import OverlayNetwork

KIND = "overlay"


@dataclass(frozen=True)
class OverlayConfig:
    """What an overlay network is, told without torch.

    `architecture` is a timm model with feature maps at strides 4 to 32; `input_size` the side in pixels of the square
    that it looks at; `width` the channels of its own layers, a multiple of 8; `mean` and `std` are per RGB channel for
    values in 0..1.
    """

    architecture: str = "tf_efficientnet_lite0"
    input_size: int = 256
    width: int = 64
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


def save_overlay(network: OverlayNetwork, path: Path, *, notes: Mapping[str, Any] | None = None) -> Path:
    """Write `network` atomically and return `path`: filters and matrices as float16, vectors as float32.

    `notes` is JSON for whoever reads the file. Raises `ValueError` for weights that are not finite.
    """
    import safetensors.torch  # here and below, not above: reading a header must not import torch  # noqa: PLC0415

    tensors = {name: _stored(name, tensor) for name, tensor in network.state_dict().items()}
    header = {"kind": KIND, "format": FORMAT, **asdict(network.config), "notes": dict(notes or {})}
    write_whole(path, safetensors.torch.save(tensors, {HEADER_KEY: json.dumps(header, sort_keys=True)}))
    return path


def load_overlay(path: Path) -> OverlayNetwork:
    """Return the network that `save_overlay` wrote, float32, in eval mode, on the CPU.

    Raises `ModelFileError` when the file is absent, cut short, or holds something else.
    """
    import safetensors.torch  # noqa: PLC0415

    from models.overlay_network import build_overlay  # noqa: PLC0415

    network = build_overlay(read_overlay_config(path))
    tensors = safetensors.torch.load_file(path)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(f"{path} does not fit {network.config.architecture}: {reason}; train it anew") from error
    return network.eval()


def read_overlay_config(path: Path) -> OverlayConfig:
    """Return the config in the header of an overlay detector's file; errors as of `load_overlay`."""
    header = read_header(path, KIND)
    try:
        return OverlayConfig(
            architecture=str(header["architecture"]),
            input_size=int(header["input_size"]),
            width=int(header["width"]),
            mean=_channels(header["mean"]),
            std=_channels(header["std"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path} has a damaged header ({error!r}); train it anew, or copy it again") from error


def digest_of_overlay(path: Path) -> str:
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


def _channels(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
