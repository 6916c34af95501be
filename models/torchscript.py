"""Descriptors published as TorchScript, such as SSCD's: from normalized pixels to vectors."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.configs import ModelFileError

if TYPE_CHECKING:
    from models.configs import DescriptorConfig


class ScriptedDescriptor(nn.Module):
    """A TorchScript network with the interface of `DescriptorNetwork`: uint8 [N, S, S, 3] to unit vectors [N, D].

    `scripted` takes float32 [N, 3, S, S], normalized by the mean and std of `config`. It runs in float32 under any
    autocast, as it may lack the guards that half precision needs. A dry run of two pictures on `device` checks it:
    raises `ModelFileError` unless the result is finite [2, D].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, scripted: nn.Module, config: DescriptorConfig, device: torch.device) -> None:
        super().__init__()
        self.scripted = scripted
        self.register_buffer("mean", torch.tensor(config.mean, device=device).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(config.std, device=device).view(1, 3, 1, 1))
        self.dimensions = self._dry_run(config, device)

    def forward(self, images: Tensor) -> Tensor:
        """Describe uint8 [N, S, S, 3] RGB images as float32 [N, D] unit vectors."""
        pixels = (images.permute(0, 3, 1, 2).float() / 255.0 - self.mean) / self.std
        with torch.autocast(images.device.type, enabled=False):
            vectors: Tensor = self.scripted(pixels)
        return functional.normalize(vectors.float(), dim=1)

    def _dry_run(self, config: DescriptorConfig, device: torch.device) -> int:
        size = config.input_size
        images = torch.randint(
            0, 256, (2, size, size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
        )
        taken = f"float32 [2, 3, {size}, {size}]"
        try:
            with torch.inference_mode():
                vectors = self(images.to(device))
        except torch.OutOfMemoryError:
            raise
        except (
            RuntimeError,
            AttributeError,
            TypeError,
            IndexError,
        ) as error:  # the last three: the result is not a tensor
            raise ModelFileError(
                f"{config.weights} does not describe {taken}: {last_line(error)}; "
                "set input_size to what the network was made for, if it is a descriptor"
            ) from error
        fits = vectors.ndim == 2 and len(vectors) == 2
        if not fits or not vectors.isfinite().all():
            found = "values that are not finite" if fits else f"{list(vectors.shape)}"
            raise ModelFileError(f"{config.weights} gives {found} for {taken}, not [2, D]; it is not a descriptor")
        return int(vectors.shape[1])


def load_torchscript(config: DescriptorConfig, device: torch.device) -> ScriptedDescriptor:
    """Return the network of the TorchScript archive `config.weights` on `device`, in eval mode, after a dry run.

    Raises `ModelFileError` when the file is not a TorchScript archive (`check_torchscript`), is damaged, or does not
    hold a descriptor.
    """
    return ScriptedDescriptor(load_program(config.weights, device), config, device).eval()


def load_program(path: Path, device: torch.device) -> nn.Module:
    """Return what a TorchScript archive holds, on `device`, in eval mode.

    Raises `ModelFileError` when the file is not a TorchScript archive (`check_torchscript`), or is damaged.
    """
    check_torchscript(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", category=FutureWarning, message=r".*torch\.jit"
            )  # deprecated, but published in it
            program: nn.Module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ModelFileError(f"{path} cannot be loaded: {last_line(error)}; download it again") from error
    return program.eval()


def check_torchscript(path: Path) -> None:
    """Raise `ModelFileError` unless `path` is a TorchScript archive; a checkpoint of pickled objects is not.

    Pickled objects can run any code when they are loaded; a TorchScript archive holds only tensors and TorchScript.
    """
    if not is_torchscript(path):
        found = "a pickled checkpoint" if "data.pkl" in _names(path) else "another archive"
        raise ModelFileError(
            f"{path} is not TorchScript but {found}, "
            "which is not loaded as it may run any code; give the network's torchscript.pt, or a spec (YAML) with its "
            "architecture, by which only its tensors are read"
        )


def is_torchscript(path: Path) -> bool:
    """Say whether a zip archive is TorchScript. Raises `ModelFileError` if it is not a whole one."""
    names = _names(path)
    return "constants.pkl" in names and any(name.startswith("code/") for name in names)


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.partition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError) as error:
        raise ModelFileError(f"{path} is not a whole zip archive: {error}; download it again") from error


def last_line(error: Exception) -> str:
    """Return the last line of an error of torch, which says what failed; those before it are a stack of calls."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
