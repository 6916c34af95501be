"""Media that are moved between two runs into the same folder: nothing is done again but what shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.images import ImageSettings, MergeSettings
from copytrace import images
from copytrace.images import match_images
from copytrace.index import image_index

Pixels = NDArray[np.uint8]


@pytest.mark.usefixtures("use_grid_descriptor")
def test_media_that_were_moved_are_shown_and_neither_described_nor_searched_again(
    tmp_path: Path,
    photos: dict[str, Pixels],
    write_photos: Callable[[Path, Mapping[str, Pixels]], Path],
    image_settings: ImageSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(images, "load_image_models", image_index.load_image_models)
    settings = image_settings.model_copy(update={"merge": MergeSettings(rule="sum")})
    write_photos(tmp_path / "here" / "queries", {"a": photos["chelsea"][:, ::-1]})
    write_photos(tmp_path / "here" / "references", {name: photos[name] for name in ("astronaut", "chelsea")})
    out = tmp_path / "out"
    page, table = out / "report.html", out / "matches.csv"

    def run(root: Path) -> dict[Path, int]:
        """Return when the records of shards were written."""
        match_images(root / "queries", root / "references", out, settings)
        return {path: path.stat().st_mtime_ns for path in out.glob("work/**/[0-9]*.json")}

    before = run(tmp_path / "here")
    shown, made, found = page.read_bytes(), page.stat().st_mtime_ns, table.read_bytes()
    assert len(before) > 4
    assert b"chelsea" in found
    (tmp_path / "here").rename(tmp_path / "there")
    assert run(tmp_path / "there") == before
    assert (table.read_bytes(), page.read_bytes()) == (found, shown)
    assert page.stat().st_mtime_ns > made  # its pictures are those of the files as they lie now
