"""Training of a codebook of points, and matching with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from configs.images import ImageSettings
from configs.training import CodebookTraining
from copytrace.cli import app
from copytrace.errors import ConfigError, InputError, ModelMismatchError
from copytrace.images import check_images, index_images, match_images
from copytrace.index.codebook import CODEBOOK
from copytrace.index.compaction import compact_index
from copytrace.index.image_index import ImageIndex
from copytrace.index.image_segments import open_segments
from copytrace.tables import read_table
from copytrace.training.point_codebook import train_point_codebook
from models.point_codebook import read_point_codebook
from tests.few_points import FEW_POINTS

Pixels = NDArray[np.uint8]
SMALL = CodebookTraining(cells=4, lists=8, fine=2, sample=512)
NAMES = ("astronaut", "chelsea", "coffee")


def with_codebook(name: str | Path, **local: object) -> ImageSettings:
    quick = FEW_POINTS | {"codebook": str(name)} | local
    return ImageSettings.model_validate(
        {"local": quick, "overlay": {"detector": "none"}, "media": {"shard_size": 2}, "report": {"max_matches": 0}}
    )


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, photos: Mapping[str, Pixels]) -> Path:
    """A folder of photos to learn from, in which none of the references is: a rocket, and turned and blurred ones."""
    import cv2  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("others")
    for number, name in enumerate(("rocket", "coffee", "astronaut")):
        photo = np.rot90(photos[name], number)[: -40 * number or None]
        cv2.imwrite(str(folder / f"{number}.png"), cv2.GaussianBlur(photo, (0, 0), 0.5 + number))
    return folder


@pytest.fixture(scope="module")
def codebook(others: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small codebook of one's own."""
    return train_point_codebook(str(others), tmp_path_factory.mktemp("codebook") / "own.safetensors", SMALL).path


@pytest.fixture
def sides(
    tmp_path: Path, photos: Mapping[str, Pixels], write_photos: Callable[[Path, Mapping[str, Pixels]], Path]
) -> tuple[Path, Path]:
    """Two queries, a mirrored copy and a crop, and three references."""
    queries = {"a": photos["chelsea"][:, ::-1], "b": photos["coffee"][20:-20, 30:-30]}
    references = {name: photos[name] for name in NAMES}
    return write_photos(tmp_path / "queries", queries), write_photos(tmp_path / "references", references)


def copytrace(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_a_trained_codebook_has_the_lists_and_the_sample_that_were_asked_for(codebook: Path) -> None:
    read = read_point_codebook(codebook)
    assert [len(each) for each in (read.cells, read.lists, read.fine_lists, read.sample_codes)] == [4, 32, 64, 512]
    assert len(np.unique(read.lists, axis=0)) == 32
    # A list lies in its cell: it is nearer to that than to the other cells.
    distance = ((read.lists[:, None] - read.cells) ** 2).sum(axis=2)
    assert (distance.argmin(axis=1) == np.arange(32) // 8).mean() > 0.9


def test_other_photos_give_another_codebook(others: Path, codebook: Path, tmp_path: Path) -> None:
    fewer = SMALL.model_copy(update={"photos": 2})
    result = train_point_codebook(str(others), tmp_path / "fewer.safetensors", fewer)
    assert result.photos == 2
    assert result.path.read_bytes() != codebook.read_bytes()


def test_the_command_writes_the_same_of_the_same_photos_and_names_those_that_it_could_not_read(
    others: Path, codebook: Path, tmp_path: Path
) -> None:
    manifest, out = tmp_path / "photos.csv", tmp_path / "own.safetensors"
    rows = [f"{path.stem},{path}" for path in sorted(others.iterdir())]
    manifest.write_text("\n".join(["id,path", *rows, f"gone,{tmp_path / 'gone.jpg'}"]), encoding="utf-8")
    result = copytrace("train-codebook", manifest, "--out", out, "cells=4", "lists=8", "fine=2", "sample=512")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"wrote {out}: 32 lists, from ")
    assert result.stdout.endswith(f" points of 3 photos; use it by local.codebook={out}\n")
    assert "  gone: " in result.stderr
    assert out.read_bytes() == codebook.read_bytes()


def test_too_few_points_are_told_in_one_line(others: Path, tmp_path: Path) -> None:
    result = copytrace("train-codebook", others, "--out", tmp_path / "own.safetensors")
    assert result.exit_code == 1
    assert "and a codebook of this size needs 16,384; give more photos, or lower sample" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("exact", [False, True])
def test_copies_are_found_by_ones_own_codebook(
    sides: tuple[Path, Path], codebook: Path, tmp_path: Path, exact: bool
) -> None:
    settings = with_codebook(codebook, exact=exact)
    assert match_images(*sides, tmp_path / "out", settings)["counts"]["queries_with_copies"] == 2
    candidates = read_table(tmp_path / "out" / "work" / "candidates" / "local" / "00000.parquet")
    best = dict(zip(*(reversed(candidates.column(n).to_pylist()) for n in ("query_id", "reference_id")), strict=True))
    assert best == {"a": "chelsea", "b": "coffee"}
    matches = read_table(tmp_path / "out" / "matches.parquet")
    assert dict(zip(matches["query_id"].to_pylist()[:2], matches["reference_id"].to_pylist()[:2], strict=True)) == best


def test_an_index_keeps_its_codebook_when_the_file_is_gone(
    sides: tuple[Path, Path], codebook: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(codebook.read_bytes())
    index = index_images(sides[1], tmp_path / "index", with_codebook(mine))
    mine.unlink()
    compact_index(index)
    assert open_segments(ImageIndex.open(index))[0].points.lists.nlist == 32
    settings = with_codebook(index / CODEBOOK)
    assert match_images(sides[0], index, tmp_path / "out", settings)["counts"]["queries_with_copies"] == 2


def test_an_index_made_with_another_codebook_is_refused_in_one_line(
    sides: tuple[Path, Path], codebook: Path, tmp_path: Path
) -> None:
    own = index_images(sides[1], tmp_path / "own", with_codebook(codebook))
    shipped = index_images(sides[1], tmp_path / "shipped", with_codebook("shipped"))
    for index, other, cure in ((own, "shipped", str(own / CODEBOOK)), (shipped, codebook, "shipped")):
        with pytest.raises(ModelMismatchError, match=f"give local.codebook={cure}, or index into another") as told:
            match_images(sides[0], index, tmp_path / "out", with_codebook(other))
        assert "\n" not in str(told.value)
        with pytest.raises(ModelMismatchError, match="was made with other settings: codebook is "):
            index_images(sides[1], index, with_codebook(other))
        check_images(with_codebook(cure), [index])


def test_what_is_no_codebook_is_refused_before_anything_is_indexed(sides: tuple[Path, Path], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"not a codebook")
    for name, told in ((wrong, "cannot be read as a codebook of points"), (tmp_path / "none", "no codebook at")):
        with pytest.raises(ConfigError, match=told):
            index_images(sides[1], tmp_path / "index", with_codebook(name))
    assert not (tmp_path / "index").exists()


def test_a_damaged_codebook_of_an_index_is_told(sides: tuple[Path, Path], codebook: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(codebook.read_bytes())
    index = index_images(sides[1], tmp_path / "index", with_codebook(mine))
    (index / CODEBOOK).unlink()
    moved = index.rename(tmp_path / "moved")  # under its old path, this process has the codebook open
    with pytest.raises(InputError, match=r"codebook\.safetensors is missing or damaged"):
        match_images(sides[0], moved, tmp_path / "out", with_codebook(mine))
