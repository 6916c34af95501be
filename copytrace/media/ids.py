"""Ids of the files of a folder, a glob or a bucket: their relative paths, without the suffix where that is unique."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from copytrace.media.formats import MediumKind, promises_medium


def assign_ids(relatives: Sequence[str], kind: MediumKind | None = None) -> list[str]:
    """Return the ids of files with these relative paths, which are all different.

    A file has the shortest unique id: its path without the suffix, or else all of it. What is no medium of this kind by
    its name does not count: beside `a.txt`, `a.jpg` is still `a`, and the text is `a.txt`. Media that would share an
    id, `a.jpg` and `a.png`, both keep their suffix, whatever lies beside them.
    """
    ranks = [promises_medium(relative, kind) for relative in relatives]
    ids = dict.fromkeys(relatives, "")
    taken: set[str] = set()
    for rank in sorted(set(ranks), reverse=True):
        group = [relative for relative, own in zip(relatives, ranks, strict=True) if own == rank]
        named = _shortest(group, taken)
        ids |= dict(zip(group, named, strict=True))
        taken.update(named, map(_without_suffix, group))
    return list(ids.values())


def _shortest(relatives: Sequence[str], taken: Iterable[str]) -> list[str]:
    ids = [_without_suffix(relative) for relative in relatives]
    # Repeated, because `a.jpg`, with its suffix because of `a.png`, may now equal the id of `a.jpg.png`.
    while shared := {name for name, count in Counter([*ids, *taken]).items() if count > 1}:
        # `a.txt` itself is the id of `a.txt.png`: no path within a folder begins like this one.
        longer = [relative if relative not in taken else f"./{relative}" for relative in relatives]
        ids = [whole if name in shared else name for name, whole in zip(ids, longer, strict=True)]
    return ids


def _without_suffix(relative: str) -> str:
    folder, slash, name = relative.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)
