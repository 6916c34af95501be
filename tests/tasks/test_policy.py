"""Which failures of a stage are worth another attempt."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError
from prefect.cache_policies import NO_CACHE

from copytrace.errors import CopytraceError, InputError, TooManyFailuresError
from tasks.describe import describe
from tasks.ingest import ingest
from tasks.merge import merge
from tasks.policy import is_passing
from tasks.score import score


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("peer went away"),
        TimeoutError(),
        OSError(errno.EIO, "the disk did not answer"),
        OSError(errno.ESTALE, "the file server restarted"),
        ConnectTimeoutError(endpoint_url="s3://bucket"),
        EndpointConnectionError(endpoint_url="s3://bucket"),
    ],
)
def test_what_may_be_gone_next_time_is_tried_again(error: Exception) -> None:
    assert is_passing(error)


@pytest.mark.parametrize(
    "error",
    [
        CopytraceError("any"),
        InputError("no such folder"),
        TooManyFailuresError("60 of 100"),
        FileNotFoundError(errno.ENOENT, "no such file"),
        PermissionError(errno.EACCES, "not yours"),
        OSError(errno.ENOSPC, "the disk is full"),
        ValueError("a bug"),
        MemoryError(),
        None,
    ],
)
def test_what_stays_is_not_tried_again(error: Exception | None) -> None:
    assert not is_passing(error)


@pytest.mark.parametrize("stage", [ingest, describe, score, merge], ids=lambda stage: stage.name)
def test_prefect_neither_hashes_the_arguments_of_a_stage_nor_stores_its_result(stage: Any) -> None:
    assert stage.cache_policy is NO_CACHE
    assert stage.persist_result is False
