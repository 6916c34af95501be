"""One step of a run: when it is done, what it records, and whose progress it shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from copytrace.errors import DamagedFileError
from copytrace.step import (
    ProcessRunner,
    SharedProgress,
    SilentProgress,
    Step,
    StepProgress,
    current_progress,
    fingerprint_of,
    listen,
    read_record,
)
from copytrace.storage import write_json
from copytrace.summary import sum_costs


class RecordingProgress:
    """A listener that records what it is shown: each bar as its name, its totals in order, and the units done."""

    def __init__(self) -> None:
        self.bars: list[Bar] = []

    @contextmanager
    def step(self, name: str, total: int, unit: str) -> Iterator[StepProgress]:
        bar = Bar(name, total, unit)
        self.bars.append(bar)
        yield bar
        bar.closed = True


class Bar:
    def __init__(self, name: str, total: int, unit: str) -> None:
        self.title, self.totals, self.done, self.closed = f"{name}, {unit}", [total], 0, False

    def advance(self, count: int = 1) -> None:
        self.done += count

    def resize(self, total: int) -> None:
        self.totals.append(total)


def copy_step(folder: Path, source: str = "a b c") -> Step:
    return Step.of("copy words", folder / "words.txt", folder / "sizes.txt", made_from=[source])


def run_step(step: Step, text: str = "abc") -> None:
    with step.run(len(text), "words") as work:
        for output in step.outputs:
            output.write_text(text, encoding="ascii")
        work.advance(len(text))


@pytest.fixture
def finished(tmp_path: Path) -> Step:
    step = copy_step(tmp_path)
    run_step(step)
    return step


def test_a_step_that_has_run_is_done(finished: Step, tmp_path: Path) -> None:
    assert finished.is_done()
    assert copy_step(tmp_path).is_done()


def test_a_step_that_has_not_run_is_not_done(tmp_path: Path) -> None:
    assert not copy_step(tmp_path).is_done()


def test_a_step_of_other_inputs_is_not_done(finished: Step, tmp_path: Path) -> None:
    other = copy_step(tmp_path, "a b d")
    assert other.fingerprint != finished.fingerprint
    assert not other.is_done()


def test_a_step_of_another_version_is_not_done(finished: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("copytrace.step.VERSION", "0.0.0")
    assert not copy_step(tmp_path).is_done()


@pytest.mark.parametrize("name", ["words.txt", "sizes.txt", "words.json"])
def test_a_step_with_a_missing_file_is_not_done(finished: Step, name: str, tmp_path: Path) -> None:
    (tmp_path / name).unlink()
    assert not finished.is_done()


@pytest.mark.parametrize("name", ["words.txt", "sizes.txt"])
def test_a_step_with_a_truncated_output_is_not_done(finished: Step, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("ab", encoding="ascii")
    assert not finished.is_done()


def test_a_step_that_is_run_again_is_done_again(finished: Step, tmp_path: Path) -> None:
    (tmp_path / "words.txt").unlink()
    run_step(finished, "abcd")
    assert finished.is_done()
    assert read_record(finished.record)["bytes"] == [4, 4]


def test_a_step_that_is_killed_leaves_no_record(tmp_path: Path) -> None:
    step = copy_step(tmp_path)
    with pytest.raises(KeyboardInterrupt), step.run(3, "words"):
        step.outputs[0].write_text("abc", encoding="ascii")
        raise KeyboardInterrupt
    assert not step.record.exists()
    assert not step.is_done()


def test_a_step_that_is_killed_the_second_time_loses_the_record_of_the_first(finished: Step) -> None:
    with pytest.raises(KeyboardInterrupt), finished.run(3, "words"):
        raise KeyboardInterrupt
    assert not finished.record.exists()


def test_the_record_holds_fingerprint_sizes_cost_and_notes(tmp_path: Path) -> None:
    step = copy_step(tmp_path)
    with step.run(3, "words") as work:
        step.outputs[0].write_text("abc", encoding="ascii")
        work.notes["failures"] = ["d"]
    record = read_record(tmp_path / "words.json")
    assert record.pop("seconds") >= 0
    assert record.pop("peak_memory_mib") > 0
    assert record == {
        "fingerprint": step.fingerprint,
        "bytes": [3, None],
        "checksums": {"words.txt": "3:352441c2"},
        "stage": "copy words",
        "count": 3,
        "failures": ["d"],
    }


def test_a_record_of_an_older_version_without_its_cost_is_told(tmp_path: Path) -> None:
    write_json(tmp_path / "words.json", {"stage": "copy words", "count": 3})
    with pytest.raises(DamagedFileError, match=r"words\.json is damaged"):
        sum_costs([tmp_path / "words.json"])


def test_a_record_may_lie_elsewhere(tmp_path: Path) -> None:
    step = Step.of("copy words", tmp_path / "words.txt", made_from=["a"], record=tmp_path / "elsewhere.json")
    run_step(step)
    assert step.record == tmp_path / "elsewhere.json"
    assert step.is_done()


def test_the_fingerprint_of_an_output_is_that_of_its_step(finished: Step, tmp_path: Path) -> None:
    assert fingerprint_of(tmp_path / "words.txt") == finished.fingerprint
    assert fingerprint_of(tmp_path / "other.txt") is None


def test_a_step_shows_its_progress_to_the_listener(tmp_path: Path) -> None:
    progress = RecordingProgress()
    with listen(progress):
        run_step(copy_step(tmp_path))
    [bar] = progress.bars
    assert (bar.title, bar.totals, bar.done, bar.closed) == ("copy words, words", [3], 3, True)


def test_a_runner_shows_one_step_as_one_bar_and_returns_its_result() -> None:
    progress = RecordingProgress()

    def count_words(text: str, *, extra: int) -> int:
        with current_progress().step("count words", 2, "words"):
            return len(text.split()) + extra

    assert ProcessRunner(progress).run(count_words, "a b", extra=1) == 3
    assert [bar.title for bar in progress.bars] == ["count words, words"]


def test_a_runner_shows_one_bar_for_each_step_of_all_shards() -> None:
    progress, order = RecordingProgress(), []

    def read(shard: int, text: str) -> None:
        order.append(f"read {shard} {text}")
        with current_progress().step("read", 4, "words") as bar:
            bar.advance(4)

    def write(shard: int, text: str) -> None:
        order.append(f"write {shard} {text}")
        with current_progress().step("write", 1, "files") as bar:
            bar.advance()

    ProcessRunner(progress).run_shards([0, 2], read, write, text="a")

    assert order == ["read 0 a", "read 2 a", "write 0 a", "write 2 a"]
    assert [(bar.title, bar.totals[-1], bar.done) for bar in progress.bars] == [
        ("read, words", 8, 8),
        ("write, files", 2, 2),
    ]
    assert all(bar.closed for bar in progress.bars)


def test_a_runner_shows_no_bar_for_shards_that_are_done() -> None:
    progress = RecordingProgress()
    ProcessRunner(progress).run_shards([0, 1], lambda shard: None)
    assert progress.bars == []


def test_a_runner_without_progress_shows_nothing_and_runs_the_shards() -> None:
    seen = []

    def note(shard: int) -> None:
        with current_progress().step("note", 1, "shards") as bar:
            bar.advance()
            seen.append(shard)

    ProcessRunner().run_shards([3, 1], note)
    assert seen == [3, 1]


def share(progress: RecordingProgress, shards: int, totals: list[int]) -> Bar:
    with SharedProgress(progress, shards) as shared:
        for total in totals:
            with shared.step("describe", total, "images") as bar:
                bar.advance(total)
    [bar] = progress.bars
    return bar


def test_the_total_of_shared_progress_is_extrapolated_from_the_shards_seen_and_ends_exactly() -> None:
    bar = share(RecordingProgress(), 3, [10, 20, 3])
    assert bar.totals == [30, 45, 33, 33]
    assert bar.done == 33


def test_the_total_of_shared_progress_ends_exactly_if_shards_were_done_already() -> None:
    bar = share(RecordingProgress(), 4, [10])
    assert bar.totals == [40, 10]


def test_shared_progress_of_a_step_that_fails_closes_its_bar_where_it_stood() -> None:
    progress = RecordingProgress()
    with (
        pytest.raises(ValueError, match="broken"),
        SharedProgress(progress, 4) as shared,
        shared.step("describe", 10, "images"),
    ):
        raise ValueError("broken")
    assert progress.bars[0].totals == [40]


def test_without_a_listener_progress_is_silent() -> None:
    assert isinstance(current_progress(), SilentProgress)


def test_the_innermost_listener_is_the_current_one() -> None:
    outer, inner = RecordingProgress(), RecordingProgress()
    with listen(outer):
        with listen(inner):
            assert current_progress() is inner
        assert current_progress() is outer
    assert isinstance(current_progress(), SilentProgress)


def test_a_listener_stops_listening_when_its_block_fails() -> None:
    with pytest.raises(ValueError, match="broken"), listen(RecordingProgress()):
        raise ValueError("broken")
    assert isinstance(current_progress(), SilentProgress)
