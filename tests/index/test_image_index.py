from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.images import ImageSettings
from copytrace.checked_files import read_record
from copytrace.errors import InputError, ModelMismatchError
from copytrace.index import image_index
from copytrace.index.image_index import ImageIndex, ShardPaths, describe_images, plan_images
from copytrace.index.media_index import is_index, plan_index, receipt_path, write_index
from copytrace.index.plan_file import read_plan, read_planned_shard, write_plan
from copytrace.media.failures import read_failures
from copytrace.media.files import MediaItem, list_media
from copytrace.storage import remove_tree, resolve_path, write_json
from copytrace.tables import read_table, write_table

Pixels = NDArray[np.uint8]
Build = Callable[..., tuple[ImageIndex, list[int]]]
WritePhotos = Callable[[Path, Mapping[str, Pixels]], Path]


@pytest.fixture
def folder(tmp_path: Path, photos: dict[str, Pixels], write_photos: WritePhotos) -> Path:
    return write_photos(tmp_path / "photos", photos)


def never(shard: object) -> bool:
    return False


def contents(index: ImageIndex) -> dict[str, tuple[object, ...]]:
    """Return everything an index knows of each image, by id."""
    known: dict[str, tuple[object, ...]] = {}
    for shard in index.shards:
        descriptors = index.descriptors(shard)
        vectors = dict(zip(descriptors.ids, descriptors.vectors.tolist(), strict=True))
        for view in index.views(shard):
            points = view.points
            known[view.id] = (view.name, vectors[view.id], points.x.tolist(), points.descriptor.tolist())
    return known


def test_a_new_index_holds_every_image_once(folder: Path, build_index: Build, image_settings: ImageSettings) -> None:
    index, described = build_index(folder, folder.parent / "index", "references", image_settings)
    assert described == index.shards == [0, 1]
    assert sorted(contents(index)) == sorted(index.items) == ["astronaut", "chelsea", "coffee", "rocket"]
    assert sum(index.point_count(shard) for shard in index.shards) > 100
    assert is_index(index.root)


def test_queries_have_views_for_each_stretch(folder: Path, build_index: Build, image_settings: ImageSettings) -> None:
    index, _ = build_index(folder / "coffee.png", folder.parent / "index", "queries", image_settings)
    assert [view.name for view in index.views(0)] == ["whole", "stretched2"]
    assert index.descriptors(0).panes == ("whole",)


def test_one_shard_of_a_plan_is_read_as_it_stands_in_the_whole_plan(folder: Path, tmp_path: Path) -> None:
    write_plan(
        plan_index(list_media(folder), tmp_path / "index", {"role": "references"}, shard_size=3, is_described=never)
    )
    planned = read_plan(tmp_path / "index")
    assert [len(shard.items) for shard in planned.shards] == [3, 1]
    for shard in planned.shards:
        assert read_planned_shard(tmp_path / "index", shard.number) == (shard, planned.provenance)


def test_a_second_run_describes_nothing(folder: Path, build_index: Build, image_settings: ImageSettings) -> None:
    before, _ = build_index(folder, folder.parent / "index", "references", image_settings)
    files = {path: path.stat().st_mtime_ns for path in before.root.glob("points/*")}
    after, described = build_index(folder, folder.parent / "index", "references", image_settings)
    assert described == []
    assert (after.fingerprint, after.items) == (before.fingerprint, before.items)
    assert {path: path.stat().st_mtime_ns for path in after.root.glob("points/*")} == files


def test_added_images_are_all_that_is_described(
    folder: Path,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_index: Build,
    image_settings: ImageSettings,
) -> None:
    before, _ = build_index(folder, folder.parent / "index", "references", image_settings)
    write_photos(folder, {"upside-down": photos["coffee"][::-1]})
    after, described = build_index(folder, folder.parent / "index", "references", image_settings)
    assert described == [2]
    assert after.items["upside-down"][1] == 2
    assert contents(before).items() < contents(after).items()
    assert after.fingerprint != before.fingerprint


def test_a_changed_image_is_described_anew(
    folder: Path,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_index: Build,
    image_settings: ImageSettings,
) -> None:
    before, _ = build_index(folder, folder.parent / "index", "references", image_settings)
    old = contents(before)
    write_photos(folder, {"coffee": photos["rocket"][:150]})
    after, described = build_index(folder, folder.parent / "index", "references", image_settings)
    new = contents(after)
    assert described == [2]
    assert new.keys() == old.keys()
    assert [name for name in new if new[name] != old[name]] == ["coffee"]
    assert [view.id for shard in after.shards for view in after.views(shard)].count("coffee") == 1


