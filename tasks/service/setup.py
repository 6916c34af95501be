"""What must be on Prefect's server before a run: pools, their queues, limits, and the watch over runs.

It is done in two steps, so that what would change can be seen first: `plan` compares what is wanted with what was
found, and `apply` does it. What people have changed by hand is left: the defaults in a pool's template, queues, and
limits that are not given anew.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Literal

from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.events.schemas.automations import Automation, AutomationCore

from copytrace.errors import CopytraceError
from tasks.service.pool_templates import Template, container_template, process_template, updated
from tasks.service.run_watch import watches
from tasks.storage_access import S3Access

CPU_POOL, GPU_POOL = "cpu", "gpu-a100"
KUBERNETES_POOL, DOCKER_POOL = "kubernetes-gpu", "docker-gpu"


class SetupError(CopytraceError):
    """The server does not answer, or has something of our names that is something else."""


@dataclass(frozen=True)
class Slots:
    """How many at once; `asked` if that is what the user wants now, else it is only what to begin with."""

    count: int
    asked: bool = False


@dataclass(frozen=True)
class Pool:
    """A work pool; without `slots`, workers alone decide how much runs."""

    name: str
    kind: str
    template: Template = field(hash=False)
    slots: Slots | None = None


@dataclass(frozen=True)
class Queue:
    """A queue of a pool: of lower `priority` number is served first."""

    pool: str
    name: str
    priority: int
    limit: int | None = None


@dataclass(frozen=True)
class Limit:
    """A global concurrency limit."""

    name: str
    slots: Slots


@dataclass(frozen=True)
class BlockType:
    """A kind of block, which people then fill in on the server's pages."""

    block: type[Block]

    @property
    def slug(self) -> str:
        """What the server knows it by."""
        return self.block.get_block_type_slug()


Thing = Pool | Queue | Limit | BlockType | AutomationCore


