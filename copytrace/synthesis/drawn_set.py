"""A labeled set of drawn pictures: text, screens, figures, icons, logos, patterns and plain pictures.

Photographs seldom share anything; drawn pictures of one origin share fonts, frames, bars and layout. So every template
gives references, copies of them, and queries that look like them but copy none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from copytrace.errors import ConfigError, InputError
from copytrace.step import Progress, SilentProgress
from copytrace.storage import atomic_path, write_text
from copytrace.synthesis import drawn_figures, drawn_screens, drawn_text
from copytrace.synthesis.camera import photograph
from copytrace.synthesis.drawn_text import Draw
from copytrace.synthesis.edit_tracking import Draw as EditDraw
from copytrace.synthesis.edit_tracking import EditedPicture, Strength
from copytrace.synthesis.edited_set import Difficulty, Photo, csv_text, edit_copy, read_photo, require_only
from copytrace.synthesis.edits import apply_edit

PICTURE_KINDS: dict[str, Callable[[np.random.Generator], Draw]] = {
    "page": drawn_text.page,
    "slide": drawn_text.slide,
    "credits": drawn_text.credits,
    "poster": drawn_text.poster,
    "program": drawn_text.program,
    "chat": drawn_screens.chat,
    "mail": drawn_screens.mail,
    "form": drawn_screens.form,
    "table": drawn_screens.table,
    "calendar": drawn_screens.calendar,
    "chart": drawn_figures.chart,
    "flowchart": drawn_figures.flowchart,
    "line-drawing": drawn_figures.line_drawing,
    "plan": drawn_figures.plan,
    "icon": drawn_figures.icon,
    "logo": drawn_figures.logo,
    "pattern": drawn_figures.pattern,
    "barcode": drawn_figures.barcode,
    "matrix-code": drawn_figures.matrix_code,
    "sheet-music": drawn_figures.sheet_music,
    "plain": drawn_figures.plain,
    "shade": drawn_figures.shade,
}
"""The kinds of drawn pictures, each with the function that makes a template of it."""

# A part of a pattern or of a plain picture can be a part of many others: copies of them are only encoded again.
WITHOUT_PARTS = ("pattern", "plain", "shade")
_ENCODED_AGAIN = ("jpeg", "downscale")
_FORMATS = {".png": "PNG", ".jpg": "JPEG"}
_EDITS = Difficulty(
    (1, 2),
    Strength(0.0, 0.5),
    {"photo": 1.0, "decor": 1.0, "geometry": 1.0, "crop": 0.7, "overlay": 0.7},
    unused=frozenset({"invert", "colormap", "shuffle"}),
)


@dataclass(frozen=True)
class DrawnSetPlan:
    """What a drawn set consists of; all choices are drawn from `seed`.

    Attributes:
        templates: templates of each kind.
        references: reference pictures of each template.
        others: queries of each template that copy no reference.
        copies: queries of each template that copy one of its references.
        kinds: names of `PICTURE_KINDS`.
        seed: seed of all draws.
        encoded_again: copies are only encoded again, smaller or as JPEG, and not edited.
        photographed: all pictures look as a camera takes them, each one for itself; see `camera.photograph`.
    """

    templates: int = 5
    references: int = 2
    others: int = 2
    copies: int = 2
    kinds: tuple[str, ...] = tuple(PICTURE_KINDS)
    seed: int = 0
    encoded_again: bool = False
    photographed: bool = False


@dataclass(frozen=True)
class _Query:
    name: str
    reference: str
    kind: str
    edits: tuple[str, ...]


def write_drawn_set(
    donors: Sequence[Photo], out: Path, plan: DrawnSetPlan, *, workers: int = 1, progress: Progress | None = None
) -> Path:
    """Write the pictures of a plan, and return `out`.

    The files are `references/*.png`, `queries/*` and last `ground_truth.csv` (`query_id,reference_id,kind,edits`; no
    reference for a query that copies none). `donors` are photos onto which some copies are pasted. On the same machine
    and versions, the same arguments give the same bytes, whatever the number of `workers` (threads).

    Raises:
        InputError: there are no donors, or `out` holds pictures of another set.
        ConfigError: the plan has an unknown kind or no pictures.
    """
    unknown = set(plan.kinds) - set(PICTURE_KINDS)
    if unknown or min(plan.templates, plan.references, plan.others + plan.copies) < 1:
        raise ConfigError(
            f"{', '.join(sorted(unknown)) or 'this plan'} cannot be drawn; the kinds are {', '.join(PICTURE_KINDS)}, "
            "and every template has at least one reference and one query"
        )
    if not donors:
        raise InputError("a drawn set needs at least one photo onto which copies are pasted; give donors")
    jobs = [(kind, template) for kind in plan.kinds for template in range(plan.templates)]
    _require_own_folders(out, plan, jobs)
    queries: list[_Query] = []
    with (
        (progress or SilentProgress()).step("draw pictures", len(jobs), "templates") as step,
        ThreadPoolExecutor(max(1, workers)) as pool,
    ):
        for written in pool.map(lambda job: _write_template(out, plan, job[0], job[1], donors), jobs):
            queries += written
            step.advance()
    rows = [[query.name, query.reference, query.kind, " ".join(query.edits)] for query in queries]
    write_text(out / "ground_truth.csv", csv_text(["query_id", "reference_id", "kind", "edits"], rows))
    return out


@dataclass(frozen=True)
class _Names:
    """The ids of the pictures of one template."""

    references: list[str]
    others: list[str]
    copies: list[str]


def _names(plan: DrawnSetPlan, kind: str, template: int) -> _Names:
    def number(stem: str, count: int) -> list[str]:
        return [f"{kind}-{template:02}-{stem}{each:02}" for each in range(count)]

    return _Names(number("", plan.references), number("other", plan.others), number("copy", plan.copies))


def _require_own_folders(out: Path, plan: DrawnSetPlan, jobs: Sequence[tuple[str, int]]) -> None:
    names = [_names(plan, *job) for job in jobs]
    files = {
        "references": {f"{name}.png" for each in names for name in each.references},
        "queries": {f"{name}.png" for each in names for name in each.others}
        | {f"{name}.jpg" for each in names for name in each.copies},
    }
    for folder, expected in files.items():
        (out / folder).mkdir(parents=True, exist_ok=True)
        require_only(out / folder, expected)


def _write_template(out: Path, plan: DrawnSetPlan, kind: str, template: int, donors: Sequence[Photo]) -> list[_Query]:
    rng = np.random.default_rng((plan.seed, list(PICTURE_KINDS).index(kind), template))
    draw, names = PICTURE_KINDS[kind](rng), _names(plan, kind, template)
    if plan.photographed and kind not in WITHOUT_PARTS:
        draw = _photographed(draw)
    references = [draw(rng) for _ in names.references]
    for name, image in zip(names.references, references, strict=True):
        _save(image, out / "references" / f"{name}.png")
    for name in names.others:
        _save(draw(rng), out / "queries" / f"{name}.png")
    queries = [_Query(name, "", kind, ()) for name in names.others]
    for name in names.copies:
        place = int(rng.integers(len(references)))
        only_encoded = plan.encoded_again or kind in WITHOUT_PARTS
        edited, edits = _edit(references[place], rng, donors, only_encoded=only_encoded)
        _save(edited.image, out / "queries" / f"{name}.jpg")
        queries.append(_Query(name, names.references[place], kind, tuple(edits)))
    return queries


def _photographed(draw: Draw) -> Draw:
    return lambda rng: photograph(draw(rng), rng)


def _edit(
    image: Image.Image, rng: np.random.Generator, donors: Sequence[Photo], *, only_encoded: bool
) -> tuple[EditedPicture, list[str]]:
    def load_donor(generator: np.random.Generator) -> Image.Image:
        return read_photo(donors[int(generator.integers(len(donors)))])

    if image.mode == "RGBA":  # what is transparent is laid on a color
        ground = Image.new("RGB", image.size, tuple(int(value) for value in rng.integers(0, 160, 3)))
        ground.paste(image, mask=image.getchannel("A"))
        image = ground
    if only_encoded:
        names, edited = list(_ENCODED_AGAIN[: int(rng.integers(1, 3))]), EditedPicture(image)
        for name in names:
            edited = apply_edit(name, edited, EditDraw(rng, Strength(0.0, 0.5), load_donor))
        return edited, names
    return edit_copy(image, _EDITS, rng, load_donor)


def _save(image: Image.Image, path: Path) -> None:
    with atomic_path(path) as file:
        image.save(file, _FORMATS[path.suffix], quality=85)
