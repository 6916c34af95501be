"""Lists of candidates that were cut: queries that may be copies of more references than are listed."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from copytrace.checked_files import read_record
from copytrace.run_folder import BRANCHES, ImageRunFolder, VideoRunFolder
from copytrace.step import StepRun

_NOTE = "cut_queries"
_MOST_NAMED = 5  # in a sentence


def note_cut(work: StepRun, queries: Collection[str]) -> None:
    """Note in the record of a search the queries whose lists were cut."""
    if queries:
        work.notes[_NOTE] = sorted(set(queries))


def read_cut(folder: ImageRunFolder | VideoRunFolder, shards: Sequence[int]) -> list[str]:
    """Return the queries of a run whose lists were cut, sorted; `shards` are those of its queries."""
    if isinstance(folder, VideoRunFolder):
        paths = [folder.candidates(shard) for shard in shards]
    else:
        paths = [folder.candidates(branch, shard) for branch in BRANCHES for shard in shards]
        paths.append(folder.merged)  # which sees lists that are full of copies
    return sorted({query for path in paths for query in read_record(path.with_suffix(".json")).get(_NOTE, [])})


def describe_cut(queries: Sequence[str]) -> str:
    """Return a sentence that names the queries whose lists were cut; "" if there are none."""
    if not queries:
        return ""
    which = "1 query may be a copy" if len(queries) == 1 else f"{len(queries):,} queries may be copies"
    more = len(queries) - _MOST_NAMED
    named = ", ".join(queries[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")
    return f"{which} of more references than are listed: {named}"
