"""A plan of an older version, which has no checksum, is planned anew if it is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from copytrace.index.media_index import plan_index
from copytrace.index.plan_file import PLAN_SCHEMA, PROVENANCE_KEY, plan_path
from copytrace.tables import write_table


def test_a_path_that_is_no_text_leaves_nothing_of_the_plan(tmp_path: Path) -> None:
    values = {"id": "a", "stamp": "", "content": "", "shard": 0, "kept": False, "fingerprint": "f"}
    bad = pa.array([b"\xff\xfe"], pa.large_binary()).view(pa.large_string())
    columns = [
        bad.cast(field.type) if field.name == "path" else pa.array([values[field.name]], field.type)
        for field in PLAN_SCHEMA
    ]
    table = pa.Table.from_arrays(columns, schema=PLAN_SCHEMA)
    (tmp_path / "index").mkdir()
    write_table(
        plan_path(tmp_path / "index"), table.replace_schema_metadata({PROVENANCE_KEY: json.dumps({"role": "queries"})})
    )
    plan = plan_index([], tmp_path / "index", {"role": "queries"}, shard_size=2, is_described=lambda shard: True)
    assert plan.shards == ()
