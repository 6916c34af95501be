"""A labeled set of edited copies: queries, the reference that each copies, and the boxes of pasted photos."""

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
from copytrace.step import Progress, SilentProgress
from copytrace.storage import atomic_path, write_text
from copytrace.synthesis.edit_tracking import Draw, EditedPicture, Strength
from copytrace.synthesis.edits import EDITS, KINDS, EditKind, apply_edit, kind_of_edits

_LONGEST_SIDE = 1000
_MIN_SHARE_VISIBLE = 0.04  # of the original's area
_MIN_PIXELS_VISIBLE = 24 * 24


class Photo(Protocol):
    """A photo on disk, such as a `MediaItem` or a sample photo."""

    @property
    def id(self) -> str:
        """Name in the ground truth."""

    @property
    def path(self) -> str | os.PathLike[str]:
        """Local file, or a URI that fsspec opens."""


@dataclass(frozen=True)
class Difficulty:
    """How strongly copies are edited.

    Attributes:
        edits_per_copy: least and most edits of one picture.
        strength: range of strengths of each edit.
        kinds: weight of each kind of query, which is the kind of its most severe edit; other kinds do not occur.
        unused: names of edits that do not occur.
    """

    edits_per_copy: tuple[int, int]
    strength: Strength
    kinds: Mapping[EditKind, float]
    unused: frozenset[str] = frozenset()


_EVEN: dict[EditKind, float] = {"photo": 1.0, "decor": 1.0, "geometry": 1.0, "crop": 1.0, "overlay": 1.0}
MILD = Difficulty((1, 2), Strength(0.0, 0.5), _EVEN, unused=frozenset({"invert", "colormap"}))
HARD = Difficulty((2, 4), Strength(0.4, 1.0), {**_EVEN, "geometry": 1.5, "overlay": 1.5})
DIFFICULTIES: dict[str, tuple[Difficulty, ...]] = {"mild": (MILD,), "hard": (HARD,), "mixed": (MILD, HARD)}


@dataclass(frozen=True)
class EditedSetPlan:
    """What an edited set consists of; all choices are drawn from `seed`.

    Attributes:
        copies: number of queries that copy a reference.
        distractors: number of queries that copy none.
        difficulty: a key of `DIFFICULTIES`: "mild", "hard", or "mixed" (either, query by query).
        edits_per_copy: least and most edits per query, instead of the difficulty's.
        kinds: weights of the kinds (`edits.KINDS`), instead of the difficulty's.
        seed: seed of all draws.
    """

    copies: int
    distractors: int
    difficulty: str = "mixed"
    edits_per_copy: tuple[int, int] | None = None
    kinds: Mapping[EditKind, float] | None = None
    seed: int = 0

    def difficulties(self) -> list[Difficulty]:
        """Return the difficulties to draw from, with the plan's own numbers of edits and weights of kinds.

        Raises `ConfigError` for an unknown difficulty or kind, or an impossible number.
        """
        if self.difficulty not in DIFFICULTIES:
            raise ConfigError(f"unknown difficulty {self.difficulty!r}; it must be one of {', '.join(DIFFICULTIES)}")
        edits, kinds = self.edits_per_copy, self.kinds
        if edits and not 1 <= edits[0] <= edits[1] <= 6:
            raise ConfigError(f"edits_per_copy {edits} must be two rising numbers from 1 to 6")
        if kinds is not None and (set(kinds) - set(KINDS) or min(kinds.values()) < 0 or sum(kinds.values()) <= 0):
            raise ConfigError(f"kinds {dict(kinds)} must give weights, not all 0, to some of {', '.join(KINDS)}")
        return [
            replace(difficulty, edits_per_copy=edits or difficulty.edits_per_copy, kinds=kinds or difficulty.kinds)
            for difficulty in DIFFICULTIES[self.difficulty]
        ]


@dataclass(frozen=True)
class PlannedQuery:
    """A query to write: its photo or video, and the id of the reference that it copies, "" for a distractor."""

    query_id: str
    photo: Photo
    reference_id: str
    seed: tuple[int, int]


@dataclass(frozen=True)
class _EditedQuery:
    query: PlannedQuery
    edits: list[str]
    box: tuple[float, float, float, float]


