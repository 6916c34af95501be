"""Alterations of files that know how a format is built, beside those of bytes in `hostile_media`.

Each takes a good file and a random generator and returns another file, in which one thing or a few are wrong.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults.hostile_media import alter_bytes

Random = np.random.Generator
Alteration = Callable[[bytes, Random], bytes]

_DEEP = 20_000  # levels
TOKENS = [
    *(
        b"",
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b'"',
        b"'",
        b"\r",
        b"\n",
        b"\n\n",
        b",",
        b"\t",
        b";",
        b"\\",
        b"\\ud800",
    ),
    *(b"nan", b"inf", b"-1", b"-0.0", b"0", b"1e999", b"9" * 30, b"9" * 5000, b"1" * 30 + b".5", b"0x10", b"1_0"),
    *(b"null", b"true", b"[]", b"{}", b"[[1]]", b'"text"', b"[" * _DEEP, b'{"a":' * _DEEP, b"," * 2000, b"x" * 70_000),
    *(b"!!int x", b"!!float y", b"2024-13-45", b"&a [*a, *a]", b"*missing", b"<<: 1", b"? [1]: 2", b"!!binary _", b"="),
    *(
        b"!!python/object/apply:os.getcwd []",
        b"a: " * _DEEP,
        b"- " * _DEEP,
        b"../../x",
        b"/etc",
        b"~",
        b"s3://",
        b"://",
    ),
    "\u202e\u0130\U0001f600\ud7ff".encode(),
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 10**4000, 0.5, -0.5, 1e308, "", "x", "\0", "\ud800"),
    *(
        "../../x",
        "text\nof lines",
        [],
        {},
        [None],
        [[[]]],
        {"": None},
        {"a": {"b": []}},
        "9" * 5000,
        "nan",
        float("nan"),
    ),
]
ARRAYS: list[Callable[[], Any]] = [
    *(lambda: np.zeros(0), lambda: np.zeros((2, 0)), lambda: np.zeros((0, 3), np.float32), lambda: np.array(3.0)),
    *(
        lambda: np.array(["a", "b"]),
        lambda: np.array([b"\xff", b"b"]),
        lambda: np.array([True]),
        lambda: np.zeros(2, "c16"),
    ),
    *(lambda: np.array([2**63], np.uint64), lambda: np.array([np.nan, np.inf]), lambda: np.array(["2020"], "M8[ns]")),
    *(
        lambda: np.zeros((1, 1, 1, 1)),
        lambda: np.zeros(2, [("a", "f4"), ("b", "S3")]),
        lambda: np.zeros((3, 4), np.float16),
    ),
]
COLUMNS: list[Callable[[int], Any]] = [
    pa.nulls,
    lambda rows: pa.array([None] * rows, pa.string()),
    lambda rows: pa.array([b"\xff\xfe"] * rows, pa.binary()),
    lambda rows: pa.array([[1]] * rows),
    lambda rows: pa.array([{"a": 1}] * rows),
    lambda rows: pa.array([-1] * rows, pa.int64()),
    lambda rows: pa.array([2**63] * rows, pa.uint64()),
    lambda rows: pa.array([float("nan")] * rows),
    lambda rows: pa.array(["x" * 1000] * rows),
    lambda rows: pa.array(["a", None] * rows, pa.string())[:rows].dictionary_encode(),
    lambda rows: pa.array([10**14] * rows, pa.timestamp("ms")),
    lambda rows: pa.array([1] * rows, pa.decimal128(38, 10)),
    lambda rows: pa.array([True] * rows),
    lambda rows: pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(3), rows, [None, pa.py_buffer(b"\xff" * 3 * rows)]
    ),
]  # fmt: skip


def alter(content: bytes, suffix: str, random: Random) -> bytes:
    """Return a file of a format, by its suffix, that is altered in its bytes, in its structure, or in both."""
    structural = _BY_SUFFIX.get(suffix)
    choice = random.random()
    if structural and choice < 0.6:
        content = structural(content, random)
    if not structural or choice > 0.5:
        content = alter_bytes(content, random)
    return content


def alter_text(content: bytes, random: Random) -> bytes:
    """Insert tokens, or put them in the place of words."""
    for _ in range(int(random.integers(1, 4))):
        token = TOKENS[int(random.integers(len(TOKENS)))]
        words = list(re.finditer(rb"[^\s,:\"]+", content))
        if words and random.random() < 0.7:
            start, end = words[int(random.integers(len(words)))].span()
        else:
            start = end = int(random.integers(len(content) + 1))
        content = content[:start] + token + content[end:]
    return content


def alter_json(content: bytes, random: Random) -> bytes:
    """Change a value somewhere in JSON, drop it, or add one; JSON in texts counts, too."""
    if random.random() < 0.2:
        return alter_text(content, random)
    try:
        root = [json.loads(content)]
    except ValueError:
        return alter_text(content, random)
    root[0].pop("crc32", None) if isinstance(root[0], dict) else None  # or else every change is one that is noticed
    _alter_value(root, 0, random)
    return json.dumps(root[0]).encode()


def _alter_value(holder: Any, key: Any, random: Random) -> None:
    value = holder[key]
    if isinstance(value, str) and value.startswith(("{", "[")) and random.random() < 0.8:
        holder[key] = alter_json(value.encode(), random).decode("utf-8", "replace")
    elif isinstance(value, dict | list) and value and random.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        inner = keys[int(random.integers(len(keys)))]
        if random.random() < 0.1:
            del value[inner]
        else:
            _alter_value(value, inner, random)
    else:
        holder[key] = VALUES[int(random.integers(len(VALUES)))]


def alter_safetensors(content: bytes, random: Random) -> bytes:
    """Change the header of tensors, which is JSON."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = alter_json(content[8:end], random)
    return len(header).to_bytes(8, "little") + header + content[end:]


