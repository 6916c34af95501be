"""The HTML page of image matches: one file without external requests, for people who decide about copies."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.images import ImageSettings
from copytrace.checked_files import check_file
from copytrace.errors import ConfigError, InputError
from copytrace.index.image_index import ImageIndex
from copytrace.media.failures import read_failures
from copytrace.report.page import Page, ScoreKind, Selection, Side, page_template, score_kind, score_text
from copytrace.report.pictures import Unreadable, make_thumbnails
from copytrace.run_folder import ImageRunFolder
from copytrace.search.cut_lists import describe_cut, read_cut
from copytrace.step import VERSION, Step, fingerprint_of
from copytrace.tables import count_rows, open_parquet

COLUMNS = (
    *("query_id", "reference_id", "score", "branches", "similarity", "normalized_similarity", "votes"),
    *("ratio_matches", "inliers", "mirrored", "transform", "query_points", "reference_points", "crop_box"),
)
BEST_FIRST = [("score", "descending"), ("query_id", "ascending"), ("reference_id", "ascending")]
# Marks are whole thousandths of a picture's side: finer than a pixel of a thumbnail, and short in the page.
MARK_UNITS = 1000
# A degenerate transform may move the outline far away; farther than this many picture sides, nothing is visible.
FARTHEST_MARK = 50

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Slot:
    """A place for a picture: its number among the page's pictures, or None and the reason; its width over height."""

    number: int | None
    ratio: float = 4 / 3
    reason: str = ""


@dataclass(frozen=True)
class _Card:
    """One pair, as the template shows it."""

    query_id: str
    reference_id: str
    query: _Slot
    reference: _Slot
    score: float
    score_text: str
    bar: float
    is_copy: bool
    branches: list[str]
    mirrored: bool
    facts: list[tuple[str, str]]
    marks: dict[str, list[int]]


def report_images(queries: Path, references: Path, folder: ImageRunFolder, settings: ImageSettings) -> Path:
    """Write `report.html`, unless the existing page shows the same matches, and return it."""
    query_index, reference_index = ImageIndex.open(queries), ImageIndex.open(references)
    cut = read_cut(folder, query_index.shards)
    failures, threshold = len(read_failures(folder.failures)), settings.merge.threshold
    record = folder.work / "report.json"
    made_from = [fingerprint_of(folder.work / "merge"), settings.report.model_dump(), threshold, failures, cut]
    step = Step.of("report", folder.report, made_from=made_from, record=record)
    if step.is_done():
        return folder.report
    check_file(folder.matches, folder.merged)
    pairs = count_rows(folder.matches)
    shown = min(pairs, settings.report.max_matches)
    with step.run(shown, "pairs") as work:
        write_image_report(
            folder.matches,
            folder.report,
            paths={"query": query_index.paths, "reference": reference_index.paths},
            summary={
                "queries": len(query_index.items),
                "references": len(reference_index.items),
                "pairs": pairs,
                "failures": failures,
                "notice": describe_cut(cut),
                "score_kind": "points" if settings.merge.rule == "sum" else "probability",
                "version": VERSION,
            },
            threshold=threshold,
            max_matches=settings.report.max_matches,
            picture_side=settings.report.picture_side,
        )
        work.advance(shown)
    return folder.report


def write_image_report(
    matches: Path,
    out: Path,
    *,
    paths: Mapping[Side, Mapping[str, str]],
    summary: Mapping[str, object],
    threshold: float | None,
    max_matches: int = 1000,
    picture_side: int = 320,
) -> Path:
    """Write the page of the pairs in `matches` to `out` and return `out`.

    The same inputs give the same bytes on the same machine and versions.

    `matches` is a Parquet file with the columns `COLUMNS`, one row per candidate pair. `transform` is a 2x3 affine,
    row major, from reference to query; it, the points (x0, y0, x1, y1, …) and `crop_box` (x0, y0, x1, y1) are in
    0..1 of width and height. `paths` gives the file of each id, by side; a file that can no longer be read is shown as
    a placeholder. `summary` is shown at the top, with its `notice`, if any; its `score_kind` says whether scores are a
    "probability" (0..1, the default) or "points". Pairs that score `threshold` or more are marked as copies, and the
    others are folded away; None marks and folds nothing. The page shows the best `max_matches` pairs; thumbnails are at
    most `picture_side` pixels on their longer side.

    Raises `InputError` if `matches` is not such a file, and `ConfigError` if an option is out of range.
    """
    kind = score_kind(summary)
    if max_matches < 1 or picture_side < 1:
        raise ConfigError(f"max_matches is {max_matches}, picture_side {picture_side}: set both to 1 or more")
    selection = _select(matches, threshold, max_matches)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(page_template, "image")  # while other processes decode the pictures
        pictures = _Pictures(selection.rows, paths, picture_side)
    top_score = 1.0 if kind == "probability" else max((row["score"] for row in selection.rows), default=1.0)
    cards = [_card(row, pictures, kind, top_score, threshold) for row in selection.rows]
    return Page("image", selection, cards, pictures.embedded, summary, kind, threshold, top_score).write(out)


