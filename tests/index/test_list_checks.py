from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from copytrace.checked_files import checksums_by, write_record
from copytrace.checksums import collect_checksums
from copytrace.errors import DamagedFileError
from copytrace.index.list_checks import list_checks
from copytrace.index.point_lists import CodedPoints
from copytrace.index.point_quantizer import shipped_quantizer
from copytrace.storage import atomic_path

MEMBERS = np.repeat(np.array([3, 4, 4095], np.int64), [40, 1, 33])
BYTES = {3: slice(0, 64 * 24), 4: slice(64 * 24, 96 * 24), 4095: slice(96 * 24, 160 * 24)}


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """Write lists, and a record of them, `record.json` beside them."""
    coded = CodedPoints(shipped_quantizer().coarse, len(MEMBERS))
    coded.add(MEMBERS, np.ones((len(MEMBERS), 16), np.uint8), np.arange(len(MEMBERS)))
    with collect_checksums() as written:
        path = coded.write(tmp_path / "some.points")
    write_record(tmp_path / "record.json", {"checksums": checksums_by(tmp_path / "record.json", written)})
    return path


def as_older_version(lists: Path, record: Path) -> None:
    table = np.load(lists.with_suffix(".lists"))
    with collect_checksums() as written, atomic_path(lists.with_suffix(".lists")) as path, path.open("wb") as file:
        np.save(file, np.ascontiguousarray(table[:, :3]))
    checksums = checksums_by(record, written)
    with collect_checksums() as same, atomic_path(lists) as path:
        path.write_bytes(lists.read_bytes())
    write_record(record, {"checksums": checksums | checksums_by(record, same)})


def flip(lists: Path, at: int) -> None:
    content = bytearray(lists.read_bytes())
    content[at] ^= 1
    lists.write_bytes(content)


@pytest.mark.parametrize("damaged", [3, 4, 4095])
def test_a_damaged_list_is_noticed_when_it_is_needed_and_not_before(lists: Path, damaged: int) -> None:
    flip(lists, BYTES[damaged].stop - 1)
    checks = list_checks(lists, lists.with_name("record.json"))
    assert checks is not None
    checks.check_lists(np.array([[-1, 7], [each for each in BYTES if each != damaged]]))
    with pytest.raises(DamagedFileError, match=rf"some\.points is damaged at byte {BYTES[damaged].start:,} or behind"):
        checks.check_lists(np.array([damaged]))


def test_lists_of_an_older_version_are_checked_by_the_blocks_of_their_file(lists: Path) -> None:
    record = lists.with_name("record.json")
    as_older_version(lists, record)
    checks = list_checks(lists, record)
    assert checks is not None
    checks.check_lists(np.array([3, -1]))
    flip(lists, 5)
    again = list_checks(lists, record)
    assert again is not None
    with pytest.raises(DamagedFileError, match=r"some\.points is damaged at byte 0 or behind"):
        again.check_lists(np.array([4095]))  # in the same block


def test_a_cut_file_of_lists_is_damaged(lists: Path) -> None:
    lists.write_bytes(lists.read_bytes()[:-1])
    with pytest.raises(DamagedFileError, match="3,839 bytes instead of 3,840"):
        list_checks(lists, lists.with_name("record.json"))
