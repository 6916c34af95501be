"""Set-up of Prefect's server: the work pools, queues, limits and block types that runs need.

`plan_changes` compares the required resources with the server's state, and `apply_change` makes one change. Edits that
people made by hand are kept: the defaults in a pool's template, the queues, and every limit that is not requested.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)

from copytrace.errors import CopytraceError
from tasks.service.pool_templates import Template, container_template, process_template, update_template
from tasks.storage_access import S3Access

CPU_POOL, GPU_POOL = "cpu", "gpu-a100"
KUBERNETES_POOL, DOCKER_POOL = "kubernetes-gpu", "docker-gpu"
_OLD_AUTOMATIONS = ("copytrace: runs whose worker died", "copytrace: runs that never began")


class SetupError(CopytraceError):
    """The server does not answer, or one of our names is taken by a resource of another type."""


@dataclass(frozen=True)
class SlotCount:
    """A number of slots; unless the user requested it, it is only the initial value."""

    count: int
    is_requested: bool = False


@dataclass(frozen=True)
class Pool:
    """A work pool; without `slots`, only its workers limit how many runs it has at once."""

    name: str
    kind: str
    template: Template = field(hash=False)
    slots: SlotCount | None = None


@dataclass(frozen=True)
class Queue:
    """A queue of a pool; the queue with the lowest `priority` number is served first."""

    pool: str
    name: str
    priority: int
    limit: int | None = None


@dataclass(frozen=True)
class Limit:
    """A global concurrency limit."""

    name: str
    slots: SlotCount


@dataclass(frozen=True)
class BlockType:
    """A type of block; people create blocks of it in Prefect's UI."""

    block: type[Block]

    @property
    def slug(self) -> str:
        """The block type's identifier on the server."""
        return self.block.get_block_type_slug()


@dataclass(frozen=True)
class OldAutomation:
    """An automation of earlier versions, which crashed healthy runs; `copytrace watch` does its work now."""

    name: str


Resource = Pool | Queue | Limit | BlockType | OldAutomation


@dataclass(frozen=True)
class ServerState:
    """The resources that the server has now, by name."""

    pools: dict[str, Pool] = field(default_factory=dict)
    queues: dict[tuple[str, str], Queue] = field(default_factory=dict)
    limits: dict[str, Limit] = field(default_factory=dict)
    blocks: set[str] = field(default_factory=set)
    automations: dict[str, list[UUID]] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """One resource to create, update or delete, and its description in one line."""

    verb: Literal["create", "update", "delete"]
    resource: Resource = field(hash=False)
    line: str


def required_resources(
    *, gpus: int | None = None, cpus: int | None = None, kubernetes: bool = False, docker: bool = False
) -> list[Resource]:
    """Return the resources that the deployments need.

    At most `gpus` runs use the GPUs at once, and at most `cpus` steps the CPUs. A limit that is not given keeps the
    server's value; on a new server it is one run, or one step per core of this machine. The pools whose runs are
    containers are included on request.
    """
    on_gpu = SlotCount(gpus or 1, is_requested=gpus is not None)
    on_cpu = SlotCount(cpus or os.cpu_count() or 1, is_requested=cpus is not None)
    pools = [Pool(CPU_POOL, "process", process_template()), Pool(GPU_POOL, "process", process_template(), on_gpu)]
    if kubernetes:
        pools.append(Pool(KUBERNETES_POOL, "kubernetes", container_template(KUBERNETES_POOL), on_gpu))
    if docker:
        pools.append(Pool(DOCKER_POOL, "docker", container_template(DOCKER_POOL), on_gpu))
    queues = [
        queue for pool in pools for queue in (Queue(pool.name, "matching", 1), Queue(pool.name, "training", 2, 1))
    ]
    limits = [Limit("copytrace-gpu", on_gpu), Limit("copytrace-cpu", on_cpu)]
    return [*pools, *queues, *limits, BlockType(S3Access), *map(OldAutomation, _OLD_AUTOMATIONS)]


