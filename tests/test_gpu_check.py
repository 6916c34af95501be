"""The check of GPUs on a machine without one: its cheap checks, and that it tells what differs or is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_check import Finding, Target, UnavailableError, all_checks, run_checks

CHEAP = ("pair classifier", "too little memory", "search of frames", "search of points")


def test_checks_of_the_cpu_agree_with_it(tmp_path: Path) -> None:
    rows = run_checks(Target("cpu", tmp_path), {name: all_checks()[name] for name in CHEAP})
    judged = {row.name: row.figures["result"] for row in rows if row.figures["result"]}
    assert judged == dict.fromkeys(CHEAP, "same") | {"too little memory": "skipped: no CUDA device"}


def test_what_differs_fails_or_is_missing_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    def wrong(target: Target) -> Iterator[Finding]:
        yield Finding("a cosine", 0.2, least=0.999)
        yield Finding("no number", float("nan"), most=1.0)
        yield Finding("a speed", 3.0)

    def broken(target: Target) -> Iterator[Finding]:
        raise RuntimeError("CUDA error:\nan illegal access")

    def absent(target: Target) -> Iterator[Finding]:
        raise UnavailableError("faiss-gpu is not installed")

    rows = run_checks(Target("cpu", tmp_path), {"wrong": wrong, "broken": broken, "absent": absent})
    assert [row.figures["result"] for row in rows] == [
        "DIFFERENT",
        "DIFFERENT",
        "",
        "FAILED: RuntimeError: CUDA error: an illegal access",
        "skipped: faiss-gpu is not installed",
    ]


@pytest.mark.parametrize(("found", "code"), [(0.5, 1), (1.0, 0)])
def test_the_exit_code_tells_whether_all_agrees(
    found: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "all_checks", lambda: {"one": lambda target: [Finding("a", found, least=0.9)]})
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(device="cpu", out=tmp_path / "table.md")
    assert ended.value.code == code
    assert f"| one | a | {found:.3f} | at least 0.9 |" in (tmp_path / "table.md").read_text().replace("1.00 ", "1.000 ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_counts_as_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    assert ended.value.code == 2
    assert "torch finds no CUDA device here, so nothing was checked" in capsys.readouterr().out
