from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from copytrace.errors import ConfigError
from copytrace.overlays.box_files import BoxFile
from copytrace.overlays.boxes import Box
from copytrace.overlays.detectors import load_overlay_detector


def write(folder: Path, *rows: str) -> Path:
    (folder / "boxes.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / "boxes.csv"


def test_corners_and_yolos_centers_are_the_same_boxes_best_first(tmp_path: Path):
    expected = [Box(0.25, 0.5, 0.75, 1.0, 0.9), Box(0.0, 0.0, 0.5, 0.25, 0.4)]
    corners = write(tmp_path, "id,x0,y0,x1,y1,confidence", "Q1,0,0,0.5,0.25,0.4", "Q1,0.25,0.5,0.75,1,0.9")
    assert BoxFile(corners).boxes_of("Q1") == expected
    assert BoxFile(corners).boxes_of("Q2") == ()
    yolo = write(
        tmp_path,
        "class,id,x_center,y_center,width,height,confidence",
        "0,Q1,0.25,0.125,0.5,0.25,0.4",
        "3,Q1,0.5,0.75,0.5,0.5,0.9",
    )
    assert BoxFile(yolo).boxes_of("Q1") == expected


def test_boxes_may_be_for_one_branch_and_are_cut_at_the_border(tmp_path: Path):
    path = write(tmp_path, "id,x0,y0,x1,y1,confidence,branch", "'=Q,-0.002,0,1.001,0.5,0.6,local", "Q,0,0,1,1,0.6,")
    boxes = BoxFile(path)
    assert boxes.boxes_of("=Q") == [Box(0.0, 0.0, 1.0, 0.5, 0.6, "local")]
    assert boxes.boxes_of("Q")[0].branch == "both"


def test_a_csv_is_a_detector_of_images_and_not_of_frames(tmp_path: Path):
    path = write(tmp_path, "id,x0,y0,x1,y1,confidence", "Q,0,0,0.5,0.5,0.6")
    detector = load_overlay_detector(str(path))
    assert isinstance(detector, BoxFile)
    with pytest.raises(ConfigError, match=r"for overlay\.detector of images"):
        detector.detect(np.zeros((8, 8, 3), np.uint8))
    before = detector.digest
    assert BoxFile(write(tmp_path, "id,x0,y0,x1,y1,confidence", "Q,0,0,0.5,0.6,0.6")).digest != before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["id,x0,y0,x1,confidence"], r"needs the columns id,x0,y0,x1,y1,confidence or .*it has id, x0, y0, x1, confid"),
        ([""], "it has none"),
        (["id,x0,y0,x1,y1,confidence", "Q,0,0,1,1,.5", "Q,0,0,1,,0.5"], "boxes.csv, row 3: could not convert"),
        (["id,x0,y0,x1,y1,confidence", "Q,0,0,640,480,.5"], "row 2: the box is not inside of the picture"),
        (["id,x0,y0,x1,y1,confidence", "Q,0,0,nan,1,.5"], "row 2: the box is not inside"),
        (["id,x0,y0,x1,y1,confidence", "Q,0.5,0,0.5,1,.5"], "row 2: the box is empty"),
        (["id,x0,y0,x1,y1,confidence", "Q,0,0,1,1,50"], "row 2: the box is empty, or its confidence"),
        (["id,x0,y0,x1,y1,confidence,branch", "Q,0,0,1,1,1,crop"], "row 2: branch 'crop' is unknown"),
    ],
)
def test_a_wrong_file_is_told_with_its_row(rows: list[str], message: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=message):
        BoxFile(write(tmp_path, *rows))
