from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.images import ImageSettings
from copytrace.errors import InputError
from copytrace.index.image_index import ImageIndex
from copytrace.run_folder import Branch, ImageRunFolder
from copytrace.search import image_candidates as candidates_module
from copytrace.search import local_recall
from copytrace.search.cut_lists import read_cut
from copytrace.search.image_candidates import Candidate, read_candidates, recall_images

Pixels = NDArray[np.uint8]
Build = Callable[..., tuple[ImageIndex, list[int]]]
HALF_PRECISION = 2.0**-10  # of a cosine of unit vectors, one of which is stored in float16
WritePhotos = Callable[[Path, Mapping[str, Pixels]], Path]


@pytest.fixture
def growing(
    tmp_path: Path,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_shared_index: Build,
    image_settings: ImageSettings,
) -> ImageIndex:
    """An index, of the photos in the folder `references`, that a test may change."""
    folder = write_photos(tmp_path / "references", photos)
    return build_shared_index(folder, tmp_path / "reference-index", "references", image_settings)[0]


@pytest.fixture(scope="module")
def references(
    tmp_path_factory: pytest.TempPathFactory,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_shared_index: Build,
    image_settings: ImageSettings,
) -> ImageIndex:
    """The same for tests that change nothing."""
    root = tmp_path_factory.mktemp("references")
    return build_shared_index(write_photos(root / "photos", photos), root / "index", "references", image_settings)[0]


@pytest.fixture(scope="module")
def queries(
    tmp_path_factory: pytest.TempPathFactory,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_shared_index: Build,
    image_settings: ImageSettings,
) -> ImageIndex:
    edited = {
        "mirrored": np.ascontiguousarray(photos["coffee"][:, ::-1]),
        "negative": 255 - photos["chelsea"],
        "darker": (photos["rocket"] * 0.7).astype(np.uint8),
        "unrelated": np.full((80, 80, 3), 90, np.uint8),
    }
    root = tmp_path_factory.mktemp("queries")
    return build_shared_index(write_photos(root / "photos", edited), root / "index", "queries", image_settings)[0]


def found(
    branch: Branch,
    queries: ImageIndex,
    references: ImageIndex,
    settings: ImageSettings,
    folder: Path,
    noise: ImageIndex | None = None,
) -> list[Candidate]:
    if noise:
        rules = settings.global_.model_copy(update={"noise": str(noise.root)})
        settings = settings.model_copy(update={"global_": rules})
    paths = [
        recall_images(shard, branch, queries.root, references.root, ImageRunFolder(folder), settings)
        for shard in queries.shards
    ]
    return read_candidates(paths) if paths else []


def best_of(candidates: list[Candidate]) -> dict[str, Candidate]:
    return {c.query_id: c for c in sorted(candidates, key=lambda c: c.score)}


def test_the_local_branch_finds_copies_and_how_they_were_turned(
    queries: ImageIndex, references: ImageIndex, image_settings: ImageSettings, tmp_path: Path
) -> None:
    best = best_of(found("local", queries, references, image_settings, tmp_path))
    told = {query: (c.reference_id, c.variant) for query, c in best.items()}
    assert told == {"mirrored": ("coffee", 1), "negative": ("chelsea", 2), "darker": ("rocket", 0)}


def test_the_global_branch_finds_a_darker_copy(
    queries: ImageIndex, references: ImageIndex, image_settings: ImageSettings, tmp_path: Path
) -> None:
    best = best_of(found("global", queries, references, image_settings, tmp_path))["darker"]
    assert (best.reference_id, best.view, best.variant) == ("rocket", "whole", 0)
    assert best.score == pytest.approx(1, abs=0.02)


def test_noise_that_holds_references_is_refused(
    queries: ImageIndex, references: ImageIndex, image_settings: ImageSettings, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"global\.noise=.* and the references share 4 files, for instance .*; noise"):
        found("global", queries, references, image_settings, tmp_path, noise=references)


