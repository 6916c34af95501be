"""The page of a report: texts of scores and summaries, and the template that becomes a file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jinja2

from copytrace.errors import ConfigError
from copytrace.storage import atomic_path

HEADLINE_COUNTS = ("queries", "references", "pairs", "failures")

ScoreKind = Literal["probability", "points"]
Side = Literal["query", "reference"]  # of a pair
SIDES: tuple[Side, Side] = ("query", "reference")


@dataclass(frozen=True)
class Selection:
    """The pairs that a page shows, best first, and counts over all pairs that were given."""

    rows: list[Any]
    pairs: int
    copies: int
    copied_queries: int


@dataclass(frozen=True)
class Page:
    """The content of a page: the `{name}_report.html.j2` template with one `{name}_card.html.j2` per card.

    `pictures` are base64 of WebP, and cards refer to them by their number. `top_score` is the upper end of the score
    slider. A `notice` in the summary is shown below the headline. `extra` holds variables that only one of the
    templates uses.
    """

    name: str
    selection: Selection
    cards: Sequence[Any]
    pictures: Sequence[str]
    summary: Mapping[str, object]
    kind: ScoreKind
    threshold: float | None
    top_score: float
    extra: Mapping[str, object] = field(default_factory=dict)

    def write(self, out: Path) -> Path:
        """Write the page to `out` and return it."""
        stream = page_template(self.name).stream(
            card_template=f"{self.name}_card.html.j2",
            cards=self.cards,
            selection=self.selection,
            kind=self.kind,
            threshold_text=None if self.threshold is None else _threshold_text(self.threshold, self.kind),
            counts=_headline_counts(self.summary, self.selection),
            notice=self.summary.get("notice"),
            details=_summary_details(self.summary),
            top_score=self.top_score,
            pictures=self.pictures,
            **self.extra,
        )
        with atomic_path(out) as temporary:
            stream.dump(str(temporary), encoding="utf-8")
        return out


@cache
def page_template(name: str) -> jinja2.Template:
    """Return the template of a kind of page, compiled with its parts, once per process."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("copytrace", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["sha256_base64"] = _sha256_base64
    for part in ("page", f"{name}_card"):
        templates.get_template(f"{part}.html.j2")
    return templates.get_template(f"{name}_report.html.j2")


def _sha256_base64(text: str) -> str:
    """Return the digest by which a Content-Security-Policy allows one inline script, and no other."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def score_kind(summary: Mapping[str, object]) -> ScoreKind:
    """Return the kind of the page's scores. Raises `ConfigError` if `score_kind` is neither kind."""
    kind = summary.get("score_kind", "probability")
    if kind == "probability" or kind == "points":  # noqa: PLR1714 -- mypy narrows to a Literal only this way
        return kind
    raise ConfigError(f'unknown score_kind {kind!r} in the summary of the report: use "probability" or "points"')


def score_text(score: float, kind: ScoreKind) -> str:
    """Return a score as a percentage or, if it counts points, as a number."""
    if kind == "probability":
        return "> 99.9%" if 0.9995 <= score < 1 else f"{score:.1%}"  # rounding must not look like certainty
    return f"{score:,.0f}" if float(score).is_integer() else f"{score:,.1f}"


def _threshold_text(threshold: float, kind: ScoreKind) -> str:
    return f"{100 * threshold:.4g}%" if kind == "probability" else score_text(threshold, kind)


def _headline_counts(summary: Mapping[str, object], selection: Selection) -> dict[str, int]:
    counted = {"pairs": selection.pairs, **summary}
    return {name: value for name in HEADLINE_COUNTS if isinstance(value := counted.get(name), int)}


def _summary_details(summary: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Return what the headline does not show as pairs of label and value, in the order given."""
    details: list[tuple[str, str]] = []
    for name, value in summary.items():
        if not prefix and (name in HEADLINE_COUNTS or name in ("score_kind", "notice")):
            continue
        label = f"{prefix}{str(name).replace('_', ' ')}"
        if isinstance(value, Mapping):
            details += _summary_details(value, f"{label}: ")
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
