"""A run during which each server of the stack is restarted in turn ends well, with the bytes of an undisturbed one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import cv2
import httpx
import pytest
import s3fs
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun

from tasks.service.stack import Stack
from tests.integration.test_stack import IMAGES

SECONDS = 1200.0  # on a machine that is busy besides
PHOTOS = 24
SETTINGS = {**IMAGES, "media": {"shard_size": 1}}
PARTS = ("descriptors", "points", "thumbnails", "segments")


@pytest.fixture
def store(stack: Stack) -> s3fs.S3FileSystem:
    """The stack's object store, whose listings are not kept."""
    return s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)


def start(prefect: SyncPrefectClient, stack: Stack, name: str) -> UUID:
    deployment = prefect.read_deployment_by_name("index-images/cpu")
    asked = {"references": f"s3://{stack.bucket}/restarts/photos", "out": f"s3://{stack.bucket}/restarts/{name}"}
    return prefect.create_flow_run_from_deployment(deployment.id, parameters={**asked, "overrides": SETTINGS}).id


def wait(prefect: SyncPrefectClient, run: UUID) -> FlowRun:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            state = prefect.read_flow_run(run)
        except httpx.HTTPError:
            assert time.monotonic() < deadline
            continue
        if state.state is not None and state.state.is_final():
            return state
        assert time.monotonic() < deadline, state
        time.sleep(1)


def content(store: s3fs.S3FileSystem, place: str) -> dict[str, bytes]:
    return {
        path.removeprefix(place): store.cat_file(path)
        for part in PARTS
        for path in store.find(f"{place}/{part}")
        if not path.endswith(".json")
    }


def test_a_run_goes_on_while_each_server_is_restarted(
    stack: Stack, prefect: SyncPrefectClient, store: s3fs.S3FileSystem, photos: Mapping[str, Any]
) -> None:
    place = f"{stack.bucket}/restarts"
    for number in range(PHOTOS):
        _, packed = cv2.imencode(".png", photos["astronaut"][number : number + 150, number : number + 200, ::-1])
        store.pipe_file(f"{place}/photos/{number:02}.png", packed.tobytes())
    run = start(prefect, stack, "index")
    done = 0
    for name in ("PostgreSQL", "SeaweedFS", "Prefect's server", "MLflow"):
        [server] = [process for process in stack.processes if process.name == name]
        deadline = time.monotonic() + SECONDS
        while len(finished := store.glob(f"{place}/index/receipts/*.json")) <= done:
            assert time.monotonic() < deadline, name
            time.sleep(0.2)
        done = len(finished)
        assert done < PHOTOS, f"the run was too fast to be there when {name} is restarted"
        server.stop()
        server.start()
        server.wait()
        store.invalidate_cache()
    ended = wait(prefect, run)
    assert ended.state is not None and ended.state.is_completed(), ended.state
    ended = wait(prefect, start(prefect, stack, "quiet"))
    assert ended.state is not None and ended.state.is_completed(), ended.state
    of_quiet = content(store, f"{place}/quiet")
    assert len(of_quiet) > 3 * PHOTOS
    assert content(store, f"{place}/index") == of_quiet