def test_scores_are_normalised_by_the_other_references_or_by_noise(
    queries: ImageIndex,
    references: ImageIndex,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_shared_index: Build,
    image_settings: ImageSettings,
    tmp_path: Path,
) -> None:
    alone = best_of(found("global", queries, references, image_settings, tmp_path))["darker"]
    query = next(queries.descriptors(s) for s in queries.shards if "darker" in queries.descriptors(s).ids)
    vector = query.vectors[query.ids.index("darker")]
    cosines = np.sort(np.concatenate([references.descriptors(s).vectors for s in references.shards]) @ vector)[::-1]
    assert alone.normalized == pytest.approx(cosines[0] - cosines[1:3].mean(), abs=HALF_PRECISION)
    noise, _ = build_shared_index(
        write_photos(tmp_path / "others", photos), tmp_path / "noise", "references", image_settings
    )
    noisy = best_of(found("global", queries, references, image_settings, tmp_path, noise=noise))["darker"]
    assert noisy.normalized == pytest.approx(cosines[0] - cosines[:2].mean(), abs=HALF_PRECISION)


def test_without_crops_the_crop_local_branch_has_no_candidates(
    queries: ImageIndex, references: ImageIndex, image_settings: ImageSettings, tmp_path: Path
) -> None:
    assert found("crop-local", queries, references, image_settings, tmp_path) == []


@pytest.mark.parametrize("branch", ["global", "local"])
def test_candidates_are_sorted_and_no_more_than_asked_for(
    branch: Branch, queries: ImageIndex, references: ImageIndex, image_settings: ImageSettings, tmp_path: Path
) -> None:
    candidates = found(branch, queries, references, image_settings, tmp_path)
    assert candidates == sorted(candidates, key=lambda c: (c.query_id, -c.score, c.reference_id))
    ids = [c.query_id for c in candidates]
    assert max(ids.count(query) for query in ids) <= 3
    assert len({(c.query_id, c.reference_id) for c in candidates}) == len(candidates)


@pytest.mark.parametrize("branch", ["global", "local"])
@pytest.mark.parametrize("rule", ["hough", "vote"])
def test_an_image_is_never_its_own_candidate(
    branch: Branch,
    rule: str,
    growing: ImageIndex,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_shared_index: Build,
    image_settings: ImageSettings,
    tmp_path: Path,
) -> None:
    folder = write_photos(tmp_path / "references", {"coffee2": (photos["coffee"] * 0.8).astype(np.uint8)})
    settings = image_settings.model_copy(
        update={"local": image_settings.local.model_copy(update={"rule": rule, "stretches": ()})}
    )
    grown, _ = build_shared_index(folder, growing.root, "references", settings)
    (tmp_path / "link").symlink_to(folder)  # another spelling of the same files
    same, _ = build_shared_index(tmp_path / "link", tmp_path / "query-index", "queries", settings)
    candidates = found(branch, same, grown, settings, tmp_path)
    assert all(c.query_id != c.reference_id for c in candidates)
    best = best_of(candidates)
    assert (best["coffee"].reference_id, best["coffee2"].reference_id) == ("coffee2", "coffee")


