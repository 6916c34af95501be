"""Media that are moved between two runs into the same folder: nothing is done again but what names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.images import ImageSettings
from copytrace.images import match_images

Pixels = NDArray[np.uint8]


def test_results_lead_to_media_that_were_moved_and_nothing_is_described_or_searched_again(
    tmp_path: Path, photos: dict[str, Pixels], write_photos: Callable[[Path, Mapping[str, Pixels]], Path]
) -> None:
    settings = ImageSettings.model_validate(
        {"local": {"stretches": []}, "overlay": {"detector": "none"}, "report": {"max_matches": 5}}
    )
    write_photos(tmp_path / "here" / "queries", {"a": photos["chelsea"][:, ::-1]})
    write_photos(tmp_path / "here" / "references", {name: photos[name] for name in ("astronaut", "chelsea")})
    out = tmp_path / "out"

    def run(root: Path) -> dict[Path, int]:
        match_images(root / "queries", root / "references", out, settings)
        # The record of a step names its cost, so that one that is written again is another.
        return {path: path.stat().st_mtime_ns for path in out.glob("work/**/[0-9]*.json")}

    before = run(tmp_path / "here")
    found = (out / "matches.csv").read_bytes()
    (tmp_path / "here").rename(tmp_path / "there")
    assert run(tmp_path / "there") == before
    assert (out / "matches.csv").read_bytes() == found
    page = (out / "report.html").read_text()
    assert str(tmp_path / "there") in page
    assert str(tmp_path / "here") not in page
