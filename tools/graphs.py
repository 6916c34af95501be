"""Write the templates of the networks that ship into `models/graphs`: `python -m tools.graphs`.

It is to be run after a change of a network that ships, or of its export.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnxruntime

from models.atomic_file import write_atomically
from models.configs import read_descriptor_config
from models.export import (
    Check,
    check_descriptor,
    check_logits,
    check_overlay,
    trace_aligner,
    trace_descriptor,
    trace_overlay,
    trace_pair_classifier,
)
from models.graph_templates import FOLDER, fill_template, make_template
from models.network_files import load_aligner_network, load_descriptor_file, load_overlay, load_pair_classifier
from models.onnx_graphs import Trace, run_onnx

WEIGHTS = FOLDER.parent / "weights"


def trace(kind: str, weights: Path) -> tuple[Trace, Check]:
    """Return the traced network of a file of weights, and the check of its outputs."""
    if kind == "descriptor":
        size = read_descriptor_config(weights).input_size
        return trace_descriptor(load_descriptor_file(weights), size, keep_names=True), check_descriptor
    if kind == "overlay":
        return trace_overlay(load_overlay(weights), keep_names=True), check_overlay
    if kind == "aligner":
        return trace_aligner(load_aligner_network(weights), keep_names=True), check_logits
    return trace_pair_classifier(load_pair_classifier(weights), keep_names=True), check_logits


def main() -> None:
    """Make each template, and check that the graph made from it answers as torch does."""
    for kind in ("descriptor", "overlay", "aligner", "pair-classifier"):
        weights = WEIGHTS / f"{kind.replace('-', '_')}.safetensors"
        traced, check = trace(kind, weights)
        template = write_atomically(FOLDER / f"{kind}.onnx", make_template(traced.graph, weights))
        with tempfile.TemporaryDirectory() as folder:
            graph = fill_template(kind, weights, Path(folder) / "graph.onnx")
            if graph is None:
                raise RuntimeError(f"{template} does not fit {weights}, of which it was made")
            check(run_onnx(graph.read_bytes(), traced.inputs, traced.outputs), traced.expected)
        print(f"{template}: {template.stat().st_size:,} bytes, with ONNX Runtime {onnxruntime.__version__}")


if __name__ == "__main__":
    main()
