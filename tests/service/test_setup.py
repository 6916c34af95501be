"""What `copytrace setup` would do, from what is wanted and what is there."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tasks import limits
from tasks.service.pool_templates import merge_templates
from tasks.service.setup import (
    BlockType,
    Limit,
    Pool,
    Queue,
    Resource,
    ServerState,
    SetupError,
    SlotCount,
    plan_changes,
    required_resources,
)


def having(things: list[Resource]) -> ServerState:
    """What a server has after all of `things` were made on it."""
    found = ServerState()
    for thing in things:
        match thing:
            case Pool(name, kind, template, slots):
                found.pools[name] = Pool(name, kind, template, slots and SlotCount(slots.count))
            case Queue(pool, name):
                found.queues[pool, name] = thing
            case Limit(name, slots):
                found.limits[name] = Limit(name, SlotCount(slots.count))
            case BlockType():
                found.blocks.add(thing.slug)
    return found


def lines(things: list[Resource], found: ServerState) -> list[str]:
    return [f"{change.verb} {change.line}" for change in plan_changes(things, found)]


def test_an_empty_server_gets_all_of_it_pools_before_their_queues() -> None:
    assert lines(required_resources(cpus=8), ServerState()) == [
        "create work pool cpu of type process",
        "create work pool gpu-a100 of type process",
        "create queue matching of work pool cpu",
        "create queue training of work pool cpu",
        "create queue matching of work pool gpu-a100",
        "create queue training of work pool gpu-a100",
        "create limit copytrace-gpu of 1",
        "create limit copytrace-cpu of 8",
        "create block type s3-access",
    ]


def test_a_second_time_there_is_nothing_to_do() -> None:
    for things in (required_resources(), required_resources(gpus=4, cpus=8, kubernetes=True, docker=True)):
        assert lines(things, having(things)) == []


def test_a_limit_that_is_given_is_set_and_one_that_is_not_stays() -> None:
    there = having(required_resources(gpus=4, cpus=8))
    assert lines(required_resources(), there) == []
    assert lines(required_resources(gpus=2), there) == [
        "update limit of work pool gpu-a100",
        "update limit copytrace-gpu to 2",
    ]


def test_pools_of_containers_are_made_on_request_with_as_many_gpus() -> None:
    things = required_resources(gpus=4, kubernetes=True, docker=True)
    changes = plan_changes(things, having(required_resources(gpus=4)))
    assert {change.resource.name: change.resource.slots for change in changes if isinstance(change.resource, Pool)} == {
        "kubernetes-gpu": SlotCount(4, is_requested=True),
        "docker-gpu": SlotCount(4, is_requested=True),
    }


def test_a_template_that_changed_is_updated_and_keeps_what_was_added_by_hand() -> None:
    things, there = required_resources(), having(required_resources())
    by_hand = {"variables": {"properties": {"working_dir": {"default": "/srv/copytrace"}}}}
    chosen = merge_templates(there.pools["cpu"].template, by_hand)
    there.pools["cpu"] = Pool("cpu", "process", chosen)
    assert lines(things, there) == []

    rare = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "180"}
    older = {"job_configuration": {"command": "none"}, "variables": {"properties": {"env": {"default": rare}}}}
    there.pools["cpu"] = Pool("cpu", "process", merge_templates(chosen, older))
    [change] = plan_changes(things, there)
    assert change.line == "template of work pool cpu"
    assert isinstance(change.resource, Pool)
    assert change.resource.template == chosen


def test_queues_that_were_changed_by_hand_stay_so() -> None:
    there = having(required_resources())
    there.queues["cpu", "training"] = Queue("cpu", "training", 7, limit=3)
    assert lines(required_resources(), there) == []


def test_automations_of_an_earlier_version_are_deleted_and_the_line_says_what_replaces_them() -> None:
    there = having(required_resources())
    there.automations["copytrace: runs whose worker died"] = [uuid4()]
    there.automations["of somebody else"] = [uuid4()]
    assert lines(required_resources(), there) == [
        "delete automation 'copytrace: runs whose worker died', whose work `copytrace watch` does: "
        "run that beside the server"
    ]


def test_a_pool_of_another_type_under_our_name_is_an_error_that_says_the_cure() -> None:
    there = having(required_resources())
    there.pools["cpu"] = Pool("cpu", "docker", {})
    with pytest.raises(SetupError, match="of type docker and not process: prefect work-pool delete cpu"):
        plan_changes(required_resources(), there)


def test_the_limits_are_those_that_steps_take_slots_of() -> None:
    assert {thing.name for thing in required_resources() if isinstance(thing, Limit)} == {limits.GPU, limits.CPU}