@pytest.mark.parametrize("branch", ["global", "local"])
def test_an_index_grown_in_two_steps_gives_the_same_candidates(
    branch: Branch,
    queries: ImageIndex,
    growing: ImageIndex,
    build_shared_index: Build,
    image_settings: ImageSettings,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "references"
    shutil.move(folder / "astronaut.png", tmp_path / "astronaut.png")
    build_shared_index(folder, tmp_path / "grown", "references", image_settings)
    shutil.move(tmp_path / "astronaut.png", folder / "astronaut.png")
    grown, _ = build_shared_index(folder, tmp_path / "grown", "references", image_settings)
    first = found(branch, queries, growing, image_settings, tmp_path)
    second = found(branch, queries, grown, image_settings, tmp_path)
    assert [(c.query_id, c.reference_id, c.variant) for c in first] == [
        (c.query_id, c.reference_id, c.variant) for c in second
    ]
    np.testing.assert_allclose([c.score for c in first], [c.score for c in second], atol=1e-6)


def test_copies_among_the_references_change_neither_votes_nor_who_gets_them(
    queries: ImageIndex,
    growing: ImageIndex,
    build_shared_index: Build,
    image_settings: ImageSettings,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "references"
    settings = image_settings.model_copy(update={"local": image_settings.local.model_copy(update={"neighbours": 32})})
    once = found("local", queries, growing, settings, tmp_path)
    for photo in list(folder.iterdir()):
        for number in range(12):
            shutil.copy(photo, folder / f"{photo.stem}-{number:02}{photo.suffix}")
    often, _ = build_shared_index(folder, growing.root, "references", image_settings)
    copied = found("local", queries, often, settings, tmp_path)
    votes = {(c.query_id, c.reference_id): c.score for c in once}
    for query, best in best_of(once).items():
        named = {c.reference_id for c in copied if c.query_id == query}
        assert {best.reference_id, *(f"{best.reference_id}-{number:02}" for number in range(12))} <= named
        again = [c.score for c in copied if c.query_id == query and c.reference_id.startswith(best.reference_id)]
        np.testing.assert_allclose(again, votes[query, best.reference_id], rtol=1e-5)


def test_a_list_of_copies_that_was_cut_says_so_and_no_other_does(
    queries: ImageIndex,
    growing: ImageIndex,
    build_shared_index: Build,
    image_settings: ImageSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(candidates_module, "MOST_COPIES", 4)
    monkeypatch.setattr(local_recall, "MOST_REFERENCES", 6)
    settings = image_settings.model_copy(update={"local": image_settings.local.model_copy(update={"neighbours": 32})})
    found("global", queries, growing, settings, tmp_path)
    found("local", queries, growing, settings, tmp_path)
    assert read_cut(ImageRunFolder(tmp_path), queries.shards) == []
    for name, copies in (("coffee", 12), ("rocket", 2)):
        for number in range(copies):
            shutil.copy(tmp_path / "references" / f"{name}.png", tmp_path / "references" / f"{name}-{number:02}.png")
    often, _ = build_shared_index(tmp_path / "references", growing.root, "references", settings)
    branches: tuple[Branch, ...] = ("global", "local")
    for branch in branches:
        run = tmp_path / branch
        candidates = [c for c in found(branch, queries, often, settings, run) if c.query_id == "mirrored"]
        assert read_cut(ImageRunFolder(run), queries.shards) == ["mirrored"]
        assert branch == "global" or len(candidates) == 6


def test_exact_searches_of_parts_of_the_references_give_the_same_best(
    queries: ImageIndex,
    references: ImageIndex,
    image_settings: ImageSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = image_settings.model_copy(update={"local": image_settings.local.model_copy(update={"exact": True})})
    assert candidates_module._exact_parts(references) == [[0, 1]]
    whole = best_of(found("local", queries, references, exact, tmp_path))
    monkeypatch.setattr(candidates_module, "POINTS_PER_SEGMENT", 1)
    assert candidates_module._exact_parts(references) == [[0], [1]]
    cut = best_of(found("local", queries, references, exact, tmp_path))
    assert {query: c.reference_id for query, c in cut.items()} == {q: c.reference_id for q, c in whole.items()}


@pytest.mark.parametrize("branch", ["global", "local", "crop-local"])
def test_without_references_there_are_no_candidates(
    branch: Branch,
    queries: ImageIndex,
    references: ImageIndex,
    build_shared_index: Build,
    image_settings: ImageSettings,
    tmp_path: Path,
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "broken.png").write_bytes(b"not a picture")
    nothing, _ = build_shared_index(tmp_path / "broken", tmp_path / "nothing", "references", image_settings)
    assert found(branch, queries, nothing, image_settings, tmp_path) == []
    assert found(branch, nothing, references, image_settings, tmp_path) == []


def test_the_same_indexes_give_the_same_bytes(
    queries: ImageIndex, references: ImageIndex, image_settings: ImageSettings, tmp_path: Path
) -> None:
    for branch in ("global", "local"):
        for folder in ("first", "second"):
            found(branch, queries, references, image_settings, tmp_path / folder)
        for shard in queries.shards:
            files = [ImageRunFolder(tmp_path / folder).candidates(branch, shard) for folder in ("first", "second")]
            assert files[0].read_bytes() == files[1].read_bytes()
