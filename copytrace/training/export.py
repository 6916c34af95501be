"""Trained weights as ONNX files, for programs that serve them without torch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from copytrace.model_sources import ModelKind
from copytrace.storage import atomic_path, local_copy
from models import export
from models.configs import read_descriptor_config
from models.graph_templates import fill_template
from models.network_files import load_aligner_network, load_descriptor_file, load_overlay, load_pair_classifier

logger = logging.getLogger(__name__)

# How the weights in the first file become the graph in the second.
EXPORTS: dict[ModelKind, Callable[[Path, Path], Path]] = {
    "descriptor": lambda weights, graph: export.export_descriptor(
        load_descriptor_file(weights), graph, read_descriptor_config(weights).input_size
    ),
    "overlay": lambda weights, graph: export.export_overlay(load_overlay(weights), graph),
    "aligner": lambda weights, graph: export.export_aligner(load_aligner_network(weights), graph),
    "pair-classifier": lambda weights, graph: export.export_pair_classifier(load_pair_classifier(weights), graph),
}


def export_weights(kind: ModelKind, weights: Path) -> Path | None:
    """Write the network of a weights file as ONNX beside it, and return the `.onnx` file.

    The inputs and outputs are those of the function in `models.export`. Returns None, with a warning, if the network
    cannot be exported.
    """
    graph = weights.with_suffix(".onnx")
    try:
        with local_copy(weights) as file, atomic_path(graph) as temporary:
            _ = fill_template(kind, file, temporary) or EXPORTS[kind](file, temporary)
    except RuntimeError as error:
        logger.warning("%s has no ONNX file beside it: %s", weights, " ".join(str(error).split())[:200])
        return None
    return graph
