"""Labeled pairs of pictures: copies that people confirmed, and pictures that only look alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from copytrace.arrays import Numbers
from copytrace.errors import InputError
from copytrace.metrics.tables import read_ids, read_strings, read_table
from copytrace.storage import digest_of, file_identity, is_uri, resolve_path
from copytrace.training.photos import PhotoSplit, group_numbers


@dataclass(frozen=True, slots=True)
class ConfirmedPairs:
    """N pictures in labeled pairs.

    `photo` and `group` int64 [N] are the numbers of the photo that a picture shows and of its group, see
    `ViewExamples`; pictures that are also training photos have their numbers. `copies` int64 [P, 2] are the rows of a
    query and of its reference, and `lookalikes` int64 [L, 2] those of pictures that look alike and show different
    photos.
    """

    paths: tuple[str, ...]
    photo: Numbers
    group: Numbers
    copies: Numbers
    lookalikes: Numbers
    digest: str

    def alike(self, pair: int) -> Numbers:
        """Return the pictures that look like the photo of a pair, and show other ones."""
        touched = self.photo[self.lookalikes] == self.photo[self.copies[pair, 0]]
        return np.asarray(self.lookalikes[touched[:, ::-1] & ~touched])


def read_confirmed_pairs(source: str, split: PhotoSplit) -> ConfirmedPairs:
    """Read a CSV or Parquet file with `query`, `reference`, and optionally `same`: 1, or 0 for look-alikes.

    Pictures are paths or URIs; relative ones begin at the file's folder. All pictures that rows with 1 join show the
    same photo. Pairs of photos that validate are left out. Raises `InputError` if the file cannot be read, says of two
    pictures both that they are the same and that they are not, or leaves no pair of copies.
    """
    path = resolve_path(source)
    table = read_table(path, ("query", "reference"), ("same",))
    sides = [[_place(path, name) for name in read_ids(path, table, side)] for side in ("query", "reference")]
    same = (
        _labels(path, read_strings(path, table, "same"))
        if "same" in table.column_names
        else np.ones(len(sides[0]), bool)
    )
    paths, rows = np.unique(np.array([*sides[0], *sides[1]], object).astype(np.str_), return_inverse=True)
    pairs = rows.reshape(2, -1).T
    joined = coo_array((np.ones(int(same.sum())), pairs[same].T), shape=(len(paths), len(paths)))
    shown = connected_components(joined, directed=False)[1].astype(np.int64)
    if len(wrong := np.flatnonzero((shown[pairs[:, 0]] == shown[pairs[:, 1]]) & ~same)):
        raise InputError(
            f"{path}: row {wrong[0] + 1} says that {sides[0][wrong[0]]} and {sides[1][wrong[0]]} differ, but by other "
            "rows they are the same; correct one of them"
        )
    photo, group, validates = _numbers(paths.tolist(), shown, split)
    used = ~validates[pairs].any(axis=1)
    if not (used & same).any():
        raise InputError(f"{path} has no pair of copies to learn from; give some whose photos are not all held out")
    digest = digest_of(paths.tolist(), pairs.tolist(), same.tolist())
    return ConfirmedPairs(tuple(paths.tolist()), photo, group, pairs[used & same], pairs[used & ~same], digest)


def _place(path: Path, name: str) -> str:
    return name if is_uri(name) or name.startswith("/") else str(path.parent / name)


def _labels(path: Path, texts: NDArray[np.object_]) -> NDArray[np.bool_]:
    if len(wrong := np.flatnonzero((texts != "0") & (texts != "1"))):
        raise InputError(f"{path}: row {wrong[0] + 1} has same={texts[wrong[0]]!r}; write 1, or 0 for look-alikes")
    return np.asarray(texts == "1")


def _numbers(paths: Sequence[str], shown: Numbers, split: PhotoSplit) -> tuple[Numbers, Numbers, NDArray[np.bool_]]:
    """Return the photo and group numbers of pictures, and which show a photo that validates.

    `shown` int64 [N] is the same for pictures of one photo.
    """
    names = {Path(path).name for path in paths}  # of the photos, only files of these names are looked up
    training = {file_identity(p.path): n for n, p in enumerate(split.train) if Path(p.path).name in names}
    held_out = {file_identity(photo.path) for photo in split.validation if Path(photo.path).name in names}
    groups = group_numbers(split.train)
    photo, group = len(split.train) + shown, int(groups.max(initial=-1)) + 1 + shown
    validates = np.zeros(len(shown), bool)
    for row, identity in enumerate(map(file_identity, paths)):
        if identity in training:
            same, known = shown == shown[row], training[identity]
            photo[same], group[same] = known, groups[known]
        elif identity in held_out:
            validates |= shown == shown[row]
    return photo, group, validates
