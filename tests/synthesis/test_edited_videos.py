from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from copytrace.cli import app
from copytrace.errors import ConfigError, InputError, MediaError
from copytrace.media.encode import write_video
from copytrace.media.files import MediaItem, list_media
from copytrace.media.frames import open_video
from copytrace.metrics.video_evaluation import read_true_segments
from copytrace.synthesis import edited_videos
from copytrace.synthesis.edited_set import MILD, EditedSetPlan
from copytrace.synthesis.edited_videos import write_edited_videos
from copytrace.synthesis.footage import PANES, RATE, Look, Scene, Stretch

SIZE = (64, 48)


@pytest.fixture(scope="module", autouse=True)
def short_and_small() -> Iterator[None]:
    """Draw queries of a quarter of the usual sides and about a third of the length, as encoding takes the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edited_videos, "_SIZES", ((80, 60), (106, 60), (60, 80), (72, 72)))
        patch.setattr(edited_videos, "_MEDIAN_SECONDS", 10.0)
        yield


def footage(folder: Path, prefix: str, count: int, seconds: float) -> list[MediaItem]:
    """Videos of plain pictures whose brightness tells the tenth of a second, and whose colour tells the video."""
    for number in range(count):
        pictures = []
        for picture in range(round(seconds * RATE)):
            pixels = np.full((SIZE[1], SIZE[0], 3), 20 + 2 * picture % 200, np.uint8)
            pixels[:, :, number % 3] = 240
            pixels[: SIZE[1] // 4, : SIZE[0] // 4] = 0 if prefix == "R" else 255
            pictures.append(pixels)
        write_video(pictures, folder / f"{prefix}{number}.mp4", rate=RATE, quantizer=1)
    return list_media(folder)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[MediaItem]:
    return footage(tmp_path_factory.mktemp("videos"), "R", 3, 12)


@pytest.fixture(scope="module")
def donors(tmp_path_factory: pytest.TempPathFactory) -> list[MediaItem]:
    return footage(tmp_path_factory.mktemp("donors"), "D", 2, 9)


@pytest.fixture(scope="module")
def edited(videos: list[MediaItem], donors: list[MediaItem], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("set")
    return write_edited_videos(videos, donors, out, EditedSetPlan(copies=3, distractors=1, difficulty="mild", seed=4))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def stretch_of(item: MediaItem, first: int = 0, count: int = 20, speed: float = 1.0) -> Stretch:
    return Stretch(open_video(item.path), first, count, speed)


def test_all_queries_are_there_and_copies_are_named_with_seconds_of_both_videos(edited: Path) -> None:
    queries = sorted(path.stem for path in (edited / "queries").iterdir())
    assert queries == [f"Q{number:05d}" for number in range(4)]
    assert [row["query_id"] for row in rows(edited / "edits.csv")] == queries
    truth = rows(edited / "ground_truth.csv")
    assert len({row["query_id"] for row in truth}) == 3
    for row in truth:
        duration = open_video(str(edited / "queries" / f"{row['query_id']}.mp4")).info.duration
        assert 0 <= float(row["query_start"]) < float(row["query_end"]) <= duration + 1e-6
        assert 0 <= float(row["ref_start"]) < float(row["ref_end"]) <= 12 + 1e-6
    table, _ = read_true_segments(edited / "ground_truth.csv")
    assert len(table.times) == len(truth)


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(
    edited: Path, videos: list[MediaItem], donors: list[MediaItem], tmp_path: Path
) -> None:
    again = write_edited_videos(
        videos, donors, tmp_path, EditedSetPlan(copies=3, distractors=1, difficulty="mild", seed=4), workers=2
    )
    for path in edited.rglob("*"):
        if path.is_file():
            assert (again / path.relative_to(edited)).read_bytes() == path.read_bytes()


def test_another_seed_gives_other_queries(
    edited: Path, videos: list[MediaItem], donors: list[MediaItem], tmp_path: Path
) -> None:
    other = write_edited_videos(
        videos, donors, tmp_path, EditedSetPlan(copies=3, distractors=1, difficulty="mild", seed=5)
    )
    assert (other / "ground_truth.csv").read_bytes() != (edited / "ground_truth.csv").read_bytes()


@pytest.mark.parametrize("speed", [0.5, 1.0, 1.5])
def test_a_stretch_shows_the_seconds_that_it_says(videos: list[MediaItem], speed: float) -> None:
    stretch = stretch_of(videos[0], first=10, count=30, speed=speed)
    assert stretch.seconds == pytest.approx((speed, 4 * speed))
    shown = [int(picture[-1, -1, 1]) for picture in stretch.pictures()]
    expected = [20 + 2 * int((10 + number + 0.5) * speed) for number in range(30)]
    assert np.abs(np.array(shown) - expected).max() <= 4  # a picture is two levels, and a codec rounds by as many


def test_a_stretch_past_the_end_goes_on_with_the_last_picture(donors: list[MediaItem]) -> None:
    pictures = list(stretch_of(donors[0], first=85, count=12).pictures())
    assert len(pictures) == 12
    assert all((picture == pictures[4]).all() for picture in pictures[5:])


@pytest.mark.parametrize("layout", PANES)
@pytest.mark.parametrize("place", [0, 1])
def test_a_split_screen_shows_the_copy_in_its_pane(
    videos: list[MediaItem], donors: list[MediaItem], layout: str, place: int
) -> None:
    look = Look((1,), layout=layout, place=place, across=True)
    beside = tuple(stretch_of(donors[0]) for _ in range(look.others))
    told: list[str] = []
    scene = Scene(stretch_of(videos[0]), look, stretch_of(donors[0]), beside)
    first = next(scene.pictures(2 * SIZE[0], SIZE[1] * PANES[layout] // 2, told.extend))
    assert told == [layout]
    corner = first[2, 2 + SIZE[0] * place].mean()
    assert corner < 40  # references have a black corner, donors a white one
    assert first[2, 2 + SIZE[0] * (1 - place)].mean() > 215


def test_edits_stay_the_same_all_through_a_stretch(videos: list[MediaItem], donors: list[MediaItem]) -> None:
    donor = next(stretch_of(donors[0]).pictures())
    still = next(stretch_of(videos[0]).pictures())
    for seed in range(7):
        look = Look((seed,), MILD, crop=(0.1, 0.2, 0.9, 0.8))
        (one, names), (two, again) = (look.edit(still, lambda: donor) for _ in range(2))
        assert names == again
        assert names[0] == "crop"
        assert np.array_equal(one, two)


def test_a_copy_that_is_not_edited_shows_what_the_reference_shows_then(
    videos: list[MediaItem], donors: list[MediaItem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, chance in (("_UNEDITED", 1.0), ("_CROPPED", 0.0), ("_SPLIT", 0.0)):
        monkeypatch.setattr(edited_videos, name, chance)
    write_edited_videos(videos, donors, tmp_path, EditedSetPlan(copies=3, distractors=0, seed=1))
    paths = {video.id: video.path for video in videos}
    for row in rows(tmp_path / "ground_truth.csv"):
        query = tmp_path / "queries" / f"{row['query_id']}.mp4"
        for share in (0.1, 0.5, 0.9):
            seen = []
            for path, role in ((str(query), "query"), (paths[row["ref_id"]], "ref")):
                start, end = (float(row[f"{role}_{edge}"]) for edge in ("start", "end"))
                pixels = next(open_video(path).frames(per_second=RATE, start=start + share * (end - start))).pixels
                seen.append(pixels[pixels.shape[0] // 2, pixels.shape[1] // 2].astype(int))
            assert np.abs(seen[0] - seen[1]).max() < 25


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"difficulty": "wild"}, ConfigError, "unknown difficulty 'wild'"),
        ({"copies": 0, "distractors": 0}, ConfigError, "make no set"),
        ({"videos": []}, InputError, "0 videos and 2 donors given"),
    ],
)
def test_what_makes_no_set_is_refused(
    videos: list[MediaItem],
    donors: list[MediaItem],
    tmp_path: Path,
    change: dict[str, object],
    error: type[Exception],
    told: str,
) -> None:
    arguments = {"videos": videos, "donors": donors, "copies": 1, "distractors": 1, "difficulty": "mild", **change}
    with pytest.raises(error, match=told):
        write_edited_videos(arguments.pop("videos"), arguments.pop("donors"), tmp_path, EditedSetPlan(**arguments))
    assert not list(tmp_path.iterdir())


def test_a_video_that_is_both_copied_and_a_donor_is_refused(videos: list[MediaItem], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="R0 is both a video and a donor"):
        write_edited_videos(videos, videos, tmp_path, EditedSetPlan(copies=1, distractors=1))


def test_videos_too_short_to_copy_from_are_passed_over(
    videos: list[MediaItem], donors: list[MediaItem], tmp_path: Path
) -> None:
    short = footage(tmp_path / "short", "S", 1, 2)
    out = write_edited_videos(
        [*videos, *short], donors, tmp_path / "set", EditedSetPlan(copies=4, distractors=0, difficulty="mild")
    )
    assert {row["ref_id"] for row in rows(out / "ground_truth.csv")} <= {video.id for video in videos}
    with pytest.raises(InputError, match="no video has the 5 seconds"):
        write_edited_videos(short, donors, tmp_path / "none", EditedSetPlan(copies=1, distractors=0))


def test_an_unreadable_video_is_named(videos: list[MediaItem], donors: list[MediaItem], tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(MediaError, match=r"unreadable video .*text\.mp4: .*; leave it out"):
        write_edited_videos(
            [*videos, MediaItem("text", str(tmp_path / "text.mp4"), "")],
            donors,
            tmp_path / "o",
            EditedSetPlan(copies=1, distractors=0),
        )


def test_a_folder_with_other_files_is_refused(videos: list[MediaItem], donors: list[MediaItem], tmp_path: Path) -> None:
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / "mine.mp4").write_text("mine")
    with pytest.raises(InputError, match=r"holds mine\.mp4"):
        write_edited_videos(videos, donors, tmp_path, EditedSetPlan(copies=1, distractors=0))


def test_the_command_writes_a_set(videos: list[MediaItem], donors: list[MediaItem], tmp_path: Path) -> None:
    sources = [str(Path(items[0].path).parent) for items in (videos, donors)]
    result = CliRunner().invoke(
        app, ["edit-videos", *sources, "--out", str(tmp_path / "set"), "--copies", "2", "--distractors", "1"]
    )
    assert result.exit_code == 0, result.stderr
    assert "3 queries are in" in result.stdout
    assert len(list((tmp_path / "set" / "queries").iterdir())) == 3


def test_of_a_video_that_is_cut_short_what_is_there_is_used(tmp_path: Path) -> None:
    pictures = [np.full((48, 64, 3), 20 + 2 * number, np.uint8) for number in range(60)]
    write_video(pictures, tmp_path / "whole.mp4", rate=RATE)
    with av.open(str(tmp_path / "whole.mp4")) as source, av.open(str(tmp_path / "cut.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    whole = (tmp_path / "cut.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    video = open_video(str(tmp_path / "cut.mkv"))
    assert video.info.duration < 5
    assert len(list(Stretch(video, 0, 10).pictures())) == 10
    beyond = Stretch(video, 0, 60)
    with pytest.raises(MediaError, match=r"unreadable video .*cut\.mkv: .*; leave it out"):
        list(beyond.pictures())
