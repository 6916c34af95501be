"""What an index leaves out or holds only in part: which list names it, and when it stops a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from configs.settings import MediaSettings
from copytrace.errors import InputError, MediaError, NotMediumError, TooManyFailuresError
from copytrace.index.media_index import finish_index, receipt_path
from copytrace.index.odd_files import count_passed_over, odd_file
from copytrace.index.plan_file import Shard, read_plan
from copytrace.index.plan_source import plan_source
from copytrace.media.failures import read_failures
from copytrace.media.files import MediaItem
from copytrace.storage import write_json

Finish = Callable[..., Path]
PROVENANCE = {"kind": "images", "role": "queries"}


def never(shard: Shard) -> bool:
    return False


@pytest.fixture
def finish(tmp_path: Path) -> Finish:
    """A function that plans the files of a folder, describes them with given errors, and finishes the index."""

    def work(errors: dict[str, MediaError], *, max_failure_rate: float = 0.2, **media: tuple[str, ...]) -> Path:
        root = tmp_path / "index"
        plan_source(str(tmp_path / "in"), root, PROVENANCE, MediaSettings(**media), is_described=never, replace=False)
        for shard in read_plan(root).shards:
            rows = [asdict(odd_file(item, errors[item.id])) for item in shard.items if item.id in errors]
            write_json(receipt_path(root, shard.number), {"failures": rows})
        return finish_index(root, tmp_path / "out" / "failures.csv", [root], max_failure_rate)

    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "notes.txt", "Thumbs.db", "x.json"):
        (tmp_path / "in" / name).write_text(name)
    return work


SIDECARS: dict[str, MediaError] = {name: NotMediumError("no image") for name in ("notes", "Thumbs", "x")}


def listed(path: Path) -> list[tuple[str, str]]:
    return [(row.id, row.error) for row in read_failures(path)]


def test_what_is_no_medium_is_passed_over_and_does_not_count(finish: Finish, tmp_path: Path) -> None:
    finish({**SIDECARS, "a": MediaError("truncated JPEG")})
    out = tmp_path / "out"
    assert listed(out / "failures.csv") == [("a", "truncated JPEG")]
    assert listed(out / "passed_over.csv") == [(name, "no image") for name in ("Thumbs", "notes", "x")]
    assert count_passed_over(out / "failures.csv") == {"files": 3, "links": 0}


def test_too_many_unreadable_media_are_told_as_a_share_of_the_media(finish: Finish) -> None:
    broken = {name: MediaError("truncated JPEG") for name in ("a", "b")}
    with pytest.raises(TooManyFailuresError, match=r"2 of 5 images among the queries cannot be read \(40.0%\)"):
        finish({**SIDECARS, **broken})
    finish({**SIDECARS, **broken}, max_failure_rate=0.4)


def test_a_source_without_any_medium_says_so(finish: Finish, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no images among the queries: all 3 files were passed over"):
        finish(SIDECARS, exclude=("*.jpg",))
    assert len(listed(tmp_path / "out" / "passed_over.csv")) == 3


def test_what_the_listing_noted_is_in_the_lists_too(finish: Finish, tmp_path: Path) -> None:
    (tmp_path / "in" / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "in" / "z.jpg").symlink_to("a.jpg")
    finish(SIDECARS, max_failure_rate=0.0)
    out = tmp_path / "out"
    assert listed(out / "failures.csv") == [("gone.jpg", "a link to nowhere, which does not exist")]
    assert count_passed_over(out / "failures.csv") == {"files": 3, "links": 1}


def test_a_file_that_was_read_in_part_is_no_failure() -> None:
    item = MediaItem("a", "/a.mkv", "1")
    assert (
        odd_file(item, MediaError("breaks off at 3.0 s"), is_used=True).error == "breaks off at 3.0 s; used up to there"
    )
    assert odd_file(item, NotMediumError("no video")).stage == "pass over"
