"""Spec files: YAML that says what a descriptor's published weights do not say themselves.

    weights: swinv2_v115.pth        # a file beside this one, or any other place of a model
    architecture: swinv2_base_window12to16_192to256
    input_size: 256
    interpolation: bicubic
    mean: [0.5, 0.5, 0.5]
    std: [0.5, 0.5, 0.5]

Files of Copytrace's own training have all of this in their header, and need no spec.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError

from configs.bounded_files import read_small_file
from configs.parsing import parse_yaml
from models.configs import (
    GEM_POWER,
    TORCHSCRIPT,
    Channels,
    DescriptorConfig,
    Interpolation,
    ModelFileError,
    Pooling,
    PositiveChannels,
    one_line,
)

SUFFIXES = (".yaml", ".yml")


class DescriptorSpec(BaseModel):
    """The content of a spec file; `DescriptorConfig` explains its values.

    `weights` names a state dict (read by `weights_only`), safetensors, or TorchScript if `architecture` says so.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: str = Field(min_length=1)
    architecture: str = Field(min_length=1)
    input_size: int = Field(ge=32, le=1024)
    interpolation: Interpolation
    mean: Channels
    std: PositiveChannels
    pooling: Pooling = "gem"
    gem_power: PositiveFloat = GEM_POWER
    typical_noise: float | None = Field(None, ge=-1, le=1)

    def config(self, weights: Path, input_size: int | None = None) -> DescriptorConfig:
        """Return the configuration of the descriptor whose weights are that file; `input_size` replaces the spec's."""
        return DescriptorConfig(
            name=re.sub(r"[^\w-]", "_", weights.name.partition(".")[0]) or "descriptor",
            architecture=self.architecture,
            weights=weights,
            dimensions=None,
            input_size=input_size or self.input_size,
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
            gem_power=self.gem_power,
            storage="torchscript" if self.architecture == TORCHSCRIPT else "state_dict",
            typical_noise=self.typical_noise,
            pooling=self.pooling,
            trained_size=self.input_size,
        )


def is_spec(path: Path) -> bool:
    """Say whether the name of a file is that of a spec."""
    return path.suffix.lower() in SUFFIXES


def read_spec(path: Path) -> DescriptorSpec:
    """Return the content of a spec file. Raises `ModelFileError`, which names the first wrong value."""
    try:
        return DescriptorSpec.model_validate(parse_yaml(read_small_file(path).decode("utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        known = ", ".join(DescriptorSpec.model_fields)
        raise ModelFileError(
            f"{path} is no spec of a descriptor: {place}: {first['msg'].lower()}; its values are {known}"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} is no spec of a descriptor: {one_line(error)}; write YAML") from error
