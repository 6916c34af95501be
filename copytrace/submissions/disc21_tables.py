"""Checks of the tables of the Image Similarity Challenge 2021: matches and ground truths.

Two readers of the challenge are public: `isc/io.py` of isc2021, which splits lines, and `eval_metrics.py` of
DrivenData, which reads by pandas. A table is valid if both can read it, and if it keeps the rules: no more than 500,000
matches, each pair once. Beyond them, ids that are not of the challenge and scores that are not finite are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from copytrace.submissions.faults import CheckedFile, Faults
from copytrace.submissions.media_lists import MediaList

HEADERS = {"matching": "query_id,reference_id,score", "ground-truth": "query_id,reference_id"}
NAMES = {"matching": "matches", "ground-truth": "a ground truth"}
MOST_MATCHES = 500_000  # scripts/compute_metrics.py, --max_results
QUERY_ID, REFERENCE_ID = re.compile(r"Q[0-9]{5}"), re.compile(r"R[0-9]{6}")

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LONGEST_LINE = 10_000  # characters; a line of a match has about thirty

ImageTable = Literal["matching", "ground-truth"]


def check_image_table(
    path: Path, kind: ImageTable, queries: MediaList | None = None, references: MediaList | None = None
) -> CheckedFile:
    """Return what is wrong with a table; `queries` and `references` are the images that it may name.

    Of more than `MOST_MATCHES` rows, the others are only counted. Raises `OSError` if the file cannot be opened.
    """
    check = _TableCheck(kind, queries, references)
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(_lines(file, check.faults)):
                if number == 0:
                    check.check_header(line)
                elif check.rows < MOST_MATCHES:
                    check.add(line)
                else:
                    check.rows += 1
    except UnicodeDecodeError as error:
        check.faults.add(f"it is no text in UTF-8: {error}", f"write a CSV with {HEADERS[kind]}")
    check.finish()
    lists = (("--queries", "query", queries), ("--references", "reference", references))
    unchecked = tuple(f"whether each {name} exists (give {option})" for option, name, given in lists if given is None)
    counts = {"rows": check.rows, "queries": len(check.queries_seen), "references": len(check.references_seen)}
    return CheckedFile(path, f"{NAMES[kind]} of DISC21", counts, check.faults.found, unchecked)


@dataclass(slots=True)
class _TableCheck:
    kind: ImageTable
    queries: MediaList | None
    references: MediaList | None
    faults: Faults = field(default_factory=Faults)
    rows: int = 0
    queries_seen: set[str] = field(default_factory=set)
    references_seen: set[str] = field(default_factory=set)
    _pairs: set[tuple[str, str]] = field(default_factory=set)

    def check_header(self, line: str) -> None:
        header = HEADERS[self.kind]
        if line.startswith("\ufeff"):
            self.faults.add("it begins with a byte order mark, which isc2021 reads as data", "save it without one")
            line = line.removeprefix("\ufeff")
        if line.strip() != header:
            self.faults.add(f"it begins with {line.strip()[:80]!r}", f"begin with the header {header}")

    def add(self, line: str) -> None:
        self.rows += 1
        values = line.strip().split(",")
        wanted = HEADERS[self.kind].count(",") + 1
        if line.strip() == HEADERS[self.kind]:
            self.faults.add("the header occurs again", "keep the first one", row=self.rows)
        elif not line.strip():
            self.faults.add("the line is blank, and isc2021 fails on that", "drop it", row=self.rows)
        elif len(values) != wanted:
            self.faults.add(
                f"there are {len(values)} values ({line.strip()[:80]})",
                f"give {HEADERS[self.kind]}",
                row=self.rows,
                kind="values",
            )
        else:
            self._check_values(*values)

    def _check_values(self, query: str, reference: str, score: str | None = None) -> None:
        self._check_id("query_id", query, QUERY_ID, self.queries, self.queries_seen)
        if reference or self.kind == "matching":
            self._check_id("reference_id", reference, REFERENCE_ID, self.references, self.references_seen)
        if (query, reference) in self._pairs:
            self.faults.add(
                f"a pair occurs again ({query},{reference})", "keep one row per pair", row=self.rows, kind="pair"
            )
        self._pairs.add((query, reference))
        if score is not None and not (_NUMBER.fullmatch(score.strip()) and math.isfinite(float(score))):
            self.faults.add(
                f"the score is no finite number ({score[:40]})", "give a number", row=self.rows, kind="score"
            )

    def _check_id(self, name: str, text: str, form: re.Pattern[str], given: MediaList | None, seen: set[str]) -> None:
        digits = "Q00000 to Q99999" if form is QUERY_ID else "R000000 to R999999"
        if not form.fullmatch(text):
            self.faults.add(
                f"a {name} is no id of the challenge ({text[:40]})", f"give {digits}", row=self.rows, kind=name
            )
        elif given and text not in given.ids:
            self.faults.add(
                f"a {name} is not in {given.source} ({text})",
                "give ids of that list",
                row=self.rows,
                kind=f"{name} list",
            )
        seen.add(text)

    def finish(self) -> None:
        if self.rows == 0 and not self.faults:
            self.faults.add("it has no rows", "give at least one")
        if self.kind == "matching" and self.rows > MOST_MATCHES:
            self.faults.add(
                f"it has {self.rows:,} rows",
                f"keep the {MOST_MATCHES:,} with the highest scores; the others were not checked",
            )


def _lines(file: IO[str], faults: Faults) -> Iterator[str]:
    number = 0
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            faults.add("a line is longer than any match", "write one match per line", row=number)
            return
        yield line
        number += 1
    if not number:
        faults.add("it is empty", "give a header and a row per match")
