"""Configurations of the descriptors that a setting names: packaged ones, model files, TorchScript and spec files."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from pathlib import Path

from copytrace.model_sources import model_state, resolve_model
from models.configs import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TORCHSCRIPT,
    DescriptorConfig,
    ModelFileError,
    efficientnet_lite0,
    read_descriptor_config,
)
from models.descriptor_spec import DescriptorSpec, is_spec, read_spec

# Models that `load_descriptor` knows by name: their configuration for an input size.
MODELS: dict[str, Callable[[int], DescriptorConfig]] = {"imagenet": efficientnet_lite0}

IMAGENET_INPUT = 256
SSCD_INPUT = 288  # the side that SSCD's authors test at (Pizzi et al., 2022)
ZIP_MAGIC = b"PK\x03\x04"  # start of a TorchScript file, and of a pickled checkpoint, which is refused later

_PIN = re.compile(r"#sha256=[0-9a-f]{64}$", re.IGNORECASE)
_PLACE = re.compile(r"[a-z][a-z0-9+.-]+:/|/|~", re.IGNORECASE)  # a URI, or a path that is not relative


def descriptor_config(model: str, input_size: int | None = None) -> DescriptorConfig:
    """Return the configuration of a descriptor by its name in `MODELS`, or by a source for `resolve_model`.

    The source is a file that `save_descriptor` wrote, TorchScript in the form that SSCD was published in, or a spec
    (`DescriptorSpec`), which names the file of the weights. `input_size` replaces that of the model. Raises
    `ConfigError` or `ModelFileError` for a model that is missing or damaged.
    """
    if model in MODELS:
        return MODELS[model](input_size or IMAGENET_INPUT)
    path = resolve_model(model, "descriptor")
    if is_spec(path):
        spec = read_spec(path)
        return spec.config(resolve_model(_weights_source(model, path, spec), "descriptor"), input_size)
    with path.open("rb") as file:
        is_archive = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    if not is_archive:
        return read_descriptor_config(path, input_size)
    return DescriptorConfig(
        name=path.name.partition(".")[0],
        architecture=TORCHSCRIPT,
        weights=path,
        dimensions=None,
        input_size=input_size or SSCD_INPUT,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        storage="torchscript",
    )


def descriptor_state(model: str) -> Hashable:
    """Return what changes when `model` begins to name another model: `model_state`, also of the weights of a spec."""
    state = model_state(model, "descriptor")
    path = Path(state[0])
    if not (is_spec(path) and path.is_file()):
        return state
    try:
        spec = read_spec(path)
    except ModelFileError:
        return state  # loading it tells what is wrong
    return state, model_state(_weights_source(model, path, spec), "descriptor")


def _weights_source(model: str, path: Path, spec: DescriptorSpec) -> str:
    """Return the source of a spec's weights, which are beside it unless they name another place."""
    if _PLACE.match(spec.weights):
        return spec.weights
    beside = path.parent / _PIN.sub("", spec.weights)
    if "://" in model and not beside.is_file():  # only the spec was downloaded
        return f"{_PIN.sub('', model).rpartition('/')[0]}/{spec.weights}"
    return str(path.parent / spec.weights)
