"""Queries that are files among the references: which reference is a query itself, whatever its name there."""

from __future__ import annotations

from copytrace.index.media_index import MediaIndex
from copytrace.storage import digest_of

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