def write_edited_set(
    photos: Sequence[Photo],
    donors: Sequence[Photo],
    out: Path,
    plan: EditedSetPlan,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Write edited copies of `photos` and edited photos that are not copies, and return `out`.

    `donors` are photos that are not references: distractors are made of them, and overlay edits use them. The files are
    `queries/Q00000.jpg`…; `boxes.csv` (`query_id,x0,y0,x1,y1`, normalized 0..1: where the photo lies in each query with
    `onto_photo`); and last `ground_truth.csv` (`query_id,reference_id,kind,edits`; no reference for a distractor; edits
    in the order applied). The numbers of copies of two photos differ by at most one. Photos are reduced to a long side
    of 1,000 pixels before they are edited. On the same machine and versions, the same arguments give the same bytes,
    whatever the number of `workers` (threads).

    Raises:
        InputError: there are no photos or donors, they share an id, or `out` holds queries of another set.
        ConfigError: the plan has an unknown difficulty or kind, or an impossible number.
        MediaError: a photo cannot be read.
    """
    difficulties = plan.difficulties()
    queries = plan_queries(photos, donors, plan)
    folder = out / "queries"
    folder.mkdir(parents=True, exist_ok=True)
    require_only(folder, {f"{query.query_id}.jpg" for query in queries})

    def write(query: PlannedQuery) -> _EditedQuery:
        return _write_query(query, donors, difficulties, folder)

    with (progress or SilentProgress()).step("edit photos", len(queries), "images") as step:
        edited = []
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for query in pool.map(write, queries):
                edited.append(query)
                step.advance()
    boxes = [[row.query.query_id, *(f"{edge:.5f}" for edge in row.box)] for row in edited if "onto_photo" in row.edits]
    write_text(out / "boxes.csv", csv_text(["query_id", "x0", "y0", "x1", "y1"], boxes))
    truth = [
        [row.query.query_id, row.query.reference_id, kind_of_edits(row.edits), " ".join(row.edits)] for row in edited
    ]
    write_text(out / "ground_truth.csv", csv_text(["query_id", "reference_id", "kind", "edits"], truth))
    return out


def edit_copy(
    image: Image.Image,
    difficulty: Difficulty,
    rng: np.random.Generator,
    load_donor: Callable[[np.random.Generator], Image.Image],
) -> tuple[EditedPicture, list[str]]:
    """Edit an RGB picture with the given difficulty; return it with the names of its edits in the order applied."""
    draw = Draw(rng, difficulty.strength, load_donor)
    edited, names = EditedPicture(image), []
    for name in _choose_edits(difficulty, draw):
        attempt = apply_edit(name, edited, draw)
        # If hardly anything of the original is left to see, the ground truth would be wrong: the edit is dropped.
        if attempt.visible_share >= _MIN_SHARE_VISIBLE and attempt.visible_pixels >= _MIN_PIXELS_VISIBLE:
            edited = attempt
            names.append(name)
    return (edited, names) if names else (apply_edit("jpeg", edited, draw), ["jpeg"])


def _choose_edits(difficulty: Difficulty, draw: Draw) -> list[str]:
    kinds = [kind for kind in KINDS if difficulty.kinds.get(kind, 0) > 0]
    weights = np.array([difficulty.kinds[kind] for kind in kinds])
    main_kind = kinds[draw.rng.choice(len(kinds), p=weights / weights.sum())]
    allowed = [edit for edit in EDITS.values() if edit.name not in difficulty.unused]
    main = draw.choice([edit.name for edit in allowed if edit.kind == main_kind])
    companion_kinds = KINDS[: KINDS.index(main_kind) + (main_kind not in ("crop", "overlay"))]
    companions = {kind: [e.name for e in allowed if e.kind == kind and e.name != main] for kind in companion_kinds}
    chosen = [main]
    for _ in range(draw.integer(*difficulty.edits_per_copy) - 1):
        kind = draw.choice([kind for kind, names in companions.items() if names])
        chosen.append(companions[kind].pop(draw.integer(0, len(companions[kind]) - 1)))
    order = [chosen[place] for place in draw.rng.permutation(len(chosen))]
    # A crop comes first, as people do: a crop of a collage would often leave the picture out.
    return sorted(order, key=lambda name: name != "crop")


def _write_query(
    query: PlannedQuery, donors: Sequence[Photo], difficulties: Sequence[Difficulty], folder: Path
) -> _EditedQuery:
    rng = np.random.default_rng(query.seed)
    others = [donor for donor in donors if donor.id != query.photo.id] or list(donors)

    def load_donor(generator: np.random.Generator) -> Image.Image:
        return read_photo(others[int(generator.integers(len(others)))])

    difficulty = difficulties[int(rng.integers(len(difficulties)))]
    edited, names = edit_copy(read_photo(query.photo), difficulty, rng, load_donor)
    with atomic_path(folder / f"{query.query_id}.jpg") as file:
        edited.image.save(file, "JPEG", quality=int(rng.integers(75, 96)))
    return _EditedQuery(query, names, edited.box)


def read_photo(photo: Photo) -> Image.Image:
    """Return a photo as RGB, reduced to a long side of 1,000 pixels. Raises `MediaError` if it is unreadable."""
    try:
        image = Image.fromarray(decode_image(os.fspath(photo.path), short_side=_LONGEST_SIDE).pixels)
    except MediaError as error:
        raise MediaError(f"unreadable photo {photo.path}: {error}; leave it out of the set") from error
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return image


def plan_queries(
    photos: Sequence[Photo], donors: Sequence[Photo], plan: EditedSetPlan, *, kind: str = "photo"
) -> list[PlannedQuery]:
    """Plan the queries of a set in their order, copies among distractors, with equal numbers for all photos.

    `kind` is the word for the references in errors. Raises `InputError` without photos or donors, or when they share
    an id, and `ConfigError` for impossible numbers.
    """
    copies, distractors, seed = plan.copies, plan.distractors, plan.seed
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
    orders = [rng.permutation(len(photos)), rng.permutation(len(donors))]
    queries = []
    for number, place in enumerate(rng.permutation(copies + distractors)):
        is_copy = bool(place < copies)
        source = (
            photos[orders[0][place % len(photos)]] if is_copy else donors[orders[1][(place - copies) % len(donors)]]
        )
        queries.append(PlannedQuery(f"Q{number:05d}", source, source.id if is_copy else "", (seed, number)))
    return queries


def require_only(folder: Path, expected: set[str]) -> None:
    """Raise `InputError` when a folder holds other files than the expected ones."""
    others = sorted(path.name for path in folder.iterdir() if path.name not in expected)
    if others:
        raise InputError(f"{folder} holds {others[0]}, which is not part of this set; give an empty folder")


def csv_text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return the text of a CSV file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
