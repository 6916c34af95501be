"""Checks of the tables of the Video Similarity Challenge 2022: matches, ground truths, and candidate pairs.

A table is valid if the validator of the challenge's runtime accepts it (`validation.py` of meta-vsc-matching-runtime)
and its scorer can read it (`vsc/metrics.py` of vsc2022). Both read by pandas, and so does this module. Beyond them, it
refuses infinite numbers, and with lists of the videos, unknown ids and times after the end of a video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from copytrace.submissions.faults import CheckedFile, Faults
from copytrace.submissions.media_lists import MediaList

TIMES = ("query_start", "query_end", "ref_start", "ref_end")
IDS = {"query_id": "Q", "ref_id": "R"}
COLUMNS: dict[str, tuple[str, ...]] = {
    "matching": (*IDS, *TIMES, "score"),
    "ground-truth": (*IDS, *TIMES),
    "candidates": (*IDS, "score"),
}
NAMES = {"matching": "matches", "ground-truth": "a ground truth", "candidates": "candidate pairs"}
PAIRS_PER_QUERY = 25  # vsc/descriptor_eval_lib.py

_BLOCK = 200_000  # rows that are read at a time
_OVERTIME = 1.0  # seconds that a segment may end after its video: frames at one per second stand for whole seconds

VideoTable = Literal["matching", "ground-truth", "candidates"]


def check_video_table(
    path: Path, kind: VideoTable, queries: MediaList | None = None, references: MediaList | None = None
) -> CheckedFile:
    """Return what is wrong with a table; `queries` and `references` are the videos that it may name.

    Raises `OSError` if the file cannot be opened.
    """
    check = _TableCheck(kind, {"query_id": queries, "ref_id": references})
    try:
        for block in _blocks(path, check.faults):
            if not check.add(block):
                break
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1]
        check.faults.add(f"it is no table in UTF-8: {reason}", f"write a CSV with {','.join(COLUMNS[kind])}")
    else:
        check.finish()
    lists = (("--queries", "query_id", queries), ("--references", "ref_id", references))
    unchecked = tuple(f"whether each {name} exists (give {option})" for option, name, given in lists if given is None)
    counts = {"rows": check.rows, "queries": len(check.seen["query_id"]), "references": len(check.seen["ref_id"])}
    return CheckedFile(path, f"{NAMES[kind]} of VSC22", counts, check.faults.found, unchecked)


@dataclass(slots=True)
class _TableCheck:
    kind: VideoTable
    lists: dict[str, MediaList | None]
    faults: Faults = field(default_factory=Faults)
    rows: int = 0
    seen: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in IDS})
    _integers: dict[str, int] = field(default_factory=lambda: dict.fromkeys(IDS, 0))
    _first_integer: dict[str, int] = field(default_factory=dict)
    _pairs: set[tuple[str, str]] = field(default_factory=set)
    _best: float = -np.inf
    _best_has_length: bool = False

    def add(self, block: pd.DataFrame) -> bool:
        """Check some rows; return False if the columns are such that no row can be checked."""
        if self.rows == 0 and not self._check_columns([str(name) for name in block.columns]):
            return False
        if not isinstance(block.index, pd.RangeIndex):
            self.faults.add("rows have more values than the header has names", "write a value for each name")
            return False
        for name, letter in IDS.items():
            self._check_ids(block[name], name, letter)
        if self.kind == "candidates":
            self._check_pairs(block)
        else:
            lengths = self._check_times(block)
        if self.kind != "ground-truth":
            scores = self._numbers(block["score"], "score", "give a finite number, higher for more certain ones")
            if self.kind == "matching":
                self._note_best(scores, lengths)
        self.rows += len(block)
        return True

    def finish(self) -> None:
        if self.rows == 0 and not self.faults:
            self.faults.add("it has no rows, and the scorer fails on that", "give at least one")
        for name, letter in IDS.items():
            # pandas reads a column as integers only if all values are, and the scorer then writes the letter itself.
            if 0 < self._integers[name] < self.rows or (self._integers[name] and self.kind == "candidates"):
                row, count = self._first_integer[name], self._integers[name]
                self.faults.add(
                    f"a {name} does not begin with {letter}", f"write ids as {letter}200001", row=row, count=count
                )
        if self.kind == "matching" and self.rows and not self._best_has_length and not self.faults:
            self.faults.add(
                "no row with the highest score has a length, and the scorer fails on that", "drop such rows"
            )
        queries = self.lists["query_id"]
        if self.kind == "candidates" and queries and self.rows > PAIRS_PER_QUERY * len(queries.ids):
            most = PAIRS_PER_QUERY * len(queries.ids)
            self.faults.add(
                f"{self.rows:,} pairs for {len(queries.ids):,} queries",
                f"keep the best {most:,}, {PAIRS_PER_QUERY} a query",
            )

    def _check_columns(self, names: Sequence[str]) -> bool:
        expected = COLUMNS[self.kind]
        listed = ",".join(expected)
        if missing := [name for name in expected if name not in names]:
            self.faults.add(f"it lacks the column {missing[0]}", f"begin with the header {listed}")
        elif self.kind == "matching" and (further := [name for name in names if name not in expected]):
            # The validator ignores them, but matching_eval.py makes a tuple of the columns and fails.
            self.faults.add(f"it has the column {further[0]}, which the scorer refuses", f"write only {listed}")
        elif self.kind == "matching" and tuple(names) != expected:
            self.faults.add(f"its columns are in the order {','.join(names)}", f"write {listed}")
        return not missing

    def _check_ids(self, column: pd.Series[str], name: str, letter: str) -> None:
        ids = column.fillna("").to_numpy(dtype=object)
        self.faults.add_rows(ids == "", f"there is no {name}", "fill it in or drop the row", before=self.rows)
        integers = np.fromiter((text.strip().isdecimal() for text in ids), np.bool_, len(ids))
        if integers.any():
            self._integers[name] += int(integers.sum())
            self._first_integer.setdefault(name, self.rows + int(np.argmax(integers)) + 1)
        other = np.fromiter((not text.startswith(letter) for text in ids), np.bool_, len(ids)) & ~integers & (ids != "")
        self.faults.add_rows(
            other,
            f"a {name} does not begin with {letter}",
            f"write ids as {letter}200001",
            values=ids,
            before=self.rows,
        )
        full = np.array(
            [f"{letter}{int(text):06}" if is_int else text for text, is_int in zip(ids, integers, strict=True)]
        )
        self.seen[name].update(full.tolist())
        if given := self.lists[name]:
            unknown = given.lacks(full) & (ids != "") & ~other
            self.faults.add_rows(
                unknown, f"a {name} is not in {given.source}", "give ids of that list", values=ids, before=self.rows
            )

    def _check_pairs(self, block: pd.DataFrame) -> None:
        pairs = list(zip(block["query_id"], block["ref_id"], strict=True))
        repeated = np.zeros(len(pairs), np.bool_)
        for row, pair in enumerate(pairs):
            repeated[row] = pair in self._pairs
            self._pairs.add(pair)
        self.faults.add_rows(repeated, "a pair occurs again", "keep the row with the higher score", before=self.rows)

    def _note_best(self, scores: NDArray[np.float64], lengths: NDArray[np.float64]) -> None:
        best = np.nanmax(scores, initial=-np.inf)
        has_length = bool((lengths[scores == best] > 0).any())
        if best > self._best:
            self._best, self._best_has_length = float(best), has_length
        elif best == self._best:
            self._best_has_length |= has_length

    def _check_times(self, block: pd.DataFrame) -> NDArray[np.float64]:
        """Note the faults of the times, and return the length of the shorter axis of each row, in seconds."""
        times = {name: self._numbers(block[name], name, "give finite seconds") for name in TIMES}
        for name, values in times.items():
            self.faults.add_rows(
                values < 0, f"{name} is negative", "give seconds from 0 on", values=values, before=self.rows
            )
        for axis, name in (("query", "query_id"), ("ref", "ref_id")):
            start, end = times[f"{axis}_start"], times[f"{axis}_end"]
            self.faults.add_rows(
                start > end,
                f"{axis}_start is after {axis}_end",
                "give the earlier time first, for copies played backwards too",
                values=[f"{a:g} and {b:g}" for a, b in zip(start, end, strict=True)] if (start > end).any() else None,
                before=self.rows,
            )
            if given := self.lists[name]:
                late = end > given.ends(block[name].fillna("").to_numpy(dtype=object)) + _OVERTIME
                self.faults.add_rows(
                    late,
                    f"{axis}_end is after the end of the video",
                    "give seconds of the video",
                    values=end,
                    before=self.rows,
                )
        return np.minimum(times["query_end"] - times["query_start"], times["ref_end"] - times["ref_start"])

    def _numbers(self, column: pd.Series[str], name: str, cure: str) -> NDArray[np.float64]:
        """Return a column as numbers, NaN where it has none or where they are infinite; these rows are noted."""
        values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
        values = np.where(np.isinf(values), np.nan, values)
        texts = column.fillna("empty").to_numpy(dtype=object)
        self.faults.add_rows(np.isnan(values), f"{name} is no finite number", cure, values=texts, before=self.rows)
        return values


def _blocks(path: Path, faults: Faults) -> Iterator[pd.DataFrame]:
    with path.open("rb") as file:
        if b"\0" in file.read(1 << 16):
            faults.add("it has null bytes", "write the table as text in UTF-8")
            return
        file.seek(0)
        with pd.read_csv(file, dtype=str, chunksize=_BLOCK, encoding="utf-8") as reader:
            yield from reader
