"""Cells of CSV files that a spreadsheet would run: `=1+1`, `@SUM(A1)`, `+1`, `-1`.

Ids and paths come from strangers. An apostrophe before such a text makes spreadsheets show it as it is. Our own readers
take the apostrophe away, so what is written is what is read again.
"""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

FROM_STRANGERS = frozenset({"id", "query_id", "reference_id", "ref_id", "path", "error"})
"""Columns of which the texts may be anything."""

# What was neutralized before gets another apostrophe, so that reading gives back exactly what was written.
_RUN = r"^'*[=+\-@\t\r\n]"
_NEUTRALIZED = r"^'('*[=+\-@\t\r\n])"


def neutralize(text: str) -> str:
    """Return a text that no spreadsheet runs."""
    return f"'{text}" if re.match(_RUN, text) else text


def restore(text: str) -> str:
    """Return the text that `neutralize` was given."""
    return text[1:] if re.match(_NEUTRALIZED, text) else text


def neutralize_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return texts that no spreadsheet runs."""
    return pc.replace_substring_regex(column, f"({_RUN})", r"'\1")


def restore_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the texts that `neutralize_column` was given."""
    return pc.replace_substring_regex(column, _NEUTRALIZED, r"\1")
