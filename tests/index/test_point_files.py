from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from copytrace.features.points import Points
from copytrace.index import shard_files
from copytrace.index.shard_files import POINT_SCHEMA, VIEW_SCHEMA, View, read_points, write_points


def random_view(image: str, name: str, count: int, box: tuple[float, float, float, float] = (0, 0, 1, 1)) -> View:
    random = np.random.default_rng(count)
    x, y, scale, angle = random.random((4, count), np.float32)
    return View(image, name, Points(x, y, scale, angle, random.integers(0, 256, (count, 128), np.uint8), 40, 30, box))


def check_same(found: View, expected: View) -> None:
    assert (found.id, found.name) == (expected.id, expected.name)
    assert (found.points.width, found.points.height) == (expected.points.width, expected.points.height)
    assert found.points.box == pytest.approx(expected.points.box)
    for column in ("x", "y", "scale", "angle", "descriptor"):
        before, after = getattr(expected.points, column), getattr(found.points, column)
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(after, before)


def written(folder: Path, views: list[View]) -> tuple[Path, Path]:
    paths = folder / "points.parquet", folder / "views.parquet"
    write_points(*paths, views)
    return paths


def test_views_come_back_as_they_were_written(tmp_path: Path) -> None:
    views = [
        random_view("b", "whole", 3),
        random_view("b", "crop0", 2, (0.25, 0.5, 0.75, 1.0)),
        random_view("a/ä", "whole", 1),
    ]
    for found, expected in zip(read_points(*written(tmp_path, views)), views, strict=True):
        check_same(found, expected)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts=st.lists(st.integers(0, 5), max_size=6))
def test_views_without_points_keep_their_place(tmp_path: Path, counts: list[int]) -> None:
    views = [random_view(f"image{number}", "whole", count) for number, count in enumerate(counts)]
    for found, expected in zip(read_points(*written(tmp_path, views)), views, strict=True):
        check_same(found, expected)


def test_a_shard_of_unreadable_images_is_written_and_read(tmp_path: Path) -> None:
    assert list(read_points(*written(tmp_path, []))) == []


def test_files_carry_their_stamp_and_columns(tmp_path: Path) -> None:
    points, views = written(tmp_path, [random_view("a", "whole", 2)])
    assert pq.read_schema(points).names == POINT_SCHEMA.names
    assert pq.read_schema(views).names == VIEW_SCHEMA.names
    assert pq.read_table(points, columns=["id"]).column("id").to_pylist() == ["a", "a"]


def test_the_same_views_give_the_same_bytes(tmp_path: Path) -> None:
    views = [random_view("a", "whole", 4)]
    first, second = (written(tmp_path / name, views) for name in ("first", "second"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize("folder", ["run=3", "with space", "ünï"])
def test_folders_of_any_name_can_be_read(tmp_path: Path, folder: str) -> None:
    expected = random_view("a", "whole", 2)
    (found,) = read_points(*written(tmp_path / folder, [expected]))
    check_same(found, expected)


def test_points_that_span_row_groups_are_joined(tmp_path: Path) -> None:
    points, views = written(tmp_path, [random_view("a", "whole", 30), random_view("b", "whole", 20)])
    pq.write_table(pq.read_table(points), points, row_group_size=7)
    first, second = read_points(points, views)
    check_same(first, random_view("a", "whole", 30))
    check_same(second, random_view("b", "whole", 20))


@pytest.mark.parametrize("rows_per_group", [1, 3, 1000])
def test_of_wanted_images_only_their_part_of_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_group: int
) -> None:
    monkeypatch.setattr(shard_files, "POINTS_PER_GROUP", rows_per_group)
    views = [random_view(f"i{number}", "whole", count) for number, count in enumerate((4, 0, 1, 7, 2))]
    paths = written(tmp_path, views)
    assert pq.read_metadata(paths[0]).num_row_groups == -(-14 // rows_per_group)
    for wanted in ([], ["i0"], ["i1"], ["i2", "i4"], ["i1", "i3"], ["i0", "i1", "i2", "i3", "i4"]):
        found = list(read_points(*paths, wanted))
        assert [view.id for view in found] == wanted
        for view in found:
            check_same(view, views[int(view.id[1])])
