"""Progress outside of a run of Prefect."""

from __future__ import annotations

import logging

import pytest

from tasks.progress import ArtifactProgress


def test_a_stage_outside_a_run_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), ArtifactProgress("00003").step("describe references", 2000, "images") as step:
        for _ in range(20):
            step.advance(100)
    [line] = [record.getMessage() for record in caplog.records if record.name == "tasks.progress"]
    assert line.startswith("describe references 00003: 2,000 images in ")
    assert line.endswith(" a second")


def test_a_stage_that_fails_is_not_told_as_done(caplog: pytest.LogCaptureFixture) -> None:
    step = ArtifactProgress().step("recall local", 3, "queries")
    with caplog.at_level(logging.INFO), pytest.raises(ValueError, match="broken"), step:
        raise ValueError("broken")
    assert not [record for record in caplog.records if record.name == "tasks.progress"]
