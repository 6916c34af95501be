"""Which media of an index have changed since they were described.

A stamp is compared first. Where it differs, the content decides, so that a touched, copied or moved file is not
described again, and a file is read only if its stamp gives a reason. What a file held is noted when it is described.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from enum import Enum, auto
from typing import TypeVar

from configs.settings import KnownBy
from copytrace.media.files import MediaItem
from copytrace.media.stamps import digest_of_content, size_and_time
from copytrace.runtime import usable_cores
from copytrace.step import current_progress
from copytrace.storage import is_uri

R = TypeVar("R")


class _Verdict(Enum):
    SAME = auto()
    CHANGED = auto()
    READ = auto()  # the content decides


def find_unchanged(
    held: Iterable[MediaItem], wanted: Mapping[str, MediaItem], known_by: KnownBy = "status"
) -> dict[str, MediaItem]:
    """Return, by id, the media that an index `held` whose content is unchanged, with path and stamp as in `wanted`.

    `known_by` says when a file is read to compare its content: see `MediaSettings`. An index of an older version has no
    digests of contents, so its files are read once. A file that cannot be read now keeps its old stamp.
    """
    found: dict[str, MediaItem] = {}
    doubtful: list[tuple[MediaItem, MediaItem]] = []
    for before in held:
        now = wanted.get(before.id)
        if now is None:
            continue
        verdict = _compare(before, now, known_by)
        if verdict is _Verdict.READ:
            doubtful.append((before, now))
        elif verdict is _Verdict.SAME:
            found[now.id] = MediaItem(now.id, now.path, now.stamp, now.content or before.content)
    for (before, now), content in zip(doubtful, _read_contents([now for _, now in doubtful]), strict=True):
        if content and content == (before.content or content):
            found[now.id] = replace(now, content=content)
        elif not content and size_and_time(before.stamp) == size_and_time(now.stamp):
            found[now.id] = replace(before, path=now.path)
    return found


def note_content(load: Callable[[MediaItem], R], contents: MutableMapping[str, str]) -> Callable[[MediaItem], R]:
    """Return a function that reads a file by `load`, and notes a digest of its content in `contents`, by its id."""

    def load_and_note(item: MediaItem) -> R:
        # The digest is taken first: should the file change before it is loaded, the next run finds another digest.
        contents[item.id] = item.content or digest_of_content(item.path)
        return load(item)

    return load_and_note


def _compare(before: MediaItem, now: MediaItem, known_by: KnownBy) -> _Verdict:
    if not now.stamp:  # the file does not exist
        return _Verdict.CHANGED
    if now.content and before.content:
        return _Verdict.SAME if now.content == before.content else _Verdict.CHANGED
    in_place = before.path == now.path
    if is_uri(now.path):
        return _Verdict.SAME if in_place and before.stamp == now.stamp else _Verdict.CHANGED
    same_time = in_place and size_and_time(before.stamp) == size_and_time(now.stamp)
    if not before.content:
        # In an index of 0.1.0, a stamp was size and time.
        same = before.stamp == now.stamp or (same_time and before.stamp == size_and_time(before.stamp))
        return _Verdict.READ if same else _Verdict.CHANGED
    if (known_by == "status" and before.stamp == now.stamp) or (known_by == "time" and same_time):
        return _Verdict.SAME
    same_size = before.stamp.partition("-")[0] == now.stamp.partition("-")[0]
    return _Verdict.READ if same_size else _Verdict.CHANGED


def _read_contents(items: Sequence[MediaItem]) -> Iterator[str]:
    if not items:
        return
    with (
        current_progress().step("compare contents", len(items), "files") as shown,
        ThreadPoolExecutor(usable_cores()) as pool,
    ):
        for content in pool.map(digest_of_content, [item.path for item in items]):
            shown.advance()
            yield content
