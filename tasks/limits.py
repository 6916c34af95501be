"""Limits on how many steps use the GPUs, or the CPU cores, at once, over all runs of a Prefect server.

The server counts slots in two global concurrency limits, which `copytrace setup` creates. A step holds its slot only
while it works, so the GPU is free for another run while one run finds overlays, recalls or scores pairs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.context import TaskRunContext
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL

from configs.images import ImageSettings
from configs.training import AlignerTraining, DescriptorTraining, OverlayTraining, PairTraining
from configs.videos import VideoSettings
from copytrace.runtime import uses_cuda
from tasks.patience import is_away, wait_for_server

GPU = "copytrace-gpu"
"""One slot per GPU."""

CPU = "copytrace-cpu"
"""One slot per step that may use the CPU cores at once."""

LOGGED_WAIT = 1.0
"""Seconds of waiting for a slot from which on the wait is logged."""


@dataclass(frozen=True, slots=True)
class Slots:
    """A number of slots of a limit."""

    limit: str
    count: int = 1


SlotRule = Callable[[Any], Slots]
"""Function that returns the slots that a step with these settings needs."""


def cpu_slots(settings: object) -> Slots:
    """Return the slots of a step that hardly uses a GPU.

    Overlay detection is such a step: it takes one image at a time, and a GPU idles while images are decoded.
    """
    return Slots(CPU)


def descriptor_slots(settings: ImageSettings | VideoSettings) -> Slots:
    """Return the slots of a step that runs the descriptor."""
    return Slots(GPU if uses_cuda(settings.descriptor.backend, settings.descriptor.device) else CPU)


def aligner_slots(settings: VideoSettings) -> Slots:
    """Return the slots of alignment: networks run on the descriptor's device, line detectors on the CPU."""
    networks = settings.alignment.aligner == "network" or settings.alignment.pair_filter != "none"
    return descriptor_slots(settings) if networks else Slots(CPU)


def training_slots(settings: DescriptorTraining | OverlayTraining | AlignerTraining | PairTraining) -> Slots:
    """Return the slots of a training: one per GPU that it uses."""
    return Slots(GPU, settings.loop.devices) if uses_cuda("torch", settings.loop.device) else Slots(CPU)


@contextmanager
def hold_slots(slots: Slots) -> Iterator[None]:
    """Hold slots in the block; outside of a task run, or if the server has no such limit, do nothing.

    A server that is away is waited for, and slots that cannot be given back to it run out after five minutes.
    """
    server = PREFECT_API_URL.value() or ""
    most = wait_for_server(lambda: _limit_size(slots.limit, server)) if TaskRunContext.get() else 0
    if not most:
        yield
        return
    begin = time.monotonic()
    held = wait_for_server(lambda: _take(slots.limit, min(slots.count, most)))
    if (waited := time.monotonic() - begin) > LOGGED_WAIT:
        get_run_logger().info("waited %.0f s for a slot of %s", waited, slots.limit)
    try:
        yield
    finally:
        try:
            held.__exit__(*sys.exc_info())
        except Exception as error:
            if not is_away(error):
                raise
            get_run_logger().warning("a slot of %s could not be given back: %s", slots.limit, type(error).__name__)


def _take(limit: str, count: int) -> AbstractContextManager[None]:
    # A lease that could not be renewed in time must not end hours of work.
    taken = concurrency(limit, count, strict=False, raise_on_lease_renewal_failure=False)
    taken.__enter__()
    return taken


@lru_cache
def _limit_size(limit: str, server: str) -> int:
    """Return the number of slots of a limit on that server, 0 if there is none.

    The result is cached, because Prefect logs a warning for each request of a missing limit.
    """
    with get_client(sync_client=True) as client:
        try:
            found = client.read_global_concurrency_limit_by_name(limit)
        except ObjectNotFound:
            return 0
    return found.limit if found.active else 0
