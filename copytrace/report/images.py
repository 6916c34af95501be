"""The HTML page of image matches: one file, no external request, made for people who decide about copies."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from copytrace.errors import ConfigError, InputError
from copytrace.progress import Progress
from copytrace.report.pictures import Thumbnail, Unreadable, make_thumbnails
from copytrace.storage import atomic_path

COLUMNS = (
    *("query_id", "reference_id", "score", "branches", "similarity", "normalized_similarity", "votes"),
    *("ratio_matches", "inliers", "mirrored", "transform", "query_points", "reference_points", "crop_box"),
)
BEST_FIRST = [("score", "descending"), ("query_id", "ascending"), ("reference_id", "ascending")]
HEADLINE_COUNTS = ("queries", "references", "pairs", "failures")
# Marks travel as whole thousandths of a picture's side: finer than a pixel of a thumbnail, and short in the page.
MARK_UNITS = 1000
# A degenerate transform may send the outline far away; beyond this many picture sides nothing of it is visible anyway.
FARTHEST_MARK = 50

logger = logging.getLogger(__name__)

ScoreKind = Literal["probability", "points"]


@dataclass(frozen=True)
class _Selection:
    """The pairs that the page shows, best first, and counts over all pairs of the file."""

    rows: list[dict[str, Any]]
    pairs: int
    copies: int
    copied_queries: int


@dataclass(frozen=True)
class _Slot:
    """Where a picture goes: its number among the page's pictures, or None and the reason; and width over height."""

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


def write_image_report(
    matches: Path,
    out: Path,
    *,
    query_paths: Mapping[str, str],
    reference_paths: Mapping[str, str],
    summary: Mapping[str, object],
    threshold: float | None,
    max_matches: int = 1000,
    picture_side: int = 320,
    progress: Progress | None = None,
) -> Path:
    """Write the page of the pairs in `matches` to `out` and return `out`; the same inputs give the same bytes.

    `matches` is a Parquet file with the columns `COLUMNS`, one row per candidate pair. `transform` is a 2x3 affine,
    row major, from reference to query; it, the points (x0, y0, x1, y1, …) and `crop_box` (x0, y0, x1, y1) are in
    0..1 of width and height. `query_paths` and `reference_paths` give the file of each id; a file that cannot be read
    any more is shown as a placeholder. `summary` is shown at the top; its `score_kind` says whether scores are a
    "probability" (0..1, the default) or "points". Pairs that score `threshold` or more are marked as copies, the
    others go under a fold; None draws no line. At most `max_matches` pairs are shown, the best; thumbnails are at
    most `picture_side` pixels on their longer side.

    Raises InputError if `matches` is not such a file, ConfigError if an option is out of range.
    """
    kind = _score_kind(summary)
    if max_matches < 1 or picture_side < 1:
        raise ConfigError(f"max_matches is {max_matches}, picture_side {picture_side}: set both to 1 or more")
    selection = _select(matches, threshold, max_matches)
    pictures = _Pictures(selection.rows, query_paths, reference_paths, picture_side, progress)
    top_score = 1.0 if kind == "probability" else max((row["score"] for row in selection.rows), default=1.0)
    cards = [_card(row, pictures, kind, top_score, threshold) for row in selection.rows]
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("copytrace", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("image_report.html.j2")
    page = template.stream(
        cards=cards,
        selection=selection,
        kind=kind,
        top_score=top_score,
        threshold_text=None if threshold is None else _threshold_text(threshold, kind),
        counts=_headline_counts(summary, selection),
        details=_details(summary),
        thumbnails=pictures.embedded,
    )
    with atomic_path(out) as temporary:
        page.dump(str(temporary), encoding="utf-8")
    return out


def _score_kind(summary: Mapping[str, object]) -> ScoreKind:
    kind = summary.get("score_kind", "probability")
    if kind == "probability" or kind == "points":  # noqa: PLR1714 -- mypy narrows to a Literal only this way
        return kind
    raise ConfigError(f'unknown score_kind {kind!r} in the summary of the report: use "probability" or "points"')


def _select(matches: Path, threshold: float | None, max_matches: int) -> _Selection:
    try:
        with pq.ParquetFile(matches) as file:
            return _select_from(file, threshold, max_matches)
    except (OSError, pa.ArrowInvalid, _WrongTableError) as error:
        raise InputError(f"unreadable matches {matches}: {error}; run the matching again") from error


class _WrongTableError(Exception):
    """A readable Parquet file that does not hold matches."""


def _select_from(file: pq.ParquetFile, threshold: float | None, max_matches: int) -> _Selection:
    """Read batch by batch, so that millions of pairs take no more memory than the best of them."""
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
    return _Selection(best.sort_by(BEST_FIRST).to_pylist(), pairs, copies, len(copied_queries))


class _Pictures:
    """The pictures of the page, each embedded once however many pairs show it."""

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        query_paths: Mapping[str, str],
        reference_paths: Mapping[str, str],
        side: int,
        progress: Progress | None,
    ) -> None:
        self._paths = {"query": query_paths, "reference": reference_paths}
        wanted = [paths.get(row[f"{role}_id"]) for row in rows for role, paths in self._paths.items()]
        thumbnails = make_thumbnails([path for path in wanted if path is not None], side, progress=progress)
        self.embedded: list[Thumbnail] = []
        self._slots: dict[str, _Slot] = {}
        for path, thumbnail in thumbnails.items():
            if isinstance(thumbnail, Unreadable):
                logger.warning("the report shows a placeholder for %s: %s", path, thumbnail.reason)
                self._slots[path] = _Slot(None, reason=thumbnail.reason)
                continue
            self._slots[path] = _Slot(len(self.embedded), round(thumbnail.width / thumbnail.height, 4))
            self.embedded.append(thumbnail)

    def slot(self, role: Literal["query", "reference"], identifier: str) -> _Slot:
        return self._slots.get(self._paths[role].get(identifier, ""), _Slot(None, reason="its file is not known"))


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
        score_text=_score_text(score, kind),
        bar=round(100 * min(max(score / top_score, 0.0), 1.0), 1) if top_score > 0 else 0.0,
        is_copy=threshold is not None and score >= threshold,
        branches=row["branches"] or [],
        mirrored=bool(row["mirrored"]),
        facts=_facts(row),
        marks=_marks(row),
    )


