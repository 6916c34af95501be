"""ONNX graphs of torch networks: their export, a run, and the comparison with torch."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn


def trace_onnx(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    *,
    side_multiple: int | None = None,
) -> tuple[bytes, list[np.ndarray]]:
    """Return an ONNX graph of `network` in eval mode on the CPU, and torch's own outputs for `inputs`.

    The graph's inputs have the names, shapes and types of `inputs`, except that the first axis is free: only the first
    two rows are traced. With `side_multiple` the sides, axes 2 and 3 of [N, C, H, W], are free multiples of it.
    With fixed sides the exporter folds BatchNorm and 'same' padding into the convolutions, which then take 97 % of the
    time; with free sides it folds BatchNorm alone. Raises `RuntimeError` when the network cannot be exported.
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
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program; the installed torch has no dynamo exporter")
    with torch.inference_mode():
        answer = network(*inputs.values())
    expected = answer if isinstance(answer, tuple) else (answer,)
    return program.model_proto.SerializeToString(), [part.numpy() for part in expected]


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