@dataclass(frozen=True)
class Found:
    """What the server has of it now, by name."""

    pools: dict[str, Pool] = field(default_factory=dict)
    queues: dict[tuple[str, str], Queue] = field(default_factory=dict)
    limits: dict[str, Limit] = field(default_factory=dict)
    blocks: set[str] = field(default_factory=set)
    watches: dict[str, Automation] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One thing to make or to change, and in words which."""

    verb: Literal["create", "update"]
    thing: Thing = field(hash=False)
    line: str


def wanted(
    *, gpus: int | None = None, cpus: int | None = None, kubernetes: bool = False, docker: bool = False
) -> list[Thing]:
    """Return all that the deployments count on.

    `gpus` runs at once share the GPUs, and `cpus` stages the CPUs. Where they are not given, what is set up stays, or
    it begins with one run, and a stage per core of this machine. Pools whose runs are containers are made on request.
    """
    on_gpu = Slots(gpus or 1, asked=gpus is not None)
    on_cpu = Slots(cpus or os.cpu_count() or 1, asked=cpus is not None)
    pools = [Pool(CPU_POOL, "process", process_template()), Pool(GPU_POOL, "process", process_template(), on_gpu)]
    if kubernetes:
        pools.append(Pool(KUBERNETES_POOL, "kubernetes", container_template(KUBERNETES_POOL), on_gpu))
    if docker:
        pools.append(Pool(DOCKER_POOL, "docker", container_template(DOCKER_POOL), on_gpu))
    queues = [
        queue for pool in pools for queue in (Queue(pool.name, "matching", 1), Queue(pool.name, "training", 2, 1))
    ]
    limits = [Limit("copytrace-gpu", on_gpu), Limit("copytrace-cpu", on_cpu)]
    return [*pools, *queues, *limits, BlockType(S3Access), *watches()]


def plan(things: list[Thing], found: Found) -> list[Step]:
    """Return what is to be done for `things` to be there; nothing, where they are. Raises `SetupError`."""
    steps = []
    for thing in things:
        match thing:
            case Pool():
                step = _pool_step(thing, found.pools.get(thing.name))
            case Queue():
                known = (thing.pool, thing.name) in found.queues
                step = None if known else Step("create", thing, f"queue {thing.name} of work pool {thing.pool}")
            case Limit():
                step = _limit_step(thing, found.limits.get(thing.name))
            case BlockType():
                step = None if thing.slug in found.blocks else Step("create", thing, f"block type {thing.slug}")
            case AutomationCore():
                step = _watch_step(thing, found.watches.get(thing.name))
        steps += [step] if step else []
    return steps


def _pool_step(pool: Pool, there: Pool | None) -> Step | None:
    if there is None:
        return Step("create", pool, f"work pool {pool.name} of type {pool.kind}")
    if there.kind != pool.kind:
        raise SetupError(
            f"there is a work pool {pool.name} already, of type {there.kind} and not {pool.kind}: "
            f"prefect work-pool delete {pool.name}, and run this again"
        )
    template, slots = updated(there.template, pool.template), _slots(pool.slots, there.slots)
    changed = [part for part, new in (("template", template != there.template), ("limit", slots != there.slots)) if new]
    done = Pool(pool.name, pool.kind, template, slots)
    return Step("update", done, f"{' and '.join(changed)} of work pool {pool.name}") if changed else None


def _limit_step(limit: Limit, there: Limit | None) -> Step | None:
    if there is None:
        return Step("create", limit, f"limit {limit.name} of {limit.slots.count}")
    if _slots(limit.slots, there.slots) == there.slots:
        return None
    return Step("update", limit, f"limit {limit.name} to {limit.slots.count}")


def _slots(slots: Slots | None, there: Slots | None) -> Slots | None:
    return Slots(slots.count) if slots and slots.asked else there


def _watch_step(watch: AutomationCore, there: Automation | None) -> Step | None:
    if there is None:
        return Step("create", watch, f"automation {watch.name!r}")
    if (there.trigger, there.actions, there.description) == (watch.trigger, watch.actions, watch.description):
        return None
    kept = watch.model_copy(update={"enabled": there.enabled})
    return Step("update", Automation(id=there.id, **dict(kept)), f"automation {watch.name!r}")


def find(client: SyncPrefectClient, things: list[Thing]) -> Found:
    """Ask the server what it has under the names of `things`."""
    pools = {
        pool.name: Pool(pool.name, pool.type, pool.base_job_template, _known(pool.concurrency_limit))
        for pool in client.read_work_pools()
    }
    queues = {
        (pool, queue.name): Queue(pool, queue.name, queue.priority or 0, queue.concurrency_limit)
        for pool in {thing.pool for thing in things if isinstance(thing, Queue)} & pools.keys()
        for queue in client.read_work_queues(work_pool_name=pool)
    }
    limits = {
        limit.name: Limit(limit.name, Slots(limit.limit)) for limit in client.read_global_concurrency_limits(limit=200)
    }
    found = {
        watch.name: there[0]
        for watch in things
        if isinstance(watch, AutomationCore) and (there := client.read_automations_by_name(watch.name))
    }
    blocks = {block.slug for block in client.read_block_types()}
    return Found(pools, queues, limits, blocks, found)


def _known(limit: int | None) -> Slots | None:
    return None if limit is None else Slots(limit)


def apply(client: SyncPrefectClient, step: Step) -> None:
    """Do one step."""
    new = step.verb == "create"
    match step.thing:
        case Pool(name, kind, template, slots):
            values: dict[str, Any] = {
                "base_job_template": template,
                "concurrency_limit": slots.count if slots else None,
            }
            if new:
                client.create_work_pool(WorkPoolCreate(name=name, type=kind, **values))
            else:
                client.update_work_pool(name, WorkPoolUpdate(**values))
        case Queue(pool, name, priority, limit):
            client.create_work_queue(name, work_pool_name=pool, priority=priority, concurrency_limit=limit)
        case Limit(name, slots) if new:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=slots.count))
        case Limit(name, slots):
            client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=slots.count))
        case BlockType(block):
            block.register_type_and_schema()
        case Automation(id=known) as watch:
            client.update_automation(known, AutomationCore(**watch.model_dump(exclude={"id"})))
        case AutomationCore() as watch:
            client.create_automation(watch)


def set_up(client: SyncPrefectClient, things: list[Thing]) -> list[Step]:
    """Make what of `things` is missing or differs, and return what that was. Raises `SetupError`."""
    steps = plan(things, find(client, things))
    for step in steps:
        apply(client, step)
    return steps
