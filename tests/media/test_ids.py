"""Ids of files that lie together: media are called by their names, whatever else lies beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copytrace.media.files import assign_ids, list_source
from copytrace.media.formats import promises_medium


@pytest.mark.parametrize("sidecar", ["a.txt", "a.JSON", "a.xmp", "a.jpg.xmp", "a.unknown", "a.cr2"])
def test_what_is_no_medium_decides_no_mediums_id(sidecar: str) -> None:
    alone = assign_ids(["a.jpg"], "image")
    assert assign_ids([sidecar, "a.jpg"], "image")[1:] == assign_ids(["a.jpg", sidecar], "image")[:1] == alone == ["a"]


def test_media_of_one_stem_keep_their_suffix_with_and_without_a_sidecar() -> None:
    assert assign_ids(["a.jpg", "a.png"]) == ["a.jpg", "a.png"]
    assert assign_ids(["a.jpg", "a.txt", "a.png"]) == ["a.jpg", "a.txt", "a.png"]


def test_a_film_beside_a_photo_is_a_sidecar_among_images_and_a_medium_among_videos() -> None:
    live_photo = ["IMG_1.HEIC", "IMG_1.MOV"]
    assert assign_ids(live_photo, "image") == ["IMG_1", "IMG_1.MOV"]
    assert assign_ids(live_photo, "video") == assign_ids(live_photo) == live_photo


def test_a_recording_of_an_ambiguous_suffix_is_preferred_to_its_subtitles() -> None:
    assert assign_ids(["film.ts", "film.srt"], "video") == ["film", "film.srt"]


def test_a_sidecar_never_takes_the_id_of_a_medium() -> None:
    # Without its suffix, the picture is called as the text is with it.
    assert assign_ids(["a.jpg", "a.txt", "a.txt.png"]) == ["a", "./a.txt", "a.txt"]


PERHAPS, SURELY = 1, 2  # media, as `promises_medium` says it; what is less does not count
NAMES = st.lists(
    st.text("ab./", min_size=1, max_size=3).flatmap(
        lambda stem: st.sampled_from([stem, *(f"{stem}{end}" for end in (".jpg", ".png", ".txt", ".mp4", ".x"))])
    ),
    max_size=8,
    unique=True,
)


@settings(max_examples=40)
@given(names=NAMES, kind=st.sampled_from(["image", "video", None]))
def test_ids_are_different_and_those_of_media_are_as_without_sidecars(names: list[str], kind: Any) -> None:
    ids = assign_ids(names, kind)
    assert len(set(ids)) == len(ids) == len(names)
    for least in (PERHAPS, SURELY):
        media = [name for name in names if promises_medium(name, kind) >= least]
        with_others = {name: identity for name, identity in zip(names, ids, strict=True) if name in media}
        assert with_others == dict(zip(media, assign_ids(media, kind), strict=True))


def test_files_of_a_folder_are_named_for_the_kind_that_is_wanted(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.mov", "a.txt"):
        (tmp_path / name).touch()
    assert [item.id for item in list_source(tmp_path, kind="image").items] == ["a", "a.mov", "a.txt"]
    assert [item.id for item in list_source(tmp_path, kind="video").items] == ["a.jpg", "a.mov", "a.txt"]