def alter_npz(content: bytes, random: Random) -> bytes:
    """Change, drop or damage an array."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = list(members)[int(random.integers(len(members)))]
    what = random.random()
    if what < 0.1:
        del members[name]
    elif what < 0.6:
        array = io.BytesIO()
        np.save(array, ARRAYS[int(random.integers(len(ARRAYS)))]())
        members[name] = array.getvalue()
    else:
        members[name] = alter_text(members[name][:128], random) + members[name][128:]
    written = io.BytesIO()
    with zipfile.ZipFile(
        written, "w", zipfile.ZIP_DEFLATED if random.random() < 0.5 else zipfile.ZIP_STORED
    ) as archive:
        for each, member in members.items():
            archive.writestr(each, member)
    return written.getvalue()


def alter_parquet(content: bytes, random: Random) -> bytes:
    """Change, drop or repeat a column, or change the metadata; without the checksum in it, as of an older version."""
    table = pq.read_table(io.BytesIO(content))
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != b"copytrace.crc32"}
    what, at = random.random(), int(random.integers(table.num_columns))
    if what < 0.1:
        table = table.remove_column(at)
    elif what < 0.2:
        table = table.slice(0, int(random.integers(len(table) + 1)))
    elif what < 0.4 and metadata:
        key = list(metadata)[int(random.integers(len(metadata)))]
        metadata[key] = alter_json(metadata[key], random)
    else:
        column = COLUMNS[int(random.integers(len(COLUMNS)))](len(table))
        table = table.set_column(at, table.column_names[at], column)
    written = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), written)
    return written.getvalue()


def alter_hdf5(content: bytes, random: Random) -> bytes:
    """Change or drop a dataset."""
    written = io.BytesIO(content)
    with h5py.File(written, "r+") as file:
        names = list(file)
        name = names[int(random.integers(len(names)))]
        del file[name]
        if random.random() < 0.9:
            array = ARRAYS[int(random.integers(len(ARRAYS)))]()
            kind = array.dtype.kind
            file[name] = array.astype("S") if kind == "U" else array.astype("i8") if kind == "M" else array
    return written.getvalue()


_BY_SUFFIX: dict[str, Alteration] = {
    ".csv": alter_text,
    ".txt": alter_text,
    ".yaml": alter_text,
    ".json": alter_json,
    ".jsonl": alter_text,
    ".safetensors": alter_safetensors,
    ".npz": alter_npz,
    ".parquet": alter_parquet,
    ".h5": alter_hdf5,
}
