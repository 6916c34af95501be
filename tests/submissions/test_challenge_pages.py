"""The pages on the challenges, followed command by command on small data of the same shape; downloads are left out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from copytrace.cli import app

DOCS = Path(__file__).parents[2] / "docs"
QUICK = {"match-videos": ["panes.detector=none", "alignment.aligner=hough", "alignment.pair_filter=none"]}
"""Settings that take less time; the commands stay those of the page."""


@pytest.fixture(autouse=True)
def describe_without_networks(
    use_grid_descriptor: None, grid_models: tuple[Any, None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let commands describe by `GridDescriptor`: the pages are about files, not about what networks find."""
    for module, loader in (("images", "load_image_models"), ("videos", "load_video_models")):
        monkeypatch.setattr(f"copytrace.{module}.{loader}", lambda descriptor, detector: grid_models)


def commands_of(page: str) -> list[list[str]]:
    """The words of each command of Copytrace on a page, in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("copytrace ")]
    return [shlex.split(line)[1:] for line in lines]


def follow(page: str) -> dict[str, Result]:
    """Run all commands of a page in this folder, each of which must succeed; return what the last of each name said."""
    said = {}
    for words in commands_of(page):
        result = CliRunner().invoke(app, [*words, *QUICK.get(words[0], [])], catch_exceptions=False)
        assert result.exit_code == 0, f"{' '.join(words)}: {result.output}"
        said[" ".join(words[:2])] = result
    return said


def test_the_page_on_disc21(
    photos: Mapping[str, Any],
    write_photos: Callable[[Path, Mapping[str, Any]], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    references = {f"R{number:06}": photo for number, photo in enumerate(list(photos.values())[:3])}
    queries = {"Q00000": photos["rocket"], "Q00001": photos["chelsea"][20:, 10:, :].copy()}
    write_photos(Path("disc21/images/references"), references)
    write_photos(Path("disc21/images/queries"), queries)
    Path("disc21/dev_ground_truth.csv").write_text("query_id,reference_id\nQ00000,\nQ00001,R000001\n")
    lists = Path("isc2021/list_files")
    lists.mkdir(parents=True)
    (lists / "dev_queries").write_text("\n".join(queries) + "\n")
    (lists / "references").write_text("\n".join(references) + "\n")
    said = follow("disc21.md")
    assert "descriptors of DISC21, 2 queries, 3 references\n" in said["submit-check disc21"].stdout
    assert "1.00000" in said["evaluate images"].stdout
    assert "1.00000" in said["evaluate descriptors"].stdout


def test_the_page_on_vsc22(
    tour: Callable[..., list[Any]],
    write_video: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    train = Path("vsc22/train")
    for name, photo in (
        ("reference/R100001", "astronaut"),
        ("reference/R100002", "coffee"),
        ("query/Q100001", "coffee"),
    ):
        write_video(train / f"{name}.mp4", tour(photo))
    header = "video_id,duration_sec\n"
    (train / "train_query_metadata.csv").write_text(f"{header}Q100001,12.0\n")
    (train / "train_reference_metadata.csv").write_text(f"{header}R100001,12.0\nR100002,12.0\n")
    (train / "train_matching_ground_truth.csv").write_text(
        "query_id,ref_id,query_start,query_end,ref_start,ref_end\nQ100001,R100002,0,12,0,12\n"
    )
    said = follow("vsc22.md")
    assert "candidate pairs of VSC22" in said["submit-check vsc22"].stdout
    assert "1.00000" in said["evaluate candidates"].stdout