def test_removed_images_are_gone_and_so_are_empty_shards(
    folder: Path, build_index: Build, image_settings: ImageSettings
) -> None:
    root = folder.parent / "index"
    build_index(folder, root, "references", image_settings)
    for name in ("astronaut", "chelsea", "coffee"):
        (folder / f"{name}.png").unlink()
    index, described = build_index(folder, root, "references", image_settings)
    assert described == []
    assert sorted(contents(index)) == ["rocket"]
    assert index.shards == [1]
    assert not any(path.name.startswith("00000") for path in root.rglob("*"))


def test_an_index_grown_in_two_steps_equals_one_built_at_once(
    folder: Path, build_index: Build, image_settings: ImageSettings
) -> None:
    at_once, _ = build_index(folder, folder.parent / "at-once", "references", image_settings)
    later = folder.parent / "later"
    later.mkdir()
    shutil.move(folder / "astronaut.png", later / "astronaut.png")
    build_index(folder, folder.parent / "grown", "references", image_settings)
    shutil.move(later / "astronaut.png", folder / "astronaut.png")
    grown, _ = build_index(folder, folder.parent / "grown", "references", image_settings)
    assert grown.items["astronaut"][1] != at_once.items["astronaut"][1]
    assert grown.fingerprint == at_once.fingerprint
    assert contents(grown) == contents(at_once)


def test_an_index_in_a_store_grows_and_shrinks_as_one_on_disk_does(
    folder: Path, build_index: Build, image_settings: ImageSettings
) -> None:
    roots = (folder.parent / "index", resolve_path("memory://index-test/index"))
    away = folder.parent / "away"
    for step in ("all", "fewer", "all again"):
        if step == "fewer":
            away.mkdir()
            for name in ("astronaut", "chelsea"):
                shutil.move(folder / f"{name}.png", away / f"{name}.png")
        if step == "all again":
            shutil.move(away / "chelsea.png", folder / "chelsea.png")
        (local, described), (remote, described_there) = (
            build_index(folder, root, "references", image_settings) for root in roots
        )
        assert described_there == described
        assert remote.items == local.items
        assert contents(remote) == contents(local)
        names = sorted(path.relative_to(roots[0]).as_posix() for path in roots[0].rglob("*.*"))
        there = roots[1].glob("**/*.*")
        assert sorted(str(path).removeprefix(f"{roots[1]}/") for path in there) == names
        for name in (name for name in names if not name.startswith(("receipts/", "segments/cost"))):  # of seconds
            assert (roots[1] / name).read_bytes() == (roots[0] / name).read_bytes(), name
    other = with_points(image_settings, 20)
    with pytest.raises(ModelMismatchError, match="memory://index-test/index was made with other settings"):
        build_index(folder, roots[1], "references", other)
    replaced, described = build_index(folder, roots[1], "references", other, replace=True)
    assert described == replaced.shards == [0, 1]
    remove_tree(roots[1])


def test_a_killed_run_goes_on_where_it_stopped(folder: Path, build_index: Build, image_settings: ImageSettings) -> None:
    root = folder.parent / "index"
    whole, _ = build_index(folder, root, "references", image_settings)
    fingerprint = whole.fingerprint
    for name in ("index.json", "manifest.parquet", "failures.csv"):
        (root / name).unlink()
    ShardPaths.of(root, 1).receipt.unlink()
    kept = ShardPaths.of(root, 0).points.stat().st_mtime_ns
    index, described = build_index(folder, root, "references", image_settings)
    assert described == [1]
    assert ShardPaths.of(root, 0).points.stat().st_mtime_ns == kept
    assert index.fingerprint == fingerprint


def test_files_added_after_a_kill_leave_the_finished_shards_as_they_are(
    folder: Path,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_index: Build,
    image_settings: ImageSettings,
) -> None:
    root = folder.parent / "index"
    planned = plan_images(str(folder), root, "references", image_settings, replace=False)
    describe_images(root, planned[0], image_settings)  # and then the run is killed
    kept = ShardPaths.of(root, planned[0]).points.stat().st_mtime_ns
    write_photos(folder, {"aaa": photos["coffee"][::-1]})  # the first by its name: it would move all others by one
    index, described = build_index(folder, root, "references", image_settings)
    assert planned[0] not in described
    assert ShardPaths.of(root, planned[0]).points.stat().st_mtime_ns == kept
    whole, _ = build_index(folder, folder.parent / "whole", "references", image_settings)
    assert contents(index) == contents(whole)
    assert index.fingerprint == whole.fingerprint


