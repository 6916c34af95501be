"""Which failures of a stage are worth another attempt."""

from __future__ import annotations

import errno
from typing import Any

import pytest
import torch
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError
from prefect.cache_policies import NO_CACHE
from s3fs.core import S3_RETRYABLE_ERRORS
from s3fs.errors import translate_boto_error

from copytrace.errors import CopytraceError, InputError, StorageError, TooManyFailuresError
from tasks.image_steps import IMAGE_STEPS
from tasks.step_task import is_transient, step_task, transient_errors
from tasks.video_steps import VIDEO_STEPS


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
    assert is_transient(error)


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
    assert not is_transient(error)


def answered(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


@pytest.mark.parametrize(
    ("code", "status"),
    [("SlowDown", 503), ("InternalError", 500), ("ServiceUnavailable", 503), ("TooManyRequests", 429), ("502", 502)],
)
def test_a_store_that_is_busy_or_broken_is_asked_again(code: str, status: int) -> None:
    error = answered(code, status)
    assert is_transient(error)
    assert is_transient(translate_boto_error(error))
    told = StorageError("s3://bucket cannot be reached (OSError); check the address, the credentials and the network")
    told.__cause__ = translate_boto_error(error)
    assert is_transient(told)


@pytest.mark.parametrize(("code", "status"), [("AccessDenied", 403), ("NoSuchBucket", 404), ("InvalidRequest", 400)])
def test_a_store_that_refuses_is_not_asked_again(code: str, status: int) -> None:
    error = answered(code, status)
    assert not is_transient(error)
    assert not is_transient(translate_boto_error(error))


def test_whatever_s3fs_itself_tries_again_is_tried_again() -> None:
    assert all(issubclass(kind, transient_errors()) for kind in S3_RETRYABLE_ERRORS)


def test_a_gpu_that_is_full_is_told_in_one_line_with_its_cure() -> None:
    @step_task("train")
    def train() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has …")

    with pytest.raises(CopytraceError, match="the GPU ran out of memory; stop what else runs on it, or make batches"):
        train.fn()


def test_other_errors_of_a_stage_stay_what_they_are() -> None:
    @step_task("train")
    def train() -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train.fn()


@pytest.mark.parametrize("step", [*IMAGE_STEPS.values(), *VIDEO_STEPS.values()], ids=lambda step: step.name)
def test_prefect_neither_hashes_the_arguments_of_a_step_nor_stores_its_result(step: Any) -> None:
    assert step.cache_policy is NO_CACHE
    assert step.persist_result is False
