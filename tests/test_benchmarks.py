"""The page of the benchmarks, their sets, and their runner; the benchmarks themselves are run by `make bench`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as runner
from benchmarks import challenge_size
from benchmarks.evaluation_sets import read_set
from benchmarks.results import Row, Section, beside_limit, to_markdown
from copytrace.errors import InputError

SECTIONS = [
    Section("Stages", "What a row is.", [beside_limit("reading", 30.0, 120.0, "pictures/s", "the decoder")]),
    Section("Peers", "Recall.", [Row("Copytrace", {"recall": 0.98765, "bytes": 24}), Row("other", {"bytes": 51_200})]),
]


def results(load: float, **changes: Any) -> dict[str, Any]:
    here = {"processor": "Some CPU", "cores": 2, "memory_gib": 23.5, "system": "Linux x86_64", "load_at_start": load}
    content = {
        "command": "bench",
        "data": "sample media",
        "machine": here | {"versions": {"numpy": "2.0"}},
        "seconds": 421,
        "processor_seconds": 190,
        "sections": [section.to_json() for section in SECTIONS],
        "failed": [],
    }
    return content | changes


def test_the_page_has_a_table_per_section_with_figures_that_a_person_reads() -> None:
    page = to_markdown(results(0.1))
    assert "`make bench` in 7 minutes, of which it had a core for 3;" in page
    assert "Some CPU, 2 cores, 23.5 GiB" in page
    assert "| | Copytrace | at best | share of it | unit, of one core | the limit |" in page
    assert "| reading | 30.0 | 120 | 25% | pictures/s | the decoder |" in page
    assert "| **Copytrace** | 0.988 | 24 |\n| other |  | 51,200 |" in page
    assert "shared" not in page


def test_the_page_says_if_the_machine_was_shared_and_what_failed() -> None:
    page = to_markdown(results(7.3, failed=["alignment"]))
    assert "> The machine was shared: when the run began, other processes put a load of 7.3 on its 2 cores." in page
    assert "**Failed**: alignment." in page


def test_sections_are_read_back_from_json_as_they_were() -> None:
    assert [Section.from_json(section.to_json()) for section in SECTIONS] == SECTIONS


@pytest.mark.parametrize(
    ("header", "medium"), [("query_id,reference_id,kind", "images"), ("query_id,ref_id,query_start", "videos")]
)
def test_the_ground_truth_of_a_set_tells_images_from_videos(tmp_path: Path, header: str, medium: str) -> None:
    (tmp_path / "queries").mkdir()
    (tmp_path / "references").mkdir()
    with pytest.raises(InputError, match=r"is no evaluation set: .*ground_truth\.csv is missing"):
        read_set(tmp_path)
    (tmp_path / "ground_truth.csv").write_text(f"{header}\n", encoding="utf-8")
    assert (read_set(tmp_path).medium, read_set(tmp_path).noise) == (medium, None)


def test_every_benchmark_has_a_file_and_every_file_that_measures_is_a_benchmark() -> None:
    measuring = {path.stem for path in runner.HERE.glob("*.py") if "\ndef measure(" in path.read_text("utf-8")}
    assert measuring == {*runner.SHORT, *runner.LONG}


@pytest.mark.parametrize("name", [*runner.SHORT, *runner.LONG])
def test_a_benchmark_finds_all_that_it_imports(name: str) -> None:
    assert callable(import_module(f"benchmarks.{name}").measure)


def test_a_benchmark_that_fails_says_why_and_gives_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert runner.run("video_accuracy", [tmp_path / "no set"]) == []
    assert "is no evaluation set" in capfd.readouterr().err


def test_the_steps_at_the_size_of_the_challenges_find_what_is_planted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("h5py")
    small = {"IMAGES": 300, "IMAGE_QUERIES": 20, "VIDEOS": 30, "NOISE_VIDEOS": 6, "QUERY_VIDEOS": 8}
    for name, number in small.items():
        monkeypatch.setattr(challenge_size, name, number)
    figures = {name: step(tmp_path) for name, step in challenge_size.STEPS.items()}
    found = {
        name: each["planted ones found"] for name, each in figures.items() if each and "planted ones found" in each
    }
    assert found == dict.fromkeys(found, 1.0)
    assert len(found) == 5
