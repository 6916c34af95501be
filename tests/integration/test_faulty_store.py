"""A real S3 store behind a proxy that fails now and then."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import fsspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from configs.images import ImageSettings
from copytrace.images import match_images
from copytrace.media import sources
from copytrace.media.failures import read_failures
from tasks.service.seaweedfs import SeaweedFS
from tests.few_points import FEW_POINTS
from tests.integration.faulty_proxy import FaultyProxy

Pixels = NDArray[np.uint8]
QUICK = ImageSettings.model_validate(
    {
        "descriptor": {"input_size": 128},
        "local": FEW_POINTS,
        "overlay": {"detector": "edges"},
        "report": {"max_matches": 5},
    }
)


def test_faults_that_pass_change_nothing_in_a_run(
    proxy: FaultyProxy,
    object_store: SeaweedFS,
    photos: Mapping[str, Pixels],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "READ_SECONDS", 5.0)
    root = f"s3://{object_store.bucket}/faulty"
    for side, names in (("queries", ("chelsea", "rocket")), ("references", ("chelsea", "coffee"))):
        for name in names:
            with fsspec.open(f"{root}/{side}/{name}.png", "wb") as file:
                Image.fromarray(photos[name]).save(file, "PNG")
    match_images(f"{root}/queries", f"{root}/references", tmp_path / "calm", QUICK)
    proxy.faults = ["503", "closed", "", "503", "stall", "", "closed", "503"]
    match_images(f"{root}/queries", f"{root}/references", tmp_path / "rough", QUICK)
    assert not proxy.faults
    assert read_failures(tmp_path / "rough" / "failures.csv") == []
    assert (tmp_path / "rough" / "matches.csv").read_bytes() == (tmp_path / "calm" / "matches.csv").read_bytes()
    boxes = [tmp_path / run / "work" / "queries" / "overlays" / "00000.parquet" for run in ("calm", "rough")]
    assert boxes[0].read_bytes() == boxes[1].read_bytes()
