"""Indexes of an older version, whose shards have no thumbnails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.images import ImageSettings
from copytrace import images
from copytrace.checked_files import read_record, write_record
from copytrace.images import index_images, match_images
from copytrace.index import image_index
from copytrace.index.added_thumbnails import shards_without_thumbnails
from copytrace.index.image_index import ImageIndex, ShardPaths
from copytrace.index.image_segments import IMAGE_SCHEMA, open_segments
from copytrace.index.segments import drop_segments
from copytrace.search.thumbnail_search import count_thumbnails
from copytrace.tables import read_table

Pixels = NDArray[np.uint8]


def make_older(root: Path, index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bring an index into the state in which a version without thumbnails left it."""
    for shard in index.shards:
        paths = ShardPaths.of(root, shard)
        record = read_record(paths.receipt)
        checksums = {name: value for name, value in record["checksums"].items() if "thumbnails" not in name}
        write_record(paths.receipt, record | {"bytes": record["bytes"][:3], "checksums": checksums})
        paths.thumbnails.unlink()
    drop_segments(root, {"segments"})
    with monkeypatch.context() as patch:
        patch.setattr("copytrace.index.image_segments.IMAGE_SCHEMA", IMAGE_SCHEMA.remove(4))
        patch.setattr("copytrace.index.image_segments.table_of_rows", older_table)
        images.index_segments(root)


def older_table(rows: list[tuple[object, ...]], schema: object) -> object:
    from copytrace.tables import table_of_rows  # noqa: PLC0415

    return table_of_rows([row[:4] for row in rows], schema)


@pytest.mark.usefixtures("use_grid_descriptor")
def test_an_older_index_is_searched_and_the_command_that_made_it_adds_its_thumbnails(
    tmp_path: Path,
    photos: dict[str, Pixels],
    write_photos: Callable[[Path, Mapping[str, Pixels]], Path],
    image_settings: ImageSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(images, "load_image_models", image_index.load_image_models)
    plain = {f"gray{level}": np.full((80, 100, 3), level, np.uint8) for level in (90, 96, 140)}
    references = write_photos(tmp_path / "references", photos | plain)
    queries = write_photos(tmp_path / "queries", {"again": np.full((50, 60, 3), 91, np.uint8)})
    root = index_images(references, tmp_path / "index", image_settings)
    make_older(root, ImageIndex.open(root), monkeypatch)
    (segment,) = root.glob("segments/*.parquet")
    assert "key" not in read_table(segment).column_names

    def scores() -> dict[str, float]:
        match_images(queries, root, tmp_path / "out", image_settings)
        table = read_table(tmp_path / "out" / "matches.parquet")
        return dict(zip(table["reference_id"].to_pylist(), table["score"].to_pylist(), strict=True))

    before = scores()
    assert count_thumbnails(open_segments(ImageIndex.open(root))) == 0
    described = {path: path.stat().st_mtime_ns for path in root.glob("points/*")}
    index_images(references, root, image_settings)
    assert {path: path.stat().st_mtime_ns for path in root.glob("points/*")} == described
    assert shards_without_thumbnails(root) == []
    assert count_thumbnails(open_segments(ImageIndex.open(root))) == len(photos) + 3
    after = scores()
    assert after["gray90"] > 0.5
    assert max(score for reference, score in after.items() if reference != "gray90") < 0.1
    assert max(before.values(), default=0) != after["gray90"]