def plan_changes(resources: list[Resource], state: ServerState) -> list[Change]:
    """Return the changes after which the server has `resources`. Raises `SetupError`."""
    changes = []
    for resource in resources:
        match resource:
            case Pool():
                change = _pool_change(resource, state.pools.get(resource.name))
            case Queue():
                line = f"queue {resource.name} of work pool {resource.pool}"
                exists = (resource.pool, resource.name) in state.queues
                change = None if exists else Change("create", resource, line)
            case Limit():
                change = _limit_change(resource, state.limits.get(resource.name))
            case BlockType():
                exists = resource.slug in state.blocks
                change = None if exists else Change("create", resource, f"block type {resource.slug}")
            case OldAutomation(name):
                line = f"automation {name!r}, whose work `copytrace watch` does: run that beside the server"
                change = Change("delete", resource, line) if state.automations.get(name) else None
        changes += [change] if change else []
    return changes


def _pool_change(pool: Pool, there: Pool | None) -> Change | None:
    if there is None:
        return Change("create", pool, f"work pool {pool.name} of type {pool.kind}")
    if there.kind != pool.kind:
        raise SetupError(
            f"there is a work pool {pool.name} already, of type {there.kind} and not {pool.kind}: "
            f"prefect work-pool delete {pool.name}, and run this again"
        )
    template, slots = update_template(there.template, pool.template), _choose_slots(pool.slots, there.slots)
    changed = [part for part, new in (("template", template != there.template), ("limit", slots != there.slots)) if new]
    done = Pool(pool.name, pool.kind, template, slots)
    return Change("update", done, f"{' and '.join(changed)} of work pool {pool.name}") if changed else None


def _limit_change(limit: Limit, there: Limit | None) -> Change | None:
    if there is None:
        return Change("create", limit, f"limit {limit.name} of {limit.slots.count}")
    if _choose_slots(limit.slots, there.slots) == there.slots:
        return None
    return Change("update", limit, f"limit {limit.name} to {limit.slots.count}")


def _choose_slots(slots: SlotCount | None, there: SlotCount | None) -> SlotCount | None:
    return SlotCount(slots.count) if slots and slots.is_requested else there


def read_server_state(client: SyncPrefectClient, resources: list[Resource]) -> ServerState:
    """Return what the server has under the names of `resources`."""
    pools = {
        pool.name: Pool(pool.name, pool.type, pool.base_job_template, _slot_count(pool.concurrency_limit))
        for pool in client.read_work_pools()
    }
    queues = {
        (pool, queue.name): Queue(pool, queue.name, queue.priority or 0, queue.concurrency_limit)
        for pool in {resource.pool for resource in resources if isinstance(resource, Queue)} & pools.keys()
        for queue in client.read_work_queues(work_pool_name=pool)
    }
    limits = {
        limit.name: Limit(limit.name, SlotCount(limit.limit))
        for limit in client.read_global_concurrency_limits(limit=200)
    }
    automations = {
        resource.name: [automation.id for automation in client.read_automations_by_name(resource.name)]
        for resource in resources
        if isinstance(resource, OldAutomation)
    }
    blocks = {block.slug for block in client.read_block_types()}
    return ServerState(pools, queues, limits, blocks, automations)


def _slot_count(limit: int | None) -> SlotCount | None:
    return None if limit is None else SlotCount(limit)


def apply_change(client: SyncPrefectClient, change: Change) -> None:
    """Create, update or delete one resource on the server."""
    new = change.verb == "create"
    match change.resource:
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
        case OldAutomation(name):
            for automation in client.read_automations_by_name(name):
                client.delete_automation(automation.id)


def set_up(client: SyncPrefectClient, resources: list[Resource]) -> list[Change]:
    """Make the changes after which the server has `resources`, and return them. Raises `SetupError`."""
    changes = plan_changes(resources, read_server_state(client, resources))
    for change in changes:
        apply_change(client, change)
    return changes
