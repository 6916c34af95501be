"""ONNX graphs of torch networks: their export, a run, and the comparison with torch."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Trace:
    """An ONNX graph, and what torch's network answers: `inputs`, and `expected` for each of the names in `outputs`."""

    graph: bytes
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    expected: list[np.ndarray]

    def run(self) -> list[np.ndarray]:
        """Return ONNX Runtime's outputs for the inputs; see `run_onnx`."""
        return run_onnx(self.graph, self.inputs, self.outputs)


def trace_onnx(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    *,
    side_multiple: int | None = None,
    keep_names: bool = False,
) -> Trace:
    """Return an ONNX graph of `network` in eval mode on the CPU, with `inputs` and torch's own outputs for them.

    The graph's inputs have the names, shapes and types of `inputs`, except that the first axis is free: only the first
    two rows are traced. With `side_multiple` the sides, axes 2 and 3 of [N, C, H, W], are free multiples of it.
    With fixed sides the exporter folds BatchNorm and 'same' padding into the convolutions, which then take 97 % of the
    time; with free sides it folds BatchNorm alone. With `keep_names` it folds constants only, so that the graph has the
    network's tensors under their names. Raises `RuntimeError` when the network cannot be exported.
    """
    import torch  # here: reading a cached graph must not cost the seconds that importing torch takes  # noqa: PLC0415

    network = copy.deepcopy(network).cpu().eval()
    for module in network.modules():
        if getattr(module, "inplace", False):  # ReLU6 in place is taken apart, which takes a third of the export's time
            module.inplace = False  # type: ignore[assignment]
    free = {0: torch.export.Dim("batch")}
    if side_multiple is not None:
        free |= {2: side_multiple * torch.export.Dim("rows"), 3: side_multiple * torch.export.Dim("columns")}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="# The axis name: batch")  # torch says so of every second input
        program = torch.onnx.export(
            network,
            tuple(value[:2] for value in inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple(free for _ in inputs),
            dynamo=True,
            external_data=False,
            optimize=not keep_names,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program; the installed torch has no dynamo exporter")
    if keep_names:
        _fold_constants(program.model)
    with torch.inference_mode():
        answer = network(*inputs.values())
    expected = answer if isinstance(answer, tuple) else (answer,)
    return Trace(program.model_proto.SerializeToString(), inputs, tuple(outputs), [part.numpy() for part in expected])


def _fold_constants(graph: ir.Model) -> None:
    """Replace what depends on no input and on no tensor by its value, and drop the exporter's notes on the nodes."""
    from onnx_ir.passes.common import NameFixPass  # noqa: PLC0415
    from onnxscript import optimizer  # noqa: PLC0415

    NameFixPass()(graph)  # a constant may have the name of an output
    optimizer.fold_constants(graph)
    optimizer.remove_unused_nodes(graph)
    for node in graph.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None


def optimize_onnx(graph: bytes) -> bytes:
    """Return a graph with what ONNX Runtime simplifies for any device, such as BatchNorm folded into convolutions."""
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3  # errors
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return path.read_bytes()


def run_onnx(graph: bytes, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> list[np.ndarray]:
    """Return the outputs of ONNX Runtime on the CPU. Raises `RuntimeError` when it cannot run the graph."""
    import onnxruntime  # noqa: PLC0415

    try:
        given = {name: value.numpy() for name, value in inputs.items()}
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        return [np.asarray(part) for part in session.run(list(outputs), given)]
    except Exception as error:  # ONNX Runtime's exceptions have no base class of their own
        raise RuntimeError(f"ONNX Runtime does not run the exported graph: {error}") from error


def check_difference(difference: float, tolerance: float) -> None:
    """Raise `RuntimeError` if the two runtimes differ by more than `tolerance`, or by NaN."""
    if not difference <= tolerance:
        raise RuntimeError(f"the exported graph differs from torch by {difference:.2g}, more than {tolerance:.0e}")
