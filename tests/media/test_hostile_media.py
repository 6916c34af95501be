"""Folders of hostile media: the good ones among them are used, and each other one is listed with its reason."""

from __future__ import annotations

import csv
import re
import resource
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.images import ImageSettings
from configs.settings import MediaSettings
from configs.videos import VideoSettings
from copytrace.images import match_images
from copytrace.index import video_index
from copytrace.index.media_index import finish_index
from tests.faults.hostile_media import (
    HostileFile,
    clip_bombs,
    encode_clips,
    encode_picture,
    encode_pictures,
    mutations,
    picture_bombs,
    write,
)

Pixels = NDArray[np.uint8]
LIMITS: dict[str, Any] = {"max_failure_rate": 1.0, "max_seconds": 1.0, "max_memory": 64}
SEED = 20_240_611


def rows(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {Path(row["path"]).name: row["error"] for row in csv.DictReader(file)}


def check_reasons(reasons: Mapping[str, str], expected: Iterable[tuple[HostileFile, str]]) -> None:
    for file, pattern in expected:
        assert re.search(pattern, reasons[file.name]), (file.name, reasons.get(file.name))
    for reason in reasons.values():
        assert reason
        assert "\n" not in reason
        assert "Traceback" not in reason


def memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def test_good_images_are_matched_among_hostile_ones(
    tmp_path: Path, photos: dict[str, Pixels], image_settings: ImageSettings, use_grid_descriptor: None
) -> None:
    queries, references, out = tmp_path / "queries", tmp_path / "references", tmp_path / "out"
    bombs = list(picture_bombs(photos["rocket"]))
    hostile = chain(mutations(encode_pictures(photos["rocket"]), 15, SEED), (file for file, _ in bombs))
    good = {f"good-{name}": encode_picture(photos[name], "jpg") for name in ("astronaut", "chelsea", "coffee")}
    names = write(queries, chain(hostile, (HostileFile(f"{name}.jpg", content) for name, content in good.items())))
    write(references, (HostileFile(f"{name}.png", encode_picture(photos[name], "png")) for name in photos))
    before = memory()
    match_images(queries, references, out, image_settings.model_copy(update={"media": MediaSettings(**LIMITS)}))
    assert memory() - before < 2 << 30
    failed, passed_over = rows(out / "failures.csv"), rows(out / "passed_over.csv")
    check_reasons(failed | passed_over, bombs)
    assert not failed.keys() & passed_over.keys()
    assert failed.keys() | passed_over.keys() <= set(names)
    assert not any(name.startswith("good") for name in failed)
    with (out / "matches.csv").open(encoding="utf-8", newline="") as file:
        found = {(row["query_id"], row["reference_id"]) for row in csv.DictReader(file) if float(row["score"]) >= 0.5}
    assert {(name, name.removeprefix("good-")) for name in good} <= found


def test_good_videos_are_described_among_hostile_ones(
    tmp_path: Path, photos: dict[str, Pixels], use_grid_descriptor: None
) -> None:
    source, root = tmp_path / "videos", tmp_path / "index"
    bombs, clips = list(clip_bombs(photos["rocket"])), encode_clips(photos["chelsea"])
    hostile = chain(mutations(encode_clips(photos["rocket"]), 10, SEED), (file for file, _ in bombs))
    good = {f"good-{suffix}.{suffix}": content for suffix, content in clips.items()}
    names = write(source, chain(hostile, (HostileFile(name, content) for name, content in good.items())))
    settings = VideoSettings.model_validate({"media": LIMITS})
    for shard in video_index.plan_videos(str(source), root, "references", settings, replace=False):
        video_index.describe_videos(root, shard, settings)
    finish_index(root, root / "failures.csv", [root], 1.0)
    failed, passed_over = rows(root / "failures.csv"), rows(root / "passed_over.csv")
    check_reasons(failed | passed_over, bombs)
    described = {Path(path).name for path in video_index.VideoIndex.open(root).paths.values()}
    assert described | failed.keys() | passed_over.keys() == set(names)
    assert set(good) <= described - failed.keys()


@pytest.mark.parametrize("encode", [encode_pictures, encode_clips])
def test_a_seed_gives_the_same_files(photos: dict[str, Pixels], encode: Any) -> None:
    coded = encode(photos["coffee"])
    assert list(mutations(coded, 30, SEED)) == list(mutations(coded, 30, SEED))
    assert list(mutations(coded, 30, SEED)) != list(mutations(coded, 30, SEED + 1))