def test_shards_of_a_killed_run_with_other_settings_are_not_taken(
    folder: Path, build_index: Build, image_settings: ImageSettings
) -> None:
    root = folder.parent / "index"
    build_index(folder, root, "references", image_settings)
    for name in ("index.json", "manifest.parquet"):
        (root / name).unlink()
    _, described = build_index(folder, root, "references", with_points(image_settings, 20))
    assert described == [0, 1]


def with_points(settings: ImageSettings, max_points: int) -> ImageSettings:
    points = settings.local.reference_points.model_copy(update={"max_points": max_points})
    return settings.model_copy(update={"local": settings.local.model_copy(update={"reference_points": points})})


def test_other_settings_are_refused_by_name(folder: Path, build_index: Build, image_settings: ImageSettings) -> None:
    root = folder.parent / "index"
    build_index(folder, root, "references", image_settings)
    with pytest.raises(
        ModelMismatchError,
        match=r"index was made with other settings.*max_points is 150 there and 20 now.*another folder",
    ):
        build_index(folder, root, "references", with_points(image_settings, 20))
    assert len(contents(ImageIndex.open(root))) == 4


def test_an_index_of_a_version_without_a_setting_names_what_it_was_made_with(
    folder: Path, build_index: Build, image_settings: ImageSettings
) -> None:
    root = folder.parent / "index"
    older = image_settings.local.reference_points.model_copy(update={"selection": "strongest"})
    newer = older.model_copy(update={"selection": "mixed"})
    made, wanted = (
        image_settings.model_copy(update={"local": image_settings.local.model_copy(update={"reference_points": each})})
        for each in (older, newer)
    )
    build_index(folder, root, "references", made)
    assert "selection" not in (root / "index.json").read_text()
    with pytest.raises(
        ModelMismatchError,
        match=r"local\.reference_points\.selection is strongest there and mixed now\. "
        r"Give local\.reference_points\.selection=strongest to add to it, or index into another folder$",
    ):
        build_index(folder, root, "references", wanted)


