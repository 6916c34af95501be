"""Video matching as a library call, on real videos with the descriptor that ships."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from configs.videos import VideoSettings
from copytrace.cells import neutralize
from copytrace.errors import InputError, ModelMismatchError, TooManyFailuresError
from copytrace.exchange.npz_exchange import export_npz, import_npz
from copytrace.images import index_images
from copytrace.index.video_index import VideoIndex
from copytrace.media.failures import read_failures
from copytrace.metrics.video_evaluation import evaluate_videos
from copytrace.videos import index_videos, match_videos

Pixels = NDArray[np.uint8]
Tour = Callable[..., list[Pixels]]
WriteVideo = Callable[..., Path]

VERIFIED = {"verified_segments": 8}
IMAGENET = {"model": "imagenet", "backend": "torch"}  # another model, which needs no graph by torch
COLUMNS = ["query_id", "ref_id", "query_start", "query_end", "ref_start", "ref_end", "score", "reversed", "pane"]


def quick(**sections: dict[str, Any]) -> VideoSettings:
    """Settings for small videos: two a shard, no network but the descriptor, and no page unless asked for.

    Segments are not verified, which takes as long as all else, unless `VERIFIED` asks for it.
    """
    base = {
        "media": {"shard_size": 2, "threads": 2},
        "descriptor": {"input_size": 64},
        "panes": {"detector": "none"},
        # Doubtful segments are reported too, which networks do not see.
        "alignment": {"aligner": "hough", "pair_filter": "none", "verified_segments": 0},
        "report": {"max_matches": 0},
    }
    names = base.keys() | sections.keys()
    return VideoSettings.model_validate({name: base.get(name, {}) | sections.get(name, {}) for name in names})


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "segments.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def copies_in(out: Path) -> set[tuple[str, str]]:
    return {(row["query_id"], row["ref_id"]) for row in rows_of(out) if float(row["score"]) >= 0.5}


def times_of(root: Path, *folders: str) -> dict[Path, int]:
    """When the files that shards leave in these folders were written."""
    found = [path for folder in folders for path in root.rglob(f"{folder}/?????.*")]
    assert found
    return {path: path.stat().st_mtime_ns for path in found}


def contents_of(out: Path) -> dict[Path, bytes]:
    """All files but the plans, which say what was new, and the leases."""
    files = [path for path in out.rglob("*") if path.is_file() and path.parent.name != ".lease"]
    return {path: path.read_bytes() for path in files if path.stem != "plan"}


def reasons(path: Path) -> dict[str, str]:
    return {failure.id: failure.error for failure in read_failures(path)}


@pytest.fixture(scope="module")
def demo_run(demo_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run over the videos of the demo with the settings that ship: its folder, and what it returned."""
    out = tmp_path_factory.mktemp("demo-run")
    return out, match_videos(demo_videos / "queries", demo_videos / "references", out)


@pytest.fixture(scope="module")
def finished(video_sides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over the small videos."""
    out = tmp_path_factory.mktemp("finished")
    match_videos(video_sides / "queries", video_sides / "references", out, quick())
    return out


@pytest.fixture(scope="module")
def index(video_sides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small references as an index."""
    return index_videos(video_sides / "references", tmp_path_factory.mktemp("index") / "index", quick())


def test_each_copied_segment_of_the_demo_is_found(demo_run: tuple[Path, dict[str, Any]], demo_videos: Path) -> None:
    out, run = demo_run
    truth = demo_videos / "ground_truth.csv"
    assert evaluate_videos(truth, out / "segments.csv").overall.segment_ap > 0.9
    with truth.open() as file:
        assert copies_in(out) == {(row["query_id"], row["ref_id"]) for row in csv.DictReader(file)}
    assert {name: run["counts"][name] for name in ("queries", "references", "failures", "queries_with_copies")} == {
        "queries": 5,
        "references": 6,
        "failures": 0,
        "queries_with_copies": 4,
    }


def test_a_run_leaves_tables_a_page_and_its_figures(demo_run: tuple[Path, dict[str, Any]]) -> None:
    out, run = demo_run
    rows, table = rows_of(out), pq.read_table(out / "segments.parquet")
    assert list(rows[0]) == table.column_names == COLUMNS
    assert len(rows) == len(table) == run["counts"]["segments"]
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)
    for row in rows:
        for role in ("query", "ref"):
            start, end = (row[f"{role}_{edge}"] for edge in ("start", "end"))
            assert 0 <= float(start) < float(end)
            assert all(len(seconds.partition(".")[2]) <= 3 for seconds in (start, end))
        assert row["reversed"] in {"true", "false"}
    assert {row["pane"] for row in rows} > {"whole"}
    assert (out / "failures.csv").read_text() == "id,path,stage,error\n"
    assert "picture_in_picture" in (out / "report.html").read_text(encoding="utf-8")
    assert json.loads((out / "run.json").read_text()) == json.loads(json.dumps(run))
    stages = (
        "describe queries",
        "describe references",
        "search frames",
        "align pairs",
        "verify segments",
        "find exact ends",
        "compare signatures",
        "merge",
        "report",
    )
    assert set(run["stages"]) == set(stages)
    assert run["stages"]["describe queries"]["count"] == 5
    assert not list(out.rglob("*.part"))


