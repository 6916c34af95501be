from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from copytrace import sorted_tables
from copytrace.sorted_tables import SortedTables

SCHEMA = pa.schema([("score", pa.float64()), ("id", pa.string())])
ORDER = [("score", "descending"), ("id", "ascending")]
ROWS = st.tuples(st.integers(0, 3).map(float), st.text("aé𝄞z", max_size=2))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(ROWS, max_size=9), max_size=9), st.integers(1, 5))
def test_rows_come_in_order_whatever_tables_they_came_in(
    monkeypatch: pytest.MonkeyPatch, parts: list[list[tuple[float, str]]], rows: int
) -> None:
    monkeypatch.setattr(sorted_tables, "ROWS_IN_MEMORY", 4)
    monkeypatch.setattr(sorted_tables, "FEWEST_ROWS", 2)
    with SortedTables(SCHEMA, ORDER) as tables:
        for part in parts:
            tables.add(pa.table(list(zip(*part, strict=True)) or [[], []], schema=SCHEMA))
        found = list(tables.tables(rows))
    expected = sorted((row for part in parts for row in part), key=lambda row: (-row[0], row[1]))
    assert [tuple(row.values()) for table in found for row in table.to_pylist()] == expected
    assert all(len(table) == rows for table in found[:-1])
    assert len(found[-1]) <= rows


def test_memory_holds_few_rows_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(sorted_tables, "ROWS_IN_MEMORY", 1000)
    before, largest, found = pa.total_allocated_bytes(), 0, 0
    with SortedTables(SCHEMA, ORDER) as tables:
        for number in range(200):
            scores = [float((number * 1000 + row) * 7919 % 1_000_003) for row in range(1000)]
            tables.add(pa.table([scores, ["x" * 50] * 1000], schema=SCHEMA))
        for table in tables.tables(1000):
            largest = max(largest, pa.total_allocated_bytes() - before)
            found += len(table)
    assert found == 200_000
    assert largest < 30 * 70 * 1000  # bytes of thirty times the rows in memory; all of them have 200 times as many
    assert not list(tmp_path.iterdir())
