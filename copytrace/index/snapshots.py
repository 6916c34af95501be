"""Searches of indexes that another run may update meanwhile: what a search writes comes from one state of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from copytrace.errors import IndexChangedError
from copytrace.index.manifest import read_manifest
from copytrace.index.media_index import read_provenance
from copytrace.storage import digest_of

ATTEMPTS = 5

T = TypeVar("T")

logger = logging.getLogger(__name__)


def search_unchanged(indexes: Sequence[Path], search: Callable[[], T]) -> T:
    """Return what `search` returns, which reads these indexes; if one of them changes meanwhile, search again.

    Steps whose inputs stayed the same are not repeated. Raises `IndexChangedError` if they change each time.
    """
    for _ in range(ATTEMPTS):
        before = [_state(index) for index in indexes]
        try:
            found = search()
        except Exception:
            if before == [_state(index) for index in indexes]:
                raise
        else:
            if before == [_state(index) for index in indexes]:
                return found
        logger.warning("an index was changed while it was searched; searching it as it is now")
    raise IndexChangedError(
        f"{', '.join(map(str, indexes))}: one of these was changed {ATTEMPTS} times while it was searched; run the "
        "same command again when it is no longer updated, or search a copy of it"
    )


def _state(index: Path) -> str:
    """Return a text that changes with what the index holds and where."""
    manifest = read_manifest(index)
    held = manifest and (manifest.digest, manifest.path_digest, manifest.states)
    return digest_of(read_provenance(index), held)
