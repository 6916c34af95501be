"""Detection of pictures pasted into a query: the detectors by name.

One detector looks for edges (`edges`), the other is a trained network: ONNX Runtime on the CPU, torch on CUDA.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats
from copytrace.errors import ConfigError
from copytrace.features.resize import resize_for_descriptor
from copytrace.model_sources import resolve_model
from copytrace.overlays.box_files import BoxFile
from copytrace.overlays.boxes import Box
from copytrace.overlays.edges import RULES, find_pasted_rectangles
from copytrace.runtime import Backend, cached_graph, open_session, torch_device, uses_onnx
from copytrace.storage import digest_of
from models.configs import ModelFileError, digest_of_network, read_overlay_config
from models.export import INPUT, OVERLAY_GRAPH_VERSION, OVERLAY_OUTPUTS, PROPOSALS, export_overlay
from models.graph_templates import fill_template
from models.network_files import load_overlay

Run = Callable[[NDArray[np.uint8], Floats], tuple[Floats, Floats]]

SAME_PASTE_IOU = 0.6  # two boxes that overlap more than this belong to one pasted picture
PROPOSED = 8  # boxes of the edge detector that the network also judges; its graph takes this number
MIN_CONFIDENCE = 0.02  # boxes below it are not returned


class OverlayDetector(Protocol):
    """Detector of pictures pasted into a picture; `digest` identifies it and its settings."""

    @property
    def digest(self) -> str:
        """16 hexadecimal digits: crops made under one digest follow the same rules."""

    def detect(self, pixels: NDArray[np.uint8]) -> list[Box]:
        """Find the pictures inside uint8 [H, W, 3] RGB, best first; the same pixels give the same boxes.

        Raises `InputError` for another shape or type.
        """


def load_overlay_detector(
    name: str = "network", *, backend: Backend = "auto", device: str | None = None
) -> OverlayDetector | None:
    """Load a detector by its name in `DETECTORS`, or a trained one from where `resolve_model` finds it.

    "edges" looks for straight borders. "network" is the trained detector that ships with Copytrace. "none" returns
    None, and no query is cropped. A path or URI that ends in .csv is a `BoxFile`, any other one a detector that
    `train_overlay_detector` wrote. `backend`
    and `device` apply to trained detectors: "auto" uses torch if there is CUDA, otherwise ONNX Runtime. Raises
    `ConfigError` for an unknown name or a missing file, and `CopytraceError` if ONNX Runtime is not installed or the
    cache cannot be written.
    """
    if name in DETECTORS:
        return DETECTORS[name](backend, device)
    if not re.search(r"[/\\.:]", name) and not Path(name).exists():
        known = ", ".join(sorted(DETECTORS))
        raise ConfigError(f"unknown overlay detector {name!r}; give one of: {known}, or the path of a trained one")
    if name.lower().partition("#")[0].endswith(".csv"):
        return BoxFile(resolve_model(name, "overlay"))
    return _load_trained(name, backend, device)


def _load_trained(source: str, backend: Backend, device: str | None) -> OverlayDetector:
    return NetworkOverlayDetector(resolve_model(source, "overlay"), backend=backend, device=device)


DETECTORS: dict[str, Callable[[Backend, str | None], OverlayDetector | None]] = {
    "edges": lambda backend, device: EdgeOverlayDetector(),
    "network": lambda backend, device: _load_trained("shipped", backend, device),
    "none": lambda backend, device: None,
}


class EdgeOverlayDetector:
    """Detector of upright pasted rectangles, also at the border of a picture, and of photos inside uniform frames."""

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with `RULES`."""
        return digest_of(RULES)

    def detect(self, pixels: NDArray[np.uint8]) -> list[Box]:
        """Find the pictures inside uint8 [H, W, 3] RGB: at most 10 boxes, best first.

        Raises `InputError` for another shape or type.
        """
        corners, confidence = find_pasted_rectangles(pixels)
        found = zip(corners.tolist(), confidence.tolist(), strict=True)
        return [Box(x0, y0, x1, y1, sure) for (x0, y0, x1, y1), sure in found]