def _select(matches: Path, threshold: float | None, max_matches: int) -> Selection:
    try:
        with open_parquet(matches) as file:
            return _select_from(file, threshold, max_matches)
    except (OSError, pa.ArrowInvalid, _WrongTableError) as error:
        raise InputError(f"unreadable matches {matches}: {error}; run the matching again") from error


class _WrongTableError(Exception):
    """A readable Parquet file that does not hold matches."""


def _select_from(file: pq.ParquetFile, threshold: float | None, max_matches: int) -> Selection:
    """Return the best pairs, read batch by batch, so that millions of pairs take little memory."""
    missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
    if missing:
        raise _WrongTableError(f"no column {', '.join(missing)}")
    best = pa.schema([file.schema_arrow.field(name) for name in COLUMNS]).empty_table()
    pairs, copies = 0, 0
    copied_queries: set[str] = set()
    for batch in file.iter_batches(batch_size=8192, columns=list(COLUMNS)):
        if not pc.all(pc.fill_null(pc.is_finite(batch["score"]), False), min_count=0).as_py():
            raise _WrongTableError("a score is not a number")
        pairs += batch.num_rows
        if threshold is not None:
            queries = batch["query_id"].filter(pc.greater_equal(batch["score"], threshold))
            copies += len(queries)
            copied_queries.update(queries.to_pylist())
        table = pa.concat_tables([best, pa.Table.from_batches([batch]).select(best.column_names)])
        best = table.take(pc.select_k_unstable(table, k=max_matches, sort_keys=BEST_FIRST))
    return Selection(best.sort_by(BEST_FIRST).to_pylist(), pairs, copies, len(copied_queries))


class _Pictures:
    """The pictures of the page, each embedded once however many pairs show it."""

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], paths: Mapping[Side, Mapping[str, str]], side_length: int
    ) -> None:
        self._paths = paths
        wanted = [files.get(row[f"{side}_id"]) for row in rows for side, files in paths.items()]
        thumbnails = make_thumbnails([path for path in wanted if path is not None], side_length)
        self.embedded: list[str] = []
        self._slots: dict[str, _Slot] = {}
        for path, thumbnail in thumbnails.items():
            if isinstance(thumbnail, Unreadable):
                logger.warning("the report shows a placeholder for %s: %s", path, thumbnail.reason)
                self._slots[path] = _Slot(None, reason=thumbnail.reason)
                continue
            self._slots[path] = _Slot(len(self.embedded), round(thumbnail.width / thumbnail.height, 4))
            self.embedded.append(thumbnail.base64)

    def slot(self, side: Side, identifier: str) -> _Slot:
        return self._slots.get(self._paths[side].get(identifier, ""), _Slot(None, reason="its file is not known"))


def _card(
    row: Mapping[str, Any], pictures: _Pictures, kind: ScoreKind, top_score: float, threshold: float | None
) -> _Card:
    score = row["score"]
    return _Card(
        query_id=row["query_id"],
        reference_id=row["reference_id"],
        query=pictures.slot("query", row["query_id"]),
        reference=pictures.slot("reference", row["reference_id"]),
        score=score,
        score_text=score_text(score, kind),
        bar=round(100 * min(max(score / top_score, 0.0), 1.0), 1) if top_score > 0 else 0.0,
        is_copy=threshold is not None and score >= threshold,
        branches=row["branches"] or [],
        mirrored=bool(row["mirrored"]),
        facts=_facts(row),
        marks=_marks(row),
    )


def _facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("Inliers", f"{row['inliers'] or 0:,} of {row['ratio_matches'] or 0:,}")]
    decimals = {"Similarity": ("similarity", ".2f"), "Normalized": ("normalized_similarity", ".2f")}
    for label, (column, form) in {**decimals, "Votes": ("votes", ",.0f")}.items():
        if row[column] is not None:
            facts.append((label, format(row[column], form)))
    return facts


def _marks(row: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the marks drawn over the pictures, by name, in `MARK_UNITS`; marks that a pair lacks are left out."""
    query, reference = row["query_points"] or [], row["reference_points"] or []
    shared = min(len(query), len(reference)) // 2 * 2
    marks = {
        "query": query[:shared],
        "reference": reference[:shared],
        "transform": row["transform"] or [],
        "crop": row["crop_box"] or [],
    }
    return {
        name: [round(MARK_UNITS * min(max(value, -FARTHEST_MARK), FARTHEST_MARK)) for value in values]
        for name, values in marks.items()
        if values and all(math.isfinite(value) for value in values)
    }
