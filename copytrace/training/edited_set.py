"""A labelled set of edited copies: the queries, which reference each was made of, and where pasted pictures lie."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from copytrace.errors import ConfigError, InputError, MediaError
from copytrace.media.decode import decode_image
from copytrace.progress import Progress, SilentProgress
from copytrace.storage import atomic_path, write_text
from copytrace.training.edit_tracking import Draw, EditedPicture, Strength
from copytrace.training.edits import EDITS, KINDS, apply_edit, kind_of

_LONGEST_SIDE = 1000
_MIN_SEEN = 0.04  # of the original's area
_MIN_PIXELS_SEEN = 24 * 24


class Photo(Protocol):
    """A photo on disk; `media` items and sample photos are such."""

    @property
    def id(self) -> str:
        """The name that the ground truth uses."""

    @property
    def path(self) -> str | os.PathLike[str]:
        """A local file, or a URI that fsspec opens."""


@dataclass(frozen=True)
class Difficulty:
    """How copies are edited.

    Attributes:
        edits_per_copy: least and most edits of one picture.
        strength: the range of strengths of each.
        kinds: the weight of each kind of query, that is of its most severe edit; kinds left out do not occur.
        unused: names of edits that do not occur.
    """

    edits_per_copy: tuple[int, int]
    strength: Strength
    kinds: Mapping[str, float]
    unused: frozenset[str] = frozenset()


_EVEN = {"photo": 1.0, "decor": 1.0, "geometry": 1.0, "crop": 1.0, "overlay": 1.0}
MILD = Difficulty((1, 2), Strength(0.0, 0.5), _EVEN, unused=frozenset({"invert", "colormap"}))
HARD = Difficulty((2, 4), Strength(0.4, 1.0), {**_EVEN, "geometry": 1.5, "overlay": 1.5})
DIFFICULTIES: dict[str, tuple[Difficulty, ...]] = {"mild": (MILD,), "hard": (HARD,), "mixed": (MILD, HARD)}


@dataclass(frozen=True)
class PlannedQuery:
    """A query to be written: what it is made of, and the id of the reference that it copies, "" for a distractor."""

    query_id: str
    photo: Photo
    reference_id: str
    seed: tuple[int, int]


@dataclass(frozen=True)
class _Written:
    query: PlannedQuery
    edits: list[str]
    box: tuple[float, float, float, float]


def write_edited_set(
    photos: Sequence[Photo],
    donors: Sequence[Photo],
    out: Path,
    *,
    copies: int,
    distractors: int,
    difficulty: str = "mild",
    edits_per_copy: tuple[int, int] | None = None,
    kinds: Mapping[str, float] | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Write edited copies of `photos` and edited photos that are no copies, and return `out`.

    On the same machine and versions the same arguments give the same bytes, whatever the number of `workers` (threads).
    Written are
    `queries/Q00000.jpg`…; `boxes.csv` (`query_id,x0,y0,x1,y1`, normalised 0..1: where the photo lies in each query
    with `onto_photo`); and last `ground_truth.csv` (`query_id,reference_id,kind,edits`; no reference for a distractor;
    edits in the order applied). Each photo gets as many copies as any other, one more or less. Photos are
    reduced to a long side of 1,000 pixels before they are edited.

    Args:
        photos: the references.
        donors: photos that are not references: distractors are made of them, and overlays use them.
        out: folder to write to.
        copies: how many queries are copies of one of `photos`.
        distractors: how many queries are not.
        difficulty: a key of `DIFFICULTIES`: "mild", "hard", or "mixed" (either, query by query).
        edits_per_copy: least and most edits per query, instead of the difficulty's.
        kinds: weights of the kinds (`edits.KINDS`), instead of the difficulty's.
        seed: what all choices follow from.
        workers: threads that edit at the same time.
        progress: told of every query written.

    Raises:
        InputError: no photos or donors, an id among both, or `out` holds queries of another set.
        ConfigError: an unknown difficulty or kind, or an impossible number.
        MediaError: a photo cannot be read.
    """
    levels = levels_of(difficulty, edits_per_copy, kinds)
    queries = plan_queries(photos, donors, copies, distractors, seed)
    folder = out / "queries"
    folder.mkdir(parents=True, exist_ok=True)
    require_only(folder, {f"{query.query_id}.jpg" for query in queries})

    def write(query: PlannedQuery) -> _Written:
        return _write_query(query, donors, levels, folder)

    with (progress or SilentProgress()).stage("edit photos", len(queries), "images") as stage:
        written = []
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for done in pool.map(write, queries):
                written.append(done)
                stage.advance()
    boxes = [
        [done.query.query_id, *(f"{edge:.5f}" for edge in done.box)] for done in written if "onto_photo" in done.edits
    ]
    write_text(out / "boxes.csv", csv_text(["query_id", "x0", "y0", "x1", "y1"], boxes))
    truth = [[d.query.query_id, d.query.reference_id, kind_of(d.edits), " ".join(d.edits)] for d in written]
    write_text(out / "ground_truth.csv", csv_text(["query_id", "reference_id", "kind", "edits"], truth))
    return out


def edit_copy(
    image: Image.Image,
    difficulty: Difficulty,
    rng: np.random.Generator,
    donor_of: Callable[[np.random.Generator], Image.Image],
) -> tuple[EditedPicture, list[str]]:
    """Edit an RGB picture as `difficulty` says; return it with the names of its edits in the order applied."""
    draw = Draw(rng, difficulty.strength, donor_of)
    edited, names = EditedPicture(image), []
    for name in _choose_edits(difficulty, draw):
        attempt = apply_edit(name, edited, draw)
        # An edit after which nobody could say what it was made of would make the ground truth a lie.
        if attempt.seen >= _MIN_SEEN and attempt.pixels_seen >= _MIN_PIXELS_SEEN:
            edited = attempt
            names.append(name)
    return (edited, names) if names else (apply_edit("jpeg", edited, draw), ["jpeg"])


