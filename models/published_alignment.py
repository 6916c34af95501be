"""Weights of the aligner and the pair classifier of VSC2022's winners, as state dicts under their names.

Both networks answer with two logits, of which softmax uses only the difference; ours have that one. Both take a matrix
in three equal channels; our classifier takes one, with the sum of the filters.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from models.foreign_weights import fill_strictly, read_state_dict
from models.pair_network import PictureClassifier

if TYPE_CHECKING:
    from models.aligner_network import HrnetAligner
    from models.configs import PairConfig

_ALIGNER_PARTS = {"model.": "backbone.", "fuse.0.": "narrow.", "fuse.2.": "head."}


def fill_aligner(network: HrnetAligner, path: Path) -> HrnetAligner:
    """Load a state dict of the published HRNet-W18 into `network`, and return it in eval mode.

    Raises `ModelFileError` when the file is not a checkpoint of tensors, or that of another network.
    """
    tensors = {}
    for name, tensor in read_state_dict(path).items():
        part = next((part for part in _ALIGNER_PARTS if name.startswith(part)), "")
        tensors[_ALIGNER_PARTS.get(part, "") + name.removeprefix(part)] = tensor
    fill_strictly(network, _with_difference(tensors, "head"), path, "the published aligner, HRNet-W18")
    return network.eval()


def load_published_classifier(config: PairConfig, path: Path) -> PictureClassifier:
    """Return the network of a state dict of the published MobileNetV3, in eval mode on the CPU.

    Raises `ModelFileError` as `fill_aligner` does.
    """
    network = PictureClassifier(config)
    tensors = {f"backbone.{name}": tensor for name, tensor in read_state_dict(path).items()}
    stem = tensors.get("backbone.conv_stem.weight")
    if stem is not None and stem.ndim == 4:
        tensors["backbone.conv_stem.weight"] = stem.sum(dim=1, keepdim=True)
    tensors = _with_difference(tensors, "backbone.classifier")
    fill_strictly(network, tensors, path, f"the published pair classifier, {config.architecture}")
    return network.eval()


def _with_difference(tensors: Mapping[str, Tensor], layer: str) -> dict[str, Tensor]:
    """Return the tensors with the difference of the last layer's two outputs in place of both."""
    changed = dict(tensors)
    for name in (f"{layer}.weight", f"{layer}.bias"):
        if name in changed and len(changed[name]) == 2:
            changed[name] = changed[name][1:] - changed[name][:1]
    return changed