def _score_text(score: float, kind: ScoreKind) -> str:
    if kind == "probability":
        return "> 99.9%" if 0.9995 <= score < 1 else f"{score:.1%}"  # never a certainty that rounding made up
    return f"{score:,.0f}" if float(score).is_integer() else f"{score:,.1f}"


def _threshold_text(threshold: float, kind: ScoreKind) -> str:
    return f"{100 * threshold:.4g}%" if kind == "probability" else _score_text(threshold, kind)


def _facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("Inliers", f"{row['inliers'] or 0:,} of {row['ratio_matches'] or 0:,}")]
    decimals = {"Similarity": ("similarity", ".2f"), "Normalized": ("normalized_similarity", ".2f")}
    for label, (column, form) in {**decimals, "Votes": ("votes", ",.0f")}.items():
        if row[column] is not None:
            facts.append((label, format(row[column], form)))
    return facts


def _marks(row: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return what is drawn over the pictures, by name, in thousandths; what a pair lacks is left out."""
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


def _headline_counts(summary: Mapping[str, object], selection: _Selection) -> dict[str, int]:
    counted = {"pairs": selection.pairs, **summary}
    return {name: value for name in HEADLINE_COUNTS if isinstance(value := counted.get(name), int)}


def _details(summary: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten what the headline does not show into (label, value), in the order given."""
    details: list[tuple[str, str]] = []
    for name, value in summary.items():
        if not prefix and (name in HEADLINE_COUNTS or name == "score_kind"):
            continue
        label = f"{prefix}{str(name).replace('_', ' ')}"
        if isinstance(value, Mapping):
            details += _details(value, f"{label}: ")
        else:
            details.append((label[:1].upper() + label[1:], _value_text(value)))
    return details


def _value_text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"
    if isinstance(value, list | tuple):
        return ", ".join(_value_text(item) for item in value)
    return str(value)
