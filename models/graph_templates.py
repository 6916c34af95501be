"""Templates: ONNX graphs of the networks that ship, without their tensors, which come from a file of weights.

torch takes many seconds to export a network. A template is the result of one export, and holds for all files of weights
with the same configuration, also for those that a training wrote. `python -m tools.graphs` makes the templates anew.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.atomic_file import write_atomically
from models.configs import HEADER_KEY
from models.onnx_graphs import optimize_onnx

if TYPE_CHECKING:
    import onnx

FOLDER = Path(__file__).parent / "graphs"
WITHOUT_EFFECT = ("name", "notes", "typical_noise")  # values in the header of weights that the graph does not depend on
# Values of a header that earlier files lack: the graph is that of a file without them.
ASSUMED = {"pooling": "gem", "expansion": False}
STRIDE = 32  # of the descriptor's last map; for sides that it divides, "same" padding is the same, and so is the graph


def fill_template(kind: str, weights: Path, path: Path, *, input_size: int | None = None) -> Path | None:
    """Write the graph of a file of weights to `path`, atomically, and return `path`; None without a template for it.

    `kind` is that of the network in the file, such as "overlay". A descriptor's `input_size` is the side of its input,
    by default the one that the file states. Weights that are not finite have no template. Torch is not imported. Raises
    `RuntimeError` if ONNX Runtime does not take the graph.
    """
    import onnx  # noqa: PLC0415

    try:
        graph = onnx.load(FOLDER / f"{kind}.onnx")
    except FileNotFoundError:
        return None
    tensors, key, side = _read_weights(weights, input_size)
    if _key_of(graph) != key or not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        return None
    if side is not None:
        for dimension in graph.graph.input[0].type.tensor_type.shape.dim[1:3]:
            dimension.dim_value = side
    for tensor in graph.graph.initializer:
        if not tensor.raw_data and tensor.name in tensors:
            tensor.raw_data = np.ascontiguousarray(tensors[tensor.name], "<f4").tobytes()
    return write_atomically(path, optimize_onnx(graph.SerializeToString()))


def make_template(traced: bytes, weights: Path) -> bytes:
    """Return a traced graph without the tensors of a file of weights. Their names must be kept; see `trace_onnx`."""
    import onnx  # noqa: PLC0415

    graph = onnx.load_from_string(traced)
    tensors, key, _ = _read_weights(weights)
    for tensor in graph.graph.initializer:
        if tensor.name in tensors:
            tensor.ClearField("raw_data")
    del graph.graph.value_info[:]
    graph.metadata_props.add(key=HEADER_KEY, value=key)
    return bytes(graph.SerializeToString())


def _key_of(graph: onnx.ModelProto) -> str:
    return next((entry.value for entry in graph.metadata_props if entry.key == HEADER_KEY), "")


def _read_weights(weights: Path, input_size: int | None = None) -> tuple[dict[str, np.ndarray], str, int | None]:
    """Return the tensors of a file of weights, a digest of what its network's template depends on, and a free side.

    That is the side of a descriptor's input: `input_size`, or the one that the file states; None for other networks.
    """
    from safetensors import safe_open  # noqa: PLC0415

    with safe_open(weights, framework="numpy") as file:
        header: dict[str, Any] = json.loads(file.metadata()[HEADER_KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    settings = {
        name: value
        for name, value in header.items()
        if name not in WITHOUT_EFFECT and (name not in ASSUMED or value != ASSUMED[name])
    }
    side = None
    if header["kind"] == "descriptor":
        side = input_size or int(header["input_size"])
        settings["input_size"] = side % STRIDE  # 0 for all sides that the template is for
    shapes = {name: list(tensor.shape) for name, tensor in sorted(tensors.items())}
    digest = hashlib.sha256(json.dumps([settings, shapes], sort_keys=True).encode()).hexdigest()
    return tensors, digest, side
