"""Crops of queries by the boxes of a file, of which some are for one branch only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.images import ImageSettings
from copytrace.index import image_index
from copytrace.index.media_index import finish_index
from copytrace.overlays.box_files import BoxFile

BOXES = """id,x_center,y_center,width,height,confidence,branch
both,0.5,0.5,0.5,0.5,0.6,
both,0.4,0.4,0.5,0.5,0.55,
global,0.5,0.5,0.5,0.5,0.6,global
local,0.5,0.5,0.5,0.5,0.6,local
faint,0.5,0.5,0.5,0.5,0.53,
at threshold,0.5,0.5,0.5,0.5,0.55,
apart,0.5,0.5,0.5,0.5,0.6,global
apart,0.25,0.25,0.5,0.5,0.7,local
"""


def test_each_branch_takes_its_own_best_box_above_its_own_confidence(
    tmp_path: Path, grid_descriptor: object, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "boxes.csv").write_text(BOXES)
    names = ["both", "global", "local", "faint", "at threshold", "apart", "none"]
    (tmp_path / "images").mkdir()
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (80, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
    models = (grid_descriptor, BoxFile(tmp_path / "boxes.csv"))
    monkeypatch.setattr(image_index, "load_image_models", lambda descriptor, detector: models)
    overlay = {"global_confidence": 0.55, "local_confidence": 0.5, "max_crops": 1}
    settings = ImageSettings.model_validate({"overlay": overlay, "local": {"stretches": []}, "media": {"threads": 1}})
    root = tmp_path / "index"
    (shard,) = image_index.plan_images(str(tmp_path / "images"), root, "queries", settings, replace=False)
    image_index.find_overlays(root, shard, settings)
    image_index.describe_images(root, shard, settings)
    finish_index(root, tmp_path / "failures.csv", [root], 0.0)
    index = image_index.ImageIndex.open(root)
    descriptors = index.descriptors(shard)
    panes = set(zip(descriptors.ids, descriptors.panes, strict=True))
    views = {(view.id, view.name): view.points.box for view in index.views(shard)}
    crops = {name for name, pane in panes if pane == "crop0"}, {name for name, view in views if view == "crop0"}
    assert crops == ({"both", "global", "apart"}, {"both", "local", "faint", "at threshold", "apart"})
    assert views["both", "crop0"] == pytest.approx((0.25, 0.25, 0.75, 0.75))
    assert views["apart", "crop0"] == pytest.approx((0.0, 0.0, 0.5, 0.5))
    assert len(panes) == len(names) + 3
