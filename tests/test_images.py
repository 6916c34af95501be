"""Image matching as a library call: runs over queries and files that change between them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from configs.images import ImageSettings, OverlaySettings
from copytrace.cli import app
from copytrace.images import match_images
from copytrace.index.image_index import ImageIndex, describe_images, find_overlays, plan_images
from copytrace.index.media_index import finish_index
from copytrace.search import image_candidates
from copytrace.step import SilentProgress, StepProgress
from tests.few_points import FEW_POINTS

Pixels = NDArray[np.uint8]
WritePhotos = Callable[[Path, Mapping[str, Pixels]], Path]


def quick(**media: Any) -> ImageSettings:
    sections = {"descriptor": {"input_size": 128}, "local": FEW_POINTS, "overlay": {"detector": "none"}}
    return ImageSettings.model_validate({**sections, "media": {"shard_size": 2} | media, "report": {"max_matches": 5}})


@pytest.fixture
def sides(tmp_path: Path, photos: dict[str, Pixels], write_photos: WritePhotos) -> tuple[Path, Path]:
    """Three queries, two of which are copies, and three references."""
    queries = {"a": photos["chelsea"][:, ::-1], "b": photos["coffee"][20:-20, 30:-30], "c": photos["rocket"]}
    references = {name: photos[name] for name in ("astronaut", "chelsea", "coffee")}
    return write_photos(tmp_path / "queries", queries), write_photos(tmp_path / "references", references)


def test_queries_that_moved_to_another_shard_are_found_once(sides: tuple[Path, Path], tmp_path: Path) -> None:
    queries, references = sides
    out, settings = tmp_path / "out", quick()
    match_images(queries, references, out, settings)
    expected = pd.read_csv(out / "matches.csv")
    index = out / "work" / "queries"
    for away, there in ((tmp_path / "b.png", queries / "b.png"), (queries / "b.png", tmp_path / "b.png")):
        there.rename(away)
        # A run that is killed when it has its queries.
        for shard in plan_images(str(queries), index, "queries", settings, replace=True):
            find_overlays(index, shard, settings)
            describe_images(index, shard, settings)
        finish_index(index, out / "failures.csv", [index], 0.0)
    assert ImageIndex.open(index).items["b"][1] == 2
    match_images(queries, references, out, settings)
    found = pd.read_csv(out / "matches.csv")
    pairs = ["query_id", "reference_id"]
    assert found[pairs].values.tolist() == expected[pairs].values.tolist()
    # In another batch of the network, a sum may be rounded differently.
    assert found["score"].tolist() == pytest.approx(expected["score"].tolist(), abs=1e-4)


class Interrupted(SilentProgress):
    """Somebody presses Ctrl-C when the third query, the first of the second shard, has been described."""

    @contextmanager
    def step(self, name: str, total: int, unit: str) -> Iterator[StepProgress]:
        with super().step(name, total, unit) as stage:
            yield Interruption() if name == "describe queries" else stage


class Interruption:
    def __init__(self) -> None:
        self.described = 0

    def advance(self, count: int = 1) -> None:
        self.described += count
        if self.described > 2:
            raise KeyboardInterrupt

    def resize(self, total: int) -> None:
        pass


def test_an_interrupted_run_goes_on_and_gives_the_bytes_of_one_that_was_not(
    sides: tuple[Path, Path], tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    match_images(*sides, whole, quick())
    with pytest.raises(KeyboardInterrupt):
        match_images(*sides, out, quick(), Interrupted())
    receipts = list(out.glob("work/queries/receipts/*.json"))
    assert [path.stem for path in receipts] == ["00000"]
    assert not (out / "matches.csv").exists()
    written = {path: path.stat().st_mtime_ns for path in receipts}
    match_images(*sides, out, quick())
    assert {path: path.stat().st_mtime_ns for path in receipts} == written
    for name in ("matches.csv", "matches.parquet", "failures.csv", "report.html"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_nothing_stays_of_shards_that_are_no_more(sides: tuple[Path, Path], tmp_path: Path) -> None:
    queries, references = sides
    out = tmp_path / "out"
    match_images(queries, references, out, quick())
    assert ImageIndex.open(out / "work" / "queries").shards == [0, 1]
    others = quick(shard_size=3).model_copy(update={"overlay": OverlaySettings(detector="edges")})
    match_images(queries, references, out, others)
    assert ImageIndex.open(out / "work" / "queries").shards == [0]
    assert {path.name for path in (out / "work" / "evidence").iterdir()} == {"00000.parquet", "00000.json"}


def test_a_list_of_copies_that_was_cut_is_told_in_the_summary_the_page_and_the_terminal(
    sides: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, references = sides
    monkeypatch.setattr(image_candidates, "MOST_COPIES", 1)
    out = tmp_path / "out"
    run = match_images(queries, references, out, quick())
    assert (run["counts"]["cut_queries"], run["cut_queries"]) == (0, [])
    assert "of more references than are listed" not in (out / "report.html").read_text("utf-8")
    for number in range(14):
        shutil.copy(references / "coffee.png", references / f"coffee{number}.png")
    quickly = [f"local.{name}={json.dumps(value)}" for name, value in FEW_POINTS.items()]
    quickly += ["descriptor.input_size=128", "overlay.detector=none", "media.shard_size=8", "report.max_matches=5"]
    told = CliRunner().invoke(app, ["match-images", str(queries), str(references), "--out", str(out), *quickly])
    sentence = "1 query may be a copy of more references than are listed: b"
    assert sentence in told.stdout
    assert sentence in (out / "report.html").read_text("utf-8")
    run = json.loads((out / "run.json").read_text("utf-8"))
    assert (run["counts"]["cut_queries"], run["cut_queries"]) == (1, ["b"])


def test_the_page_tells_of_a_file_that_cannot_be_read(sides: tuple[Path, Path], tmp_path: Path) -> None:
    queries, references = sides
    out, settings = tmp_path / "out", quick(max_failure_rate=0.5)
    match_images(queries, references, out, settings)
    before = (out / "report.html").read_bytes()
    (queries / "broken.png").write_text("no picture")
    run = match_images(queries, references, out, settings)
    assert run["counts"]["failures"] == 1
    assert (out / "report.html").read_bytes() != before
