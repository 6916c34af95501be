"""Global concurrency limits on a real Prefect server: who waits for whom, and who for nobody."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client

from configs.images import ImageSettings
from configs.runner import Runner
from tasks import limits
from tasks.limits import CPU, GPU, cpu_slots, descriptor_slots
from tasks.runners import run_on
from tasks.step_task import step_task

ON_CUDA = ImageSettings.model_validate({"descriptor": {"backend": "torch", "device": "cuda:0"}})
SECONDS_TO_MEET = 500
"""A SQLite server that is locked answers 503, and Prefect asks again after two seconds, and four, and so on."""


@pytest.fixture
def no_limits(prefect_server: str) -> Iterator[None]:
    limits._limit_size.cache_clear()
    yield
    limits._limit_size.cache_clear()


@pytest.fixture
def one_gpu(no_limits: None) -> Iterator[None]:
    """One slot for GPU stages, and three for CPU stages."""
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(GPU, 1)
        client.upsert_global_concurrency_limit_by_name(CPU, 3)
        yield
        for name in (GPU, CPU):
            client.delete_global_concurrency_limit_by_name(name)


def slots_taken(name: str) -> int:
    with get_client(sync_client=True) as client:
        return int(client.read_global_concurrency_limit_by_name(name).active_slots)


@step_task("look", descriptor_slots)
def look(settings: ImageSettings) -> tuple[int, int]:
    return slots_taken(GPU), slots_taken(CPU)


@step_task("fail", descriptor_slots)
def fail(settings: ImageSettings) -> None:
    raise ValueError("broken")


@flow
def alone(stage: Any, settings: ImageSettings) -> Any:
    return stage(settings)


def test_a_stage_on_the_gpu_holds_its_slot_only_while_it_works(one_gpu: None) -> None:
    assert alone(look, ON_CUDA) == (1, 0)
    assert (slots_taken(GPU), slots_taken(CPU)) == (0, 0)


def test_without_a_gpu_the_same_stage_takes_the_cores(one_gpu: None) -> None:
    on_cpu = ImageSettings.model_validate({"descriptor": {"device": "cpu"}})
    assert alone(look, on_cpu) == (0, 1)


def test_a_stage_that_fails_gives_its_slot_back(one_gpu: None) -> None:
    with pytest.raises(ValueError, match="broken"):
        alone(fail, ON_CUDA)
    assert slots_taken(GPU) == 0


def test_two_shards_never_share_the_gpu_but_one_decodes_while_the_other_is_on_it(one_gpu: None) -> None:
    side_by_side = threading.Barrier(2)
    decoded: list[int] = []
    on_gpu: list[int] = []
    at_once: list[int] = []

    @step_task("decode {shard}", cpu_slots)
    def decode(shard: int, settings: ImageSettings) -> None:
        if shard == 1:
            side_by_side.wait(SECONDS_TO_MEET)
        decoded.append(shard)

    @step_task("network {shard}", descriptor_slots)
    def network(shard: int, settings: ImageSettings) -> None:
        on_gpu.append(shard)
        at_once.append(len(on_gpu))
        if shard == 0:
            side_by_side.wait(SECONDS_TO_MEET)
        time.sleep(0.2)
        on_gpu.remove(shard)

    @flow
    def run() -> None:
        with run_on(Runner(workers=2), {decode: decode, network: network}) as runner:
            runner.run_shards(range(3), decode, network, settings=ON_CUDA)

    run()

    assert (sorted(decoded), at_once) == ([0, 1, 2], [1, 1, 1])


@pytest.mark.usefixtures("no_limits")
def test_a_server_without_limits_holds_nobody_up_and_says_nothing_of_it(caplog: pytest.LogCaptureFixture) -> None:
    @step_task("nothing", cpu_slots)
    def nothing(settings: ImageSettings) -> str:
        return "done"

    with caplog.at_level(logging.DEBUG):
        assert alone(nothing, ON_CUDA) == "done"
    assert not told_of_limits(caplog.records)


def told_of_limits(records: Sequence[logging.LogRecord]) -> list[str]:
    return [record.getMessage() for record in records if "oncurrency limit" in record.getMessage()]


def test_a_training_on_more_gpus_than_there_are_slots_takes_them_all(one_gpu: None) -> None:
    @step_task("train", lambda settings: limits.Slots(GPU, 4))
    def train(settings: ImageSettings) -> int:
        return slots_taken(GPU)

    assert alone(train, ON_CUDA) == 1