def _choose_edits(difficulty: Difficulty, draw: Draw) -> list[str]:
    kinds = [kind for kind in KINDS if difficulty.kinds.get(kind, 0) > 0]
    weights = np.array([difficulty.kinds[kind] for kind in kinds])
    main_kind = kinds[draw.rng.choice(len(kinds), p=weights / weights.sum())]
    allowed = [edit for edit in EDITS.values() if edit.name not in difficulty.unused]
    main = draw.choice([edit.name for edit in allowed if edit.kind == main_kind])
    milder_kinds = KINDS[: KINDS.index(main_kind) + (main_kind not in ("crop", "overlay"))]
    companions = {kind: [e.name for e in allowed if e.kind == kind and e.name != main] for kind in milder_kinds}
    chosen = [main]
    for _ in range(draw.integer(*difficulty.edits_per_copy) - 1):
        kind = draw.choice([kind for kind, names in companions.items() if names])
        chosen.append(companions[kind].pop(draw.integer(0, len(companions[kind]) - 1)))
    order = [chosen[place] for place in draw.rng.permutation(len(chosen))]
    # Whoever crops does it first: a crop of a collage would often leave the picture out.
    return sorted(order, key=lambda name: name != "crop")


def _write_query(query: PlannedQuery, donors: Sequence[Photo], levels: Sequence[Difficulty], folder: Path) -> _Written:
    rng = np.random.default_rng(query.seed)
    others = [donor for donor in donors if donor.id != query.photo.id] or list(donors)

    def donor_of(generator: np.random.Generator) -> Image.Image:
        return _read(others[int(generator.integers(len(others)))])

    difficulty = levels[int(rng.integers(len(levels)))]
    edited, names = edit_copy(_read(query.photo), difficulty, rng, donor_of)
    with atomic_path(folder / f"{query.query_id}.jpg") as file:
        edited.image.save(file, "JPEG", quality=int(rng.integers(75, 96)))
    return _Written(query, names, edited.box)


def _read(photo: Photo) -> Image.Image:
    try:
        image = Image.fromarray(decode_image(os.fspath(photo.path), short_side=_LONGEST_SIDE).pixels)
    except MediaError as error:
        raise MediaError(f"unreadable photo {photo.path}: {error}; leave it out of the set") from error
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return image


def plan_queries(
    photos: Sequence[Photo], donors: Sequence[Photo], copies: int, distractors: int, seed: int, *, kind: str = "photo"
) -> list[PlannedQuery]:
    """Plan the queries of a set in their order, copies among distractors; each photo gets as many as any other.

    `kind` is what errors call what is copied. Raises `InputError` without photos or donors, or when they share an id,
    and `ConfigError` for numbers that make no set.
    """
    if not photos or not donors:
        raise InputError(
            f"{len(photos)} {kind}s and {len(donors)} donors given; an edited set needs at least one of each"
        )
    if copies < 0 or distractors < 0 or copies + distractors == 0:
        raise ConfigError(f"{copies} copies and {distractors} distractors make no set; ask for at least one query")
    shared = {photo.id for photo in photos} & {donor.id for donor in donors}
    if shared:
        raise InputError(
            f"{min(shared)} is both a {kind} and a donor, so its distractors would be copies; give it once"
        )
    rng = np.random.default_rng(seed)
    turns = [rng.permutation(len(photos)), rng.permutation(len(donors))]
    queries = []
    for number, place in enumerate(rng.permutation(copies + distractors)):
        is_copy = bool(place < copies)
        source = photos[turns[0][place % len(photos)]] if is_copy else donors[turns[1][(place - copies) % len(donors)]]
        queries.append(PlannedQuery(f"Q{number:05d}", source, source.id if is_copy else "", (seed, number)))
    return queries


def levels_of(
    difficulty: str, edits_per_copy: tuple[int, int] | None = None, kinds: Mapping[str, float] | None = None
) -> list[Difficulty]:
    """Return the difficulties of that name, with other numbers of edits or weights of kinds if they are given.

    Raises `ConfigError` for an unknown name or kind, or an impossible number.
    """
    if difficulty not in DIFFICULTIES:
        raise ConfigError(f"unknown difficulty {difficulty!r}; it must be one of {', '.join(DIFFICULTIES)}")
    if edits_per_copy and not 1 <= edits_per_copy[0] <= edits_per_copy[1] <= 6:
        raise ConfigError(f"edits_per_copy {edits_per_copy} must be two rising numbers from 1 to 6")
    if kinds is not None and (set(kinds) - set(KINDS) or min(kinds.values()) < 0 or sum(kinds.values()) <= 0):
        raise ConfigError(f"kinds {dict(kinds)} must give weights, not all 0, to some of {', '.join(KINDS)}")
    return [
        replace(level, edits_per_copy=edits_per_copy or level.edits_per_copy, kinds=kinds or level.kinds)
        for level in DIFFICULTIES[difficulty]
    ]


def require_only(folder: Path, expected: set[str]) -> None:
    """Raise `InputError` when a folder holds files other than those that will be written."""
    strangers = sorted(path.name for path in folder.iterdir() if path.name not in expected)
    if strangers:
        raise InputError(f"{folder} holds {strangers[0]}, which is not of this set; give an empty folder")


def csv_text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a CSV file as text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
