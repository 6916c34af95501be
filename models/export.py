"""The descriptor as an ONNX file that carries its own checksum."""

from __future__ import annotations

import copy
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import nn

INPUT, OUTPUT = "images", "descriptors"
GRAPH_VERSION = 1  # raise it when the exported graph changes, so that cached files of older versions are not used
TOLERANCE = 1e-4  # largest difference of any coordinate of a unit vector between torch and ONNX Runtime, on the CPU

# The file's last 76 bytes: metadata_props {"sha256": 64 hexadecimal digits of all bytes before}, as protobuf writes it.
# Protobuf messages merge when they are concatenated, so the file stays an ordinary ONNX model.
_SEAL_HEAD = b"\x72\x4a\x0a\x06sha256\x12\x40"
_SEAL_LENGTH = len(_SEAL_HEAD) + 64


def export_onnx(network: nn.Module, path: Path, input_size: int) -> Path:
    """Write `network` as ONNX, atomically, and return `path`: uint8 [N, S, S, 3] "images" to float32 [N, D].

    N is free, S is `input_size`: with fixed sides the exporter folds BatchNorm and 'same' padding into the
    convolutions, which leaves 97 % of the time in them. Raises `RuntimeError` when the network cannot be exported, and
    when ONNX Runtime's vectors differ from torch's by more than `TOLERANCE`.
    """
    import torch  # here, not above: reading a cached file must not cost the seconds that importing torch takes  # noqa: PLC0415

    network = copy.deepcopy(network).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, input_size, input_size, 3), dtype=torch.uint8, generator=generator)
    program = torch.onnx.export(
        network,
        (images[:2],),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program; the installed torch has no dynamo exporter")
    graph = program.model_proto.SerializeToString()
    with torch.inference_mode():
        expected = network(images).numpy()  # three images, though two were traced: the batch must be free
    _check(graph, images.numpy(), expected)
    write_whole(path, graph + _seal(graph))
    return path


def read_sealed(path: Path) -> bytes | None:
    """Return the bytes of an ONNX file that `export_onnx` wrote, or None if it is absent, cut short or altered."""
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


def _check(graph: bytes, images: np.ndarray, expected: np.ndarray) -> None:
    import onnxruntime  # noqa: PLC0415

    try:
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        (found,) = session.run([OUTPUT], {INPUT: images})
    except Exception as error:  # its exceptions share no base of their own
        raise RuntimeError(f"ONNX Runtime does not run the exported graph: {error}") from error
    difference = float(np.abs(np.asarray(found) - expected).max())
    if not difference <= TOLERANCE:  # written so that NaN fails too
        raise RuntimeError(f"the exported graph differs from torch by {difference:.2g}, more than {TOLERANCE:.0e}")