def test_a_second_run_does_nothing_again(demo_run: tuple[Path, dict[str, Any]], demo_videos: Path) -> None:
    out, run = demo_run
    contents = contents_of(out)
    kept = [path for path in contents if path.stem.isdigit() or path.stem in {"segments", "report"}]
    times = {path: path.stat().st_mtime_ns for path in kept}
    assert match_videos(demo_videos / "queries", demo_videos / "references", out) == run
    assert contents_of(out) == contents
    assert {path: path.stat().st_mtime_ns for path in kept} == times


def test_neither_shards_nor_threads_change_what_is_found(index: Path, video_sides: Path, tmp_path: Path) -> None:
    # By the panes, networks and rules that ship; the shards of references are the subject of
    # `test_an_index_in_any_shards_gives_what_the_folder_gives`.
    for size, threads in ((8, 1), (1, 3)):
        values = {"media": {"shard_size": size, "threads": threads}, "descriptor": {"input_size": 64}}
        settings = VideoSettings.model_validate(values | {"report": {"max_matches": 0}})
        match_videos(video_sides / "queries", index, tmp_path / str(size), settings)
    assert [len(list(tmp_path.glob(f"{size}/work/queries/receipts/*.json"))) for size in (8, 1)] == [1, 3]
    assert copies_in(tmp_path / "8") == {("mirrored", "chelsea"), ("whole", "coffee")}
    assert (tmp_path / "1" / "segments.csv").read_bytes() == (tmp_path / "8" / "segments.csv").read_bytes()