def test_other_settings_replace_an_index_when_asked_to_and_say_so(
    folder: Path, build_index: Build, image_settings: ImageSettings, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder.parent / "index"
    build_index(folder, root, "references", image_settings)
    index, described = build_index(folder, root, "references", with_points(image_settings, 20), replace=True)
    told = "(local.reference_points.max_points is 150 there and 20 now), so all references are described again"
    assert [message for message in caplog.messages if told in message]
    assert described == [0, 1]
    assert all(len(view.points) <= 20 for shard in index.shards for view in index.views(shard))


def test_queries_cannot_be_put_into_an_index_of_references(
    folder: Path, build_index: Build, image_settings: ImageSettings
) -> None:
    build_index(folder, folder.parent / "index", "references", image_settings)
    with pytest.raises(ModelMismatchError, match="role is references there and queries now"):
        build_index(folder, folder.parent / "index", "queries", image_settings)


def test_settings_that_change_nothing_in_the_index_are_not_asked_about(
    folder: Path, build_index: Build, image_settings: ImageSettings
) -> None:
    build_index(folder, folder.parent / "index", "references", image_settings)
    local = image_settings.local.model_copy(update={"neighbours": 2, "stretches": (), "mirrored": False})
    _, described = build_index(
        folder, folder.parent / "index", "references", image_settings.model_copy(update={"local": local})
    )
    assert described == []


@pytest.mark.parametrize("damage", ['{"format": 1, "ro', "\xff"])
def test_a_damaged_index_says_what_to_do(
    folder: Path, build_index: Build, image_settings: ImageSettings, damage: str
) -> None:
    root = folder.parent / "index"
    build_index(folder, root, "references", image_settings)
    (root / "index.json").write_bytes(damage.encode("latin-1"))
    with pytest.raises(InputError, match=r"index\.json is damaged; run `copytrace verify .*index --repair`"):
        ImageIndex.open(root)
    with pytest.raises(InputError, match="damaged"):
        build_index(folder, root, "references", image_settings)


@pytest.mark.parametrize("missing", ["index.json", "manifest.parquet"])
def test_what_is_not_an_index_cannot_be_opened(
    folder: Path, build_index: Build, image_settings: ImageSettings, missing: str
) -> None:
    with pytest.raises(InputError, match="is not an index; make one with: copytrace index-images"):
        ImageIndex.open(folder)
    root = folder.parent / "index"
    build_index(folder, root, "references", image_settings)
    (root / missing).unlink()
    with pytest.raises(InputError, match="is not an index"):
        ImageIndex.open(root)


def test_unreadable_images_are_listed_and_tried_again(
    folder: Path,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_index: Build,
    image_settings: ImageSettings,
) -> None:
    root = folder.parent / "index"
    (folder / "broken.png").write_bytes(b"not a picture")
    index, _ = build_index(folder, root, "references", image_settings)
    assert sorted(index.items) == ["astronaut", "chelsea", "coffee", "rocket"]
    assert [failure.id for failure in read_failures(root / "failures.csv")] == ["broken"]
    _, described = build_index(folder, root, "references", image_settings)
    assert len(described) == 1
    assert [failure.id for failure in read_failures(root / "failures.csv")] == ["broken"]
    write_photos(folder, {"broken": photos["coffee"]})
    mended, _ = build_index(folder, root, "references", image_settings)
    assert "broken" in mended.items
    assert read_failures(root / "failures.csv") == []


def test_an_index_of_unreadable_images_is_empty(
    tmp_path: Path, build_index: Build, image_settings: ImageSettings
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.png").write_bytes(b"not a picture")
    index, _ = build_index(tmp_path / "photos", tmp_path / "index", "references", image_settings)
    assert (index.items, index.shards) == ({}, [])


def test_a_plan_is_read_as_it_was_written(
    folder: Path,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_index: Build,
    image_settings: ImageSettings,
) -> None:
    index, _ = build_index(folder, folder.parent / "index", "references", image_settings)
    write_photos(folder, {"new": photos["coffee"][::-1], "newer": photos["rocket"][::-1]})
    planned = plan_index(list_media(folder), index.root, index.provenance, shard_size=1, is_described=never)
    write_plan(planned)
    assert read_plan(index.root) == planned
    assert (planned.total, [shard.number for shard in planned.shards]) == (6, [2, 3])


@pytest.mark.usefixtures("use_grid_descriptor")
def test_a_shard_is_done_only_for_the_same_images(folder: Path, image_settings: ImageSettings) -> None:
    root = folder.parent / "index"

    def plan() -> list[int]:
        return plan_images(str(folder), root, "references", image_settings, replace=False)

    assert plan() == [0, 1]
    describe_images(root, 0, image_settings)
    assert plan() == [1]
    (folder / "astronaut.png").unlink()
    assert plan() == [0, 1]


def test_index_settings_are_plain_json(folder: Path, build_index: Build, image_settings: ImageSettings) -> None:
    index, _ = build_index(folder, folder.parent / "index", "queries", image_settings)
    assert read_record(index.root / "index.json") == index.provenance


def test_a_model_that_was_replaced_is_loaded_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "descriptor.safetensors"
    monkeypatch.setattr(image_index, "load_descriptor", lambda model, **_: Path(model).read_text())
    settings = ImageSettings().descriptor.model_copy(update={"model": str(model)})
    for content in ("first", "second one", "third"):
        model.write_text(content)
        assert [image_index.load_image_models(settings, "none")[0] for _ in range(2)] == [content, content]


def test_damage_is_listed_by_every_run_until_the_file_changes(tmp_path: Path) -> None:
    root, provenance = tmp_path / "index", {"role": "references"}
    damaged = [{"id": "a", "path": "/a", "stage": "decode", "error": "ends early"}]
    for items in ([("a", "1")], [("a", "1"), ("b", "1")], [("a", "2"), ("b", "1")]):
        media = [MediaItem(name, f"/{name}", stamp) for name, stamp in items]
        plan = plan_index(media, root, provenance, shard_size=1, is_described=never)
        write_plan(plan)
        for shard in plan.shards:
            found = damaged if shard.items == (MediaItem("a", "/a", "1"),) else []
            write_json(receipt_path(root, shard.number), {"failures": [], "damaged": found})
        assert write_index(plan) == []
        assert [failure.id for failure in read_failures(root / "failures.csv")] == (
            ["a"] if ("a", "1") in items else []
        )


@pytest.mark.parametrize("plan", ["older", "damaged", "none"])
def test_an_index_whose_last_plan_cannot_be_read_is_planned_anew(
    folder: Path, build_index: Build, image_settings: ImageSettings, plan: str
) -> None:
    index, _ = build_index(folder, folder.parent / "index", "references", image_settings)
    path = index.root / "plan.parquet"
    if plan == "older":
        write_table(path, read_table(path).replace_schema_metadata({b"another": b"key"}))
    elif plan == "damaged":
        path.write_bytes(b"PAR1, cut off")
    else:
        path.unlink()
    same, described = build_index(folder, index.root, "references", image_settings)
    assert (described, same.fingerprint) == ([], index.fingerprint)
