"""Boxes of pasted pictures that an external detector found, such as a YOLO, from a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from configs.bounded_files import bounded_lines
from copytrace.cells import restore
from copytrace.errors import ConfigError
from copytrace.overlays.boxes import Box, Branch
from copytrace.storage import digest_of_file

CORNERS = ("x0", "y0", "x1", "y1")
CENTER = ("x_center", "y_center", "width", "height")  # YOLO's
_FORM = f"id,{','.join(CORNERS)},confidence or id,{','.join(CENTER)},confidence, and branch if it is global or local"
_OUTSIDE = 0.01  # of a side; detectors' boxes may end a little outside of the picture, where they are cut

Form = Literal["corners", "center"]


class BoxFile:
    """The boxes of a CSV file by the ids of images, in the place of an `OverlayDetector`.

    `digest` is that of the file. Raises `ConfigError`, which names the row, for a file that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._boxes = _read(path)
        self.digest = digest_of_file(path)

    def boxes_of(self, image: str) -> Sequence[Box]:
        """Return the boxes of an image, best first; none if the file has none."""
        return self._boxes.get(image, ())

    def detect(self, pixels: NDArray[np.uint8]) -> list[Box]:
        """Raise `ConfigError`: the boxes of a file belong to ids, and frames of videos have none."""
        raise ConfigError("boxes of a CSV file are for overlay.detector of images; panes.detector needs a network")


def _read(path: Path) -> dict[str, list[Box]]:
    found: dict[str, list[Box]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(bounded_lines(file))
            names = set(rows.fieldnames or ())
            form: Form = "corners" if names >= set(CORNERS) else "center"
            if not names >= {"id", "confidence", *(CORNERS if form == "corners" else CENTER)}:
                raise ConfigError(
                    f"{path} needs the columns {_FORM}; it has {', '.join(rows.fieldnames or ()) or 'none'}"
                )
            for row in rows:
                image, box = _parse(row, form, f"{path}, row {rows.line_num}")
                found.setdefault(image, []).append(box)
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as boxes: {error}; give CSV with the columns {_FORM}") from error
    return {image: sorted(boxes, key=lambda box: -box.confidence) for image, boxes in found.items()}


def _parse(row: Mapping[str, str | None], form: Form, place: str) -> tuple[str, Box]:
    try:
        values = [float(row[name] or "") for name in (*(CORNERS if form == "corners" else CENTER), "confidence")]
    except ValueError as error:
        raise ConfigError(f"{place}: {error}; give numbers") from error
    first, second, third, fourth, confidence = values
    if form == "center":
        first, second, third, fourth = first - third / 2, second - fourth / 2, first + third / 2, second + fourth / 2
    corners = np.array([first, second, third, fourth])
    if not (np.isfinite(values).all() and (corners > -_OUTSIDE).all() and (corners < 1 + _OUTSIDE).all()):
        raise ConfigError(f"{place}: the box is not inside of the picture; give shares of its width and height, 0 to 1")
    if not (0 <= confidence <= 1 and first < third and second < fourth):
        raise ConfigError(f"{place}: the box is empty, or its confidence is not between 0 and 1; correct it")
    branch = (row.get("branch") or "both").strip()
    if branch not in get_args(Branch):
        raise ConfigError(f"{place}: branch {branch!r} is unknown; give global or local, or leave it empty")
    kept: Branch = "global" if branch == "global" else "local" if branch == "local" else "both"
    x0, y0, x1, y1 = np.clip(corners, 0, 1).tolist()
    return restore(row["id"] or ""), Box(x0, y0, x1, y1, confidence, kept)
