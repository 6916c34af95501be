"""Queries that are files among the references: which reference is a query itself, whatever its name there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from copytrace.arrays import Numbers
from copytrace.index.media_index import MediaIndex
from copytrace.storage import digest_of, file_identity

_digests: dict[tuple[str, ...], str] = {}
_MOST_KEPT = 4


def digest_of_shared_places(queries: MediaIndex, searched: MediaIndex) -> str:
    """Return a digest of where the media lie that may be both among the queries and in the searched index.

    A query finds other files than itself, so what it finds changes if one of these is moved, though no content does.
    """
    ours, theirs = queries.items, searched.items
    state = tuple(text for each in (ours, theirs) for text in (each.digest, each.path_digest, each.stamp_digest))
    if state not in _digests:
        while len(_digests) >= _MOST_KEPT:
            _digests.pop(next(iter(_digests)))
        _digests[state] = digest_of(ours.places_shared_with(theirs), theirs.places_shared_with(ours))
    return _digests[state]


class SharedFiles:
    """Files that are both queries and references, so that a pair of them may be found in both directions.

    Pairs are named by the two `columns` of a table. `numbers` has a number for each shared file, by its id, of both
    sides.
    """

    def __init__(self, columns: Sequence[str], numbers: Sequence[Mapping[str, int]]) -> None:
        self._columns, self._numbers = columns, numbers
        self._count = 1 + max((number for side in numbers for number in side.values()), default=0)
        self._seen: list[Numbers] = []  # of the pairs passed on, 8 bytes each; none is in two of the arrays
        self._directions: dict[int, bool] = {}

    @classmethod
    def of(
        cls, columns: Sequence[str], ids: Sequence[Collection[str]], paths: Sequence[Mapping[str, str]]
    ) -> SharedFiles:
        """Return the files shared by queries and references, given the ids and the paths of both."""
        files = [{each: file_identity(path[each]) for each in side} for side, path in zip(ids, paths, strict=True)]
        shared = {file: number for number, file in enumerate(sorted(set(files[0].values()) & set(files[1].values())))}
        return cls(columns, [{each: shared[file] for each, file in side.items() if file in shared} for side in files])

    def drop_reversed(self, pairs: pa.Table) -> pa.Table:
        """Return the pairs of which no table that was given before, and no earlier row, has the same two files."""
        rows, number, _ = self._shared(pairs)
        if not len(rows):
            return pairs
        new, first = np.unique(number, return_index=True)
        is_new = np.ones(len(new), bool)
        for seen in self._seen:
            place = np.minimum(np.searchsorted(seen, new), len(seen) - 1)
            is_new &= seen[place] != new
        keep = np.ones(len(pairs), bool)
        keep[rows] = False
        keep[rows[first[is_new]]] = True
        self._note(new[is_new])
        return pairs.filter(pa.array(keep))

    def keep_first_direction(self, segments: pa.Table) -> pa.Table:
        """Return the segments without those of two files that were first found, in any table, in the other direction.

        Two files may have many segments.
        """
        rows, number, is_forward = self._shared(segments)
        keep = np.ones(len(segments), bool)
        for row, pair, forward in zip(rows.tolist(), number.tolist(), is_forward.tolist(), strict=True):
            keep[row] = self._directions.setdefault(pair, forward) == forward
        return segments.filter(pa.array(keep))

    def _shared(self, pairs: pa.Table) -> tuple[Numbers, Numbers, NDArray[np.bool_]]:
        """Return the rows of the pairs whose files are both shared, int64 [S], and a number for each pair of files.

        A pair has the same number, int64 [S], in both directions, which are told by bool [S].
        """
        if not any(self._numbers):
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, bool)
        first, second = (
            self._files(pairs.column(name), of) for name, of in zip(self._columns, self._numbers, strict=True)
        )
        rows = np.flatnonzero((first >= 0) & (second >= 0))
        first, second = first[rows], second[rows]
        return rows, np.minimum(first, second) * self._count + np.maximum(first, second), first < second

    def _note(self, new: Numbers) -> None:
        while self._seen and len(self._seen[-1]) <= 2 * len(new):  # so that there are few arrays
            new = np.sort(np.concatenate([self._seen.pop(), new]))
        if len(new):
            self._seen.append(new)

    @staticmethod
    def _files(ids: pa.ChunkedArray, numbers: Mapping[str, int]) -> Numbers:
        """Return the number of the file of each id, −1 if it is not shared, int64 [N]."""
        texts = pc.dictionary_encode(ids).combine_chunks()
        found = np.array([numbers.get(each, -1) for each in texts.dictionary.to_pylist()], np.int64)
        return np.asarray(found[texts.indices.to_numpy()] if len(found) else found)