def test_other_alignment_settings_redo_the_alignment_only(finished: Path, video_sides: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    before = times_of(out, "descriptors", "panes", "videos", "candidates", "noise")
    aligned = times_of(out, "segments")
    sides = (video_sides / "queries", video_sides / "references")

    scores = pq.read_table(out / "segments.parquet").column("score").to_pylist()
    called = match_videos(*sides, out, quick(alignment={"threshold": max(scores)}))["counts"]["copied_segments"]
    assert called == scores.count(max(scores)) < len(copies_in(out))
    assert times_of(out, "segments") == aligned

    match_videos(*sides, out, quick(alignment={"aligner": "dynamic_programming"}))
    assert all(time > aligned[path] for path, time in times_of(out, "segments").items())
    assert times_of(out, "descriptors", "panes", "videos", "candidates", "noise") == before
    assert copies_in(out) == copies_in(finished)


def test_other_search_settings_describe_nothing_again(finished: Path, video_sides: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    before, searched = times_of(out, "descriptors"), times_of(out, "candidates")
    settings = quick(search={"references_per_query": 1})
    match_videos(video_sides / "queries", video_sides / "references", out, settings)
    assert times_of(out, "descriptors") == before
    assert all(time > searched[path] for path, time in times_of(out, "candidates").items())
    assert len({row["query_id"] for row in rows_of(out)}) == len({(r["query_id"], r["ref_id"]) for r in rows_of(out)})


def test_nothing_stays_of_shards_that_are_no_more(finished: Path, video_sides: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    assert VideoIndex.open(out / "work" / "queries").shards == [0, 1]
    others = quick(media={"shard_size": 8}, panes={"detector": "edges"})
    match_videos(video_sides / "queries", video_sides / "references", out, others)
    assert VideoIndex.open(out / "work" / "queries").shards == [0]
    for folder in ("candidates", "segments"):
        assert {path.name for path in (out / "work" / folder).iterdir()} == {"00000.parquet", "00000.json"}


def test_an_index_follows_its_folder(
    index: Path, video_sides: Path, tour: Tour, write_video: WriteVideo, tmp_path: Path
) -> None:
    folder = shutil.copytree(video_sides / "references", tmp_path / "references")
    root = index_videos(folder, tmp_path / "index", quick())
    first = times_of(root, "descriptors", "receipts")

    write_video(folder / "rocket.mp4", tour("rocket")[:8])
    index_videos(folder, root, quick())
    added = times_of(root, "descriptors", "receipts")
    assert first.items() < added.items()
    assert VideoIndex.open(root).items["rocket"][1] == 2

    write_video(folder / "rocket.mp4", tour("astronaut")[:12])
    index_videos(folder, root, quick())
    changed = times_of(root, "descriptors", "receipts")
    assert first.items() < changed.items()
    assert not added.keys() - first.keys() & changed.keys(), "of the shard of the old video nothing is left"
    assert VideoIndex.open(root).facts()["rocket"].duration == 3

    (folder / "rocket.mp4").unlink()
    (folder / "coffee.mp4").unlink()
    index_videos(folder, root, quick())
    assert sorted(VideoIndex.open(root).items) == ["astronaut", "chelsea"]
    match_videos(video_sides / "queries", root, tmp_path / "out", quick())
    assert ("mirrored", "chelsea") in copies_in(tmp_path / "out")
    assert {row["ref_id"] for row in rows_of(tmp_path / "out")} <= {"astronaut", "chelsea"}


def test_an_index_in_any_shards_gives_what_the_folder_gives(
    finished: Path, index: Path, video_sides: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(index, tmp_path / "index")
    match_videos(video_sides / "queries", root, tmp_path / "before", quick())
    shutil.rmtree(root)
    index_videos(video_sides / "references", root, quick(media={"shard_size": 1}))
    match_videos(video_sides / "queries", root, tmp_path / "after", quick())
    for out in ("before", "after"):
        assert (tmp_path / out / "segments.csv").read_bytes() == (finished / "segments.csv").read_bytes()
        assert not (tmp_path / out / "work" / "references").exists()


def test_queries_that_moved_to_another_shard_are_found_once(
    finished: Path, index: Path, video_sides: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(video_sides / "queries", tmp_path / "folder")
    queries = index_videos(folder, tmp_path / "queries", quick())
    match_videos(queries, index, tmp_path / "out", quick())
    expected = (tmp_path / "out" / "segments.csv").read_bytes()
    (folder / "mirrored.mp4").rename(tmp_path / "mirrored.mp4")
    index_videos(folder, queries, quick())
    (tmp_path / "mirrored.mp4").rename(folder / "mirrored.mp4")
    index_videos(folder, queries, quick())
    assert VideoIndex.open(queries).items["mirrored"][1] == 2
    match_videos(queries, index, tmp_path / "out", quick())
    assert (tmp_path / "out" / "segments.csv").read_bytes() == expected


def test_ids_may_hold_whatever_names_of_files_may(index: Path, video_sides: Path, tmp_path: Path) -> None:
    name = '=1, "a"\n<script>é'
    (tmp_path / "in").mkdir()
    shutil.copyfile(video_sides / "queries" / "whole.mp4", tmp_path / "in" / f"{name}.mp4")
    match_videos(tmp_path / "in", index, tmp_path / "out", quick(report={"max_matches": 5}))
    assert copies_in(tmp_path / "out") == {(neutralize(name), "coffee")}  # as a spreadsheet reads it
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script>é" not in page


def test_a_folder_is_matched_with_itself_and_no_video_with_itself(video_sides: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(video_sides / "references", tmp_path / "all")
    shutil.copyfile(video_sides / "queries" / "whole.mp4", folder / "again.mp4")
    match_videos(folder, folder, tmp_path / "out", quick())
    assert {frozenset(pair) for pair in copies_in(tmp_path / "out")} == {frozenset(("again", "coffee"))}
    assert all(row["query_id"] != row["ref_id"] for row in rows_of(tmp_path / "out"))


@pytest.fixture(scope="module")
def broken(tour: Tour, write_video: WriteVideo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten queries: some that cannot be read, some cut short, and some that are strange but whole."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "text.mp4").write_text("not a video")
    (folder / "empty.mp4").touch()
    whole = write_video(folder / "headless.mp4", tour("chelsea")).read_bytes()  # what tells the pictures comes last
    (folder / "headless.mp4").write_bytes(whole[: len(whole) // 2])
    options = {"movflags": "+faststart"}
    whole = write_video(folder / "cut.mp4", tour("chelsea"), container_options=options).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux([*stream.encode(sound), *stream.encode()])
    write_video(folder / "dot.avi", [np.zeros((1, 1, 3), np.uint8)] * 4, codec="ffv1")
    write_video(folder / "odd.mkv", tour("astronaut", 127, 95), codec="ffv1")
    write_video(folder / "still.mp4", tour("coffee")[:1])
    write_video(folder / "blink.mp4", tour("coffee")[:2], rate=10)
    write_video(folder / "copié \"twice\", 'x'.mp4", tour("chelsea")[4:40])
    return folder


def test_broken_queries_are_listed_and_those_cut_short_matched_up_to_there(
    broken: Path, index: Path, tmp_path: Path
) -> None:
    settings = quick(media={"max_failure_rate": 0.6}, alignment=VERIFIED, report={"max_matches": 5})
    run = match_videos(broken, index, tmp_path, settings)
    told = reasons(tmp_path / "failures.csv")
    assert told.keys() == {"text", "empty", "headless", "cut", "sound", "dot"}
    assert told["empty"] == "empty file"
    assert told["text"] == "no video, though its name ends in .mp4"
    assert told["headless"].startswith("cannot be decoded: ")
    assert told["sound"] == "has no video stream"
    assert told["dot"] == "1x1 pixels is too small; the shorter side must be at least 8"
    assert "of 12.0 s, as if cut short; used up to there" in told["cut"]
    assert (run["counts"]["queries"], run["counts"]["failures"]) == (5, 6)

    assert copies_in(tmp_path) == {("cut", "chelsea"), ("odd", "astronaut"), ("copié \"twice\", 'x'", "chelsea")}
    (cut,) = (row for row in rows_of(tmp_path) if row["query_id"] == "cut" and float(row["score"]) >= 0.5)
    assert 4 < float(cut["query_end"]) <= float(told["cut"].split()[2]) + 0.001
    assert float(cut["ref_start"]) == pytest.approx(float(cut["query_start"]), abs=0.5)
    assert float(cut["ref_end"]) == pytest.approx(float(cut["query_end"]), abs=0.5)
    assert "copié" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_broken_references_are_listed_and_the_others_found(broken: Path, video_sides: Path, tmp_path: Path) -> None:
    settings = quick(media={"max_failure_rate": 0.6}, alignment=VERIFIED)
    match_videos(video_sides / "queries", broken, tmp_path, settings)
    assert "cut" in reasons(tmp_path / "failures.csv")
    assert {("mirrored", "cut"), ("mirrored", "copié \"twice\", 'x'")} <= copies_in(tmp_path)
    assert not any(query == "other" for query, _ in copies_in(tmp_path))


def test_the_page_tells_of_a_file_that_broke_later(
    finished: Path, broken: Path, index: Path, video_sides: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(video_sides / "queries", tmp_path / "queries")
    settings = quick(report={"max_matches": 5})
    match_videos(folder, index, tmp_path / "out", settings)
    before = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    shutil.copyfile(broken / "text.mp4", folder / "text.mp4")
    match_videos(folder, index, tmp_path / "out", settings)
    assert (tmp_path / "out" / "segments.csv").read_bytes() == (finished / "segments.csv").read_bytes()
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8") != before


def test_too_many_broken_files_stop_the_run_with_their_list(broken: Path, index: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for name in ("text.mp4", "empty.mp4", "sound.mp4"):
        shutil.copyfile(broken / name, few / name)
    with pytest.raises(
        TooManyFailuresError,
        match=r"3 of 3 videos among the queries cannot be read .* the reasons are in .*failures\.csv",
    ):
        match_videos(few, index, tmp_path / "out", quick())
    assert reasons(tmp_path / "out" / "failures.csv").keys() == {"text", "empty", "sound"}
    assert not (tmp_path / "out" / "segments.csv").exists()


def test_without_a_readable_reference_or_query_there_is_nothing_to_find(
    broken: Path, index: Path, video_sides: Path, tmp_path: Path
) -> None:
    settings = quick(media={"max_failure_rate": 1.0}, report={"max_matches": 5})
    run = match_videos(video_sides / "queries", broken / "text.mp4", tmp_path / "references", settings)
    assert (run["counts"]["references"], run["counts"]["segments"]) == (0, 0)
    run = match_videos(broken / "empty.mp4", index, tmp_path / "queries", settings)
    assert (run["counts"]["queries"], run["counts"]["segments"]) == (0, 0)
    for side in ("references", "queries"):
        assert rows_of(tmp_path / side) == []
        assert (tmp_path / side / "segments.csv").read_text().strip().split(",") == COLUMNS
        assert (tmp_path / side / "report.html").exists()


def test_queries_of_one_picture_find_nothing_and_break_nothing(broken: Path, index: Path, tmp_path: Path) -> None:
    for aligner in ("hough", "dynamic_programming"):
        settings = quick(alignment={"aligner": aligner} | VERIFIED, report={"max_matches": 5})
        run = match_videos(broken / "still.mp4", index, tmp_path, settings)
        assert run["counts"]["copies"] == 0
    assert pq.read_table(tmp_path / "work/candidates/00000.parquet").column("reference_id")[0].as_py() == "coffee"


def test_noise_that_holds_references_is_refused(index: Path, video_sides: Path, tmp_path: Path) -> None:
    settings = quick(search={"noise": str(index)})
    with pytest.raises(InputError, match=r"and the references share 3 ids, for instance astronaut; noise must be"):
        match_videos(video_sides / "queries", video_sides / "references", tmp_path, settings)


def test_unrelated_videos_serve_as_noise(
    finished: Path, video_sides: Path, tour: Tour, write_video: WriteVideo, tmp_path: Path
) -> None:
    for number in range(2):
        write_video(tmp_path / "noise" / f"rocket{number}.mp4", tour("rocket")[24 * number :][:24])
    noise = index_videos(tmp_path / "noise", tmp_path / "index", quick())
    out = shutil.copytree(finished, tmp_path / "out")
    match_videos(video_sides / "queries", video_sides / "references", out, quick(search={"noise": str(noise)}))
    assert copies_in(out) >= copies_in(finished)
    levels = pa.concat_tables(pq.read_table(path) for path in (out / "work" / "noise").iterdir())
    means = levels.group_by("id").aggregate([("level", "mean")]).to_pylist()
    mean = {row["id"]: row["level_mean"] for row in means}
    assert mean["other"] > mean["whole"] + 0.2, "the query that shows the rocket is like this noise"


def test_an_index_of_images_is_refused(
    photos: dict[str, Pixels], write_photos: Callable[..., Path], video_sides: Path, tmp_path: Path
) -> None:
    pictures = index_images(write_photos(tmp_path / "photos", {"coffee": photos["coffee"]}), tmp_path / "pictures")
    with pytest.raises(InputError, match="is an index of images, and one of videos is needed"):
        match_videos(video_sides / "queries", pictures, tmp_path / "out", quick())
    with pytest.raises(InputError, match="is an index of images"):
        settings = quick(search={"noise": str(pictures)})
        match_videos(video_sides / "queries", video_sides / "references", tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_an_index_of_another_model_is_refused_by_name_before_any_work(
    index: Path, video_sides: Path, tmp_path: Path
) -> None:
    settings = quick(descriptor=IMAGENET)
    with pytest.raises(ModelMismatchError, match=r"was described by descriptor at 64 px .* by efficientnet_lite0"):
        match_videos(video_sides / "queries", index, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, b"", b"PAR1 and no more"])
def test_an_index_that_lost_a_shard_says_what_to_do(
    index: Path, video_sides: Path, tmp_path: Path, content: bytes | None
) -> None:
    root = shutil.copytree(index, tmp_path / "index")
    shard = root / "descriptors" / "00001.parquet"
    shard.unlink()
    if content is not None:
        shard.write_bytes(content)
    with pytest.raises(InputError, match=r"00001\.parquet is (missing|damaged: it has .*); run `copytrace verify "):
        match_videos(video_sides / "queries", root, tmp_path / "out", quick())


@pytest.mark.parametrize(
    ("section", "change", "told"),
    [
        ("frames", {"per_second": 2.0}, r"frames_per_second is 1\.0 there and 2\.0 now"),
        ("frames", {"reference_side": 128}, r"short_side is 320 there and 128 now"),
        ("descriptor", IMAGENET, r"descriptor is descriptor at 64 px .* there and efficientnet_lite0"),
    ],
)
def test_an_index_made_otherwise_is_not_mixed(
    index: Path, video_sides: Path, section: str, change: dict[str, Any], told: str
) -> None:
    before = times_of(index, "descriptors")
    with pytest.raises(ModelMismatchError, match=told):
        index_videos(video_sides / "references", index, quick(**{section: change}))
    assert times_of(index, "descriptors") == before


@pytest.fixture(scope="module")
def imported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both sides of the small run, through .npz files."""
    root = tmp_path_factory.mktemp("npz")
    for role in ("queries", "references"):
        index = VideoIndex.open(finished / "work" / role)
        export_npz(index, root / f"{role}.npz", panes=True)
        typical = index.provenance["typical_noise"]
        import_npz(root / f"{role}.npz", root / role, role, model="ours", typical_noise=typical)
    return {role: root / role for role in ("queries", "references")}


def test_exported_and_imported_descriptors_give_the_same_segments(
    imported: dict[str, Path], finished: Path, tmp_path: Path
) -> None:
    # Segments are to be verified here, and cannot be, as there are no videos.
    run = match_videos(**imported, out=tmp_path, settings=quick(alignment=VERIFIED, report={"max_matches": 20}))
    expected, found = sorted_rows(rows_of(finished)), sorted_rows(rows_of(tmp_path))
    assert len(found) == len(expected) == run["counts"]["segments"]
    for ours, theirs in zip(found, expected, strict=True):
        assert [ours[name] for name in ("query_id", "ref_id")] == [theirs[name] for name in ("query_id", "ref_id")]
        numbers = [float(theirs[name]) for name in COLUMNS[2:7]]
        assert [float(ours[name]) for name in COLUMNS[2:7]] == pytest.approx(numbers, abs=1e-3)
    assert (tmp_path / "failures.csv").read_text() == "id,path,stage,error\n"
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "file not found" in page, "the page has placeholders where there are no videos to show"


def test_a_run_over_two_indexes_forgets_the_failures_of_one_over_folders(
    imported: dict[str, Path], broken: Path, index: Path, tmp_path: Path
) -> None:
    match_videos(broken, index, tmp_path, quick(media={"max_failure_rate": 0.6}))
    assert reasons(tmp_path / "failures.csv")
    assert match_videos(**imported, out=tmp_path, settings=quick())["counts"]["failures"] == 0


def test_imported_descriptors_are_not_compared_with_those_of_another_model(
    imported: dict[str, Path], video_sides: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelMismatchError, match=r"was described by ours, 256 numbers, imported, and .* by descriptor"):
        match_videos(imported["queries"], video_sides / "references", tmp_path / "out", quick())
    assert not (tmp_path / "out").exists()


def sorted_rows(rows: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    return sorted(rows, key=lambda row: [row[name] for name in ("query_id", "ref_id", "reversed", "query_start")])
