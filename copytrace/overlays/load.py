"""Loading of an overlay detector by its name, path or URI."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from copytrace.errors import ConfigError
from copytrace.overlays.boxes import OverlayDetector
from copytrace.overlays.edge_detector import EdgeOverlayDetector
from copytrace.overlays.network_detector import NetworkOverlayDetector
from copytrace.runtime.devices import Backend
from copytrace.runtime.model_sources import resolve_model


def load_overlay_detector(
    name: str = "network", *, backend: Backend = "auto", device: str | None = None
) -> OverlayDetector | None:
    """Load a detector by its name in `DETECTORS`, or a trained one from where `resolve_model` finds it.

    "edges" looks for straight borders. "network" is the trained detector that ships with Copytrace. "none" returns
    None, and no query is cropped. Any other path or URI is a detector that `train_overlay_detector` wrote. `backend`
    and `device` apply to trained detectors: "auto" uses torch if there is CUDA, otherwise ONNX Runtime. Raises
    `ConfigError` for an unknown name or a missing file, and `CopytraceError` if ONNX Runtime is not installed or the
    cache cannot be written.
    """
    if name in DETECTORS:
        return DETECTORS[name](backend, device)
    if not re.search(r"[/\\.:]", name) and not Path(name).exists():
        known = ", ".join(sorted(DETECTORS))
        raise ConfigError(f"unknown overlay detector {name!r}; give one of: {known}, or the path of a trained one")
    return _load_trained(name, backend, device)


def _load_trained(source: str, backend: Backend, device: str | None) -> OverlayDetector:
    return NetworkOverlayDetector(resolve_model(source, "overlay"), backend=backend, device=device)


DETECTORS: dict[str, Callable[[Backend, str | None], OverlayDetector | None]] = {
    "edges": lambda backend, device: EdgeOverlayDetector(),
    "network": lambda backend, device: _load_trained("shipped", backend, device),
    "none": lambda backend, device: None,
}
