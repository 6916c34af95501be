"""What works on shards, as a command line and a run's parameters may ask for it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from configs.runner import ONE_SHARD_AT_A_TIME, Runner


@pytest.mark.parametrize(
    ("text", "runner"),
    [
        ("threads", ONE_SHARD_AT_A_TIME),
        ("threads:2", Runner(workers=2)),
        ("dask:4", Runner(kind="dask", workers=4)),
        ("tcp://dask:8786", Runner(kind="dask", address="tcp://dask:8786")),
    ],
)
def test_a_command_line_names_a_runner_in_a_word(text: str, runner: Runner) -> None:
    assert Runner.parse(text) == runner


@pytest.mark.parametrize("text", ["", "thread", "threads:", "threads:0", "dask:many", "http://dask:8786", "dask:999"])
def test_what_is_no_runner_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Runner.parse(text)


@pytest.mark.parametrize("wrong", [{"kind": "threads"}, {"kind": "dask", "workers": 2}])
def test_an_address_is_of_dask_and_its_workers_are_its_own(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="address names a Dask scheduler with its own workers"):
        Runner.model_validate({**wrong, "address": "tcp://dask:8786"})
