"""Files that somebody names are refused before they fill the memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from configs.bounded_files import MOST_BYTES, MOST_CHARACTERS, bounded_lines, read_small_file
from copytrace.features.editing import EditingFile, EditingNetworks
from copytrace.matching.score import load_calibration
from copytrace.metrics.tables import read_table
from copytrace.overlays.box_files import BoxFile
from copytrace.storage import digest_of_file
from copytrace.submissions.media_lists import read_media_list
from models.descriptor_spec import read_spec

TOO_LARGE, TOO_LONG = f"more than {MOST_BYTES:,} bytes", f"line 1 has more than {MOST_CHARACTERS:,} characters"


def make_file(path: Path, size: int) -> Path:
    path.write_bytes(b" " * size)
    return path


def test_a_file_of_just_the_largest_size_is_read(tmp_path: Path) -> None:
    assert len(read_small_file(make_file(tmp_path / "a", MOST_BYTES))) == MOST_BYTES


def test_a_device_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match=TOO_LARGE):
        read_small_file(Path("/dev/zero"))
    with Path("/dev/zero").open() as file, pytest.raises(ValueError, match=TOO_LONG):
        next(bounded_lines(file))
    with pytest.raises(OSError, match="not a regular file"):
        digest_of_file(Path("/dev/zero"))


def test_lines_keep_their_ends_and_the_longest_one_is_read(tmp_path: Path) -> None:
    longest = "x" * (MOST_CHARACTERS - 1) + "\n"
    path = tmp_path / "lines"
    path.write_text(f"{longest}\nlast")
    with path.open() as file:
        assert list(bounded_lines(file)) == [longest, "\n", "last"]


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("calibration.json", lambda path: load_calibration(str(path))),
        ("descriptor.yaml", read_spec),
        ("editing.yaml", lambda path: EditingNetworks(path, "cpu")),
    ],
)
def test_a_small_file_that_is_too_large_is_told(name: str, read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(Exception, match=rf"{name}.*{TOO_LARGE}"):
        read(make_file(tmp_path / name, MOST_BYTES + 1))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("boxes.csv", BoxFile),
        ("editing.csv", EditingFile),
        ("pairs.csv", lambda path: read_table(path, ("query_id", "ref_id"))),
        ("ids.txt", read_media_list),
    ],
)
def test_a_table_whose_line_does_not_end_is_told(name: str, read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(Exception, match=rf"{name}.*{TOO_LONG}"):
        read(make_file(tmp_path / name, MOST_CHARACTERS + 1))