class NetworkOverlayDetector:
    """Detector of pasted pictures by a network that `train_overlay_detector` wrote.

    The network also judges the boxes of the edge detector. The confidence is fitted to validation, so that matching
    should search the boxes of 0.5 and more. `backend` "auto" uses torch if there is CUDA, otherwise ONNX Runtime;
    `device` is a torch device. One picture runs on one core, as pictures come from several threads. ONNX Runtime needs
    a graph file, which is made once and cached; see `cached_graph`.
    """

    def __init__(
        self,
        path: Path,
        *,
        backend: Backend = "auto",
        device: str | None = None,
        threads: int = 1,
    ) -> None:
        try:
            self.digest, self.input_size = digest_of_network(path), read_overlay_config(path).input_size
            onnx = uses_onnx(backend, device)
            self._run: Run = _onnx_runner(path, self.digest, threads) if onnx else _torch_runner(path, device)
        except (FileNotFoundError, ModelFileError) as error:
            raise ConfigError(f"no overlay detector at {path}: {error}; or set overlay.detector to edges") from error
        self._edges = EdgeOverlayDetector()

    def detect(self, pixels: NDArray[np.uint8]) -> list[Box]:
        """Find the pictures inside uint8 [H, W, 3] RGB: at most 8 boxes, best first.

        Raises `InputError` for another shape or type.
        """
        small = resize_for_descriptor(pixels, self.input_size)
        boxes, confidence = self._run(small[None], pad_proposals(self._edges.detect(pixels))[None])
        return select_boxes(boxes[0], confidence[0])


def pad_proposals(boxes: Sequence[Box]) -> Floats:
    """Return the first 8 boxes as the network's input, float32 [8, 4], padded with zeros."""
    rows = np.zeros((PROPOSED, 4), np.float32)
    for row, box in zip(rows, boxes, strict=False):
        row[:] = box.x0, box.y0, box.x1, box.y1
    return rows


def select_boxes(corners: Floats, confidence: Floats) -> list[Box]:
    """Turn the network's output for one picture, [K, 4] and [K], into boxes: best first, without repeats.

    Empty boxes and those under `MIN_CONFIDENCE` are left out.
    """
    kept: list[Box] = []
    for index in np.argsort(-confidence, kind="stable"):
        x0, y0, x1, y1 = (float(edge) for edge in corners[index])
        box = Box(x0, y0, x1, y1, float(confidence[index]))
        if box.confidence < MIN_CONFIDENCE or x1 <= x0 or y1 <= y0:
            continue
        if all(box.iou(better) <= SAME_PASTE_IOU for better in kept):
            kept.append(box)
    return kept


def _onnx_runner(path: Path, digest: str, threads: int) -> Run:
    graph = cached_graph(
        f"overlay-{digest}-v{OVERLAY_GRAPH_VERSION}.onnx",
        path,
        lambda cached: fill_template("overlay", path, cached) or export_overlay(load_overlay(path), cached),
    )
    session = open_session(graph, threads=threads)

    def run(batch: NDArray[np.uint8], proposals: Floats) -> tuple[Floats, Floats]:
        boxes, confidence = session.run(list(OVERLAY_OUTPUTS), {INPUT: batch, PROPOSALS: proposals})
        return np.asarray(boxes, np.float32), np.asarray(confidence, np.float32)

    return run


def _torch_runner(path: Path, device: str | None) -> Run:
    import torch  # noqa: PLC0415

    target = torch_device(device)
    network = load_overlay(path).to(target).to(memory_format=torch.channels_last)

    def run(batch: NDArray[np.uint8], proposals: Floats) -> tuple[Floats, Floats]:
        with torch.inference_mode():
            boxes, confidence = network(torch.from_numpy(batch).to(target), torch.from_numpy(proposals).to(target))
        return boxes.cpu().numpy(), confidence.cpu().numpy()

    return run
