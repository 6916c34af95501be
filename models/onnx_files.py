"""ONNX files that carry their own checksum, and how a network becomes one."""

from __future__ import annotations

import copy
import hashlib
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

# The file's last 76 bytes: metadata_props {"sha256": 64 hexadecimal digits of all bytes before}, as protobuf writes it.
# Protobuf messages merge when they are concatenated, so the file stays an ordinary ONNX model.
_SEAL_HEAD = b"\x72\x4a\x0a\x06sha256\x12\x40"
_SEAL_LENGTH = len(_SEAL_HEAD) + 64


def trace_onnx(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    *,
    side_multiple: int | None = None,
) -> tuple[bytes, list[np.ndarray]]:
    """Return an ONNX graph of `network` in eval mode on the CPU, and what torch itself answers to `inputs`.

    The graph's inputs have the names, shapes and types of `inputs`, but for their first axis, which is free: only the
    first two rows are traced. With `side_multiple` the sides, axes 2 and 3 of [N, C, H, W], are free multiples of it.
    With fixed ones the exporter folds BatchNorm and 'same' padding into the convolutions, which leaves 97 % of the time
    in them; with free ones it folds BatchNorm. Raises `RuntimeError` when the network cannot be exported.
    """
    import torch  # here, not above: reading a cached file must not cost the seconds that importing torch takes  # noqa: PLC0415

    network = copy.deepcopy(network).cpu().eval()
    free = {0: torch.export.Dim("batch")}
    if side_multiple is not None:
        free |= {2: side_multiple * torch.export.Dim("rows"), 3: side_multiple * torch.export.Dim("columns")}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="# The axis name: batch")  # said of every second input
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
    """Return what ONNX Runtime answers on the CPU; raises `RuntimeError` when it does not run the graph."""
    import onnxruntime  # noqa: PLC0415

    try:
        given = {name: value.numpy() for name, value in inputs.items()}
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        return [np.asarray(part) for part in session.run(list(outputs), given)]
    except Exception as error:  # its exceptions share no base of their own
        raise RuntimeError(f"ONNX Runtime does not run the exported graph: {error}") from error


def check_difference(difference: float, tolerance: float) -> None:
    """Raise `RuntimeError` if the two runtimes differ by more than `tolerance`, or by what is no number."""
    if not difference <= tolerance:
        raise RuntimeError(f"the exported graph differs from torch by {difference:.2g}, more than {tolerance:.0e}")


def write_onnx(path: Path, graph: bytes) -> Path:
    """Write a graph with its checksum, atomically, and return `path`."""
    write_whole(path, graph + _seal(graph))
    return path


def read_onnx(path: Path) -> bytes | None:
    """Return the bytes of a file that `write_onnx` wrote, or None if it is absent, cut short or altered."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return content if content[-_SEAL_LENGTH:] == _seal(content[:-_SEAL_LENGTH]) else None


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: readers find the old file or the new one, and never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _seal(content: bytes) -> bytes:
    return _SEAL_HEAD + hashlib.sha256(content).hexdigest().encode()
