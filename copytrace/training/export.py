"""Trained weights as ONNX, for whoever serves them without torch."""

from __future__ import annotations

import logging
from pathlib import Path

from copytrace.storage import atomic_path, local_copy
from models import export
from models.aligner_files import load_aligner_network
from models.descriptor_files import load_descriptor_file, read_config
from models.overlay_files import load_overlay
from models.pair_files import load_pair_classifier

logger = logging.getLogger(__name__)


def export_descriptor(weights: Path) -> Path | None:
    """Write the descriptor beside its weights, as `.onnx`, and return that; None where torch cannot export it.

    uint8 "images" [N, S, S, 3] go in, float32 "descriptors" [N, D] come out.
    """
    try:
        with local_copy(weights) as file, atomic_path(weights.with_suffix(".onnx")) as graph:
            export.export_descriptor(load_descriptor_file(file), graph, read_config(file).input_size)
        return weights.with_suffix(".onnx")
    except RuntimeError as error:
        _tell(weights, error)
        return None


def export_overlay_detector(weights: Path) -> Path | None:
    """Write the overlay detector beside its weights, as `.onnx`, and return that; None where torch cannot export it."""
    try:
        with local_copy(weights) as file, atomic_path(weights.with_suffix(".onnx")) as graph:
            export.export_overlay(load_overlay(file), graph)
        return weights.with_suffix(".onnx")
    except RuntimeError as error:
        _tell(weights, error)
        return None


def export_aligner(weights: Path) -> Path | None:
    """Write the aligner beside its weights, as `.onnx`, and return that; None where torch cannot export it."""
    try:
        with local_copy(weights) as file, atomic_path(weights.with_suffix(".onnx")) as graph:
            export.export_aligner(load_aligner_network(file), graph)
        return weights.with_suffix(".onnx")
    except RuntimeError as error:
        _tell(weights, error)
        return None


def export_pair_classifier(weights: Path) -> Path | None:
    """Write the classifier of pairs beside its weights, as `.onnx`; None where torch cannot export it."""
    try:
        with local_copy(weights) as file, atomic_path(weights.with_suffix(".onnx")) as graph:
            export.export_pair_classifier(load_pair_classifier(file), graph)
        return weights.with_suffix(".onnx")
    except RuntimeError as error:
        _tell(weights, error)
        return None


def _tell(weights: Path, error: RuntimeError) -> None:
    logger.warning("%s goes without an ONNX file: %s", weights, " ".join(str(error).split())[:200])
