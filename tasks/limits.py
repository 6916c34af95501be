"""Limits: how many stages use a GPU, or the cores, at once, over all the runs of a Prefect server.

The server counts in two global concurrency limits, which `copytrace setup` makes. A stage holds a slot only while it
works, so one run's decoding, points and scores never keep the GPU from another run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from copytrace.runtime.devices import uses_cuda

GPU = "copytrace-gpu"
"""One slot per GPU."""

CPU = "copytrace-cpu"
"""One slot per stage that may use the cores at a time."""

LOGGED_WAIT = 1.0
"""Seconds of waiting for a slot."""


@dataclass(frozen=True, slots=True)
class Slots:
    """So many slots of a limit."""

    limit: str
    count: int = 1


SlotRule = Callable[[Any], Slots]
"""Says from a stage's settings which slots it needs."""


def cpu_slots(settings: object) -> Slots:
    """Slots of a stage that never needs a GPU for long.

    Among them is the detector of pasted pictures: it looks at one at a time, and a GPU idles while they are decoded.
    """
    return Slots(CPU)


def descriptor_slots(settings: ImageSettings | VideoSettings) -> Slots:
    """Slots of a stage that describes."""
    return Slots(GPU if uses_cuda(settings.descriptor.backend, settings.descriptor.device) else CPU)


def aligner_slots(settings: VideoSettings) -> Slots:
    """Slots of a stage that aligns: networks run where the descriptor does, lines are sought on the CPU."""
    networks = settings.alignment.aligner == "network" or settings.alignment.pair_filter != "none"
    return descriptor_slots(settings) if networks else Slots(CPU)


def training_slots(settings: DescriptorTraining | OverlayTraining | AlignerTraining | PairTraining) -> Slots:
    """Slots of a training: as many GPUs as it trains on."""
    return Slots(GPU, settings.loop.devices) if uses_cuda("torch", settings.loop.device) else Slots(CPU)


@contextmanager
def hold_slots(slots: Slots) -> Iterator[None]:
    """Hold slots in the block; a server without that limit, or no task run at all, holds nobody up."""
    most = _limit_size(slots.limit, PREFECT_API_URL.value() or "") if TaskRunContext.get() else 0
    if not most:
        yield
        return
    begin = time.monotonic()
    # Work of hours goes on when the server could not be told in time that the slot is still in use.
    with concurrency(slots.limit, min(slots.count, most), strict=False, raise_on_lease_renewal_failure=False):
        if (waited := time.monotonic() - begin) > LOGGED_WAIT:
            get_run_logger().info("waited %.0f s for a slot of %s", waited, slots.limit)
        yield


@lru_cache
def _limit_size(limit: str, server: str) -> int:
    """Slots of a limit on that server, 0 without one; asked once per process, as Prefect warns of each missing one."""
    with get_client(sync_client=True) as client:
        try:
            found = client.read_global_concurrency_limit_by_name(limit)
        except ObjectNotFound:
            return 0
    return found.limit if found.active else 0
