"""Which silence ends a run. That it does was seen on a real server; see docs/operate.md."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from prefect.client.schemas.objects import StateType
from prefect.events import Event, Resource
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.server.events.schemas.automations import EventTrigger as ServerTrigger
from prefect.server.events.schemas.events import ReceivedEvent

from tasks.service.run_watch import HEARTBEAT_SECONDS, TAG, run_automations

ROOT = Path(__file__).parents[2]
DIED, NEVER_BEGAN = run_automations()


def server_trigger(watch: AutomationCore) -> ServerTrigger:
    """The trigger as the server reads it."""
    assert isinstance(watch.trigger, EventTrigger)
    return ServerTrigger.model_validate(watch.trigger.model_dump(mode="json"))


def event(name: str, tag: str) -> ReceivedEvent:
    run = Resource.model_validate({"prefect.resource.id": "prefect.flow-run.7"})
    tagged = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{tag}"}
    sent = Event.model_validate({"event": f"prefect.flow-run.{name}", "resource": run, "related": [tagged]})
    return ReceivedEvent.model_validate(sent.model_dump(mode="json"))


def test_a_run_on_a_terminal_beats_as_often_as_the_watch_counts_on() -> None:
    settings = tomllib.loads((ROOT / "prefect.toml").read_text(encoding="utf-8"))
    assert settings["flows"]["heartbeat_frequency"] == HEARTBEAT_SECONDS


@pytest.mark.parametrize("name", ["heartbeat", "Running", "Retrying"])
def test_the_wait_for_the_next_sign_begins_with_each_one_of_a_run_that_goes_on(name: str) -> None:
    trigger = server_trigger(DIED)
    assert trigger.within.seconds == 3 * HEARTBEAT_SECONDS
    assert trigger.starts_after(f"prefect.flow-run.{name}")
    assert trigger.expects(f"prefect.flow-run.{name}")


@pytest.mark.parametrize("name", ["Completed", "Failed", "Cancelled", "Crashed", "Suspended"])
def test_the_end_of_a_run_ends_the_wait(name: str) -> None:
    trigger = server_trigger(DIED)
    assert not trigger.starts_after(f"prefect.flow-run.{name}")
    assert trigger.expects(f"prefect.flow-run.{name}")


def test_a_run_that_a_worker_took_has_to_begin() -> None:
    trigger = server_trigger(NEVER_BEGAN)
    assert trigger.starts_after("prefect.flow-run.Pending")
    assert not trigger.starts_after("prefect.flow-run.Running")
    assert trigger.expects("prefect.flow-run.Running")


@pytest.mark.parametrize("watch", [DIED, NEVER_BEGAN], ids=lambda watch: watch.name)
def test_only_runs_of_deployments_that_promise_heartbeats_are_watched(watch: AutomationCore) -> None:
    trigger = server_trigger(watch)
    assert trigger.covers(event("Running", TAG)) or trigger.covers(event("Pending", TAG))
    assert not trigger.covers(event("Running", "other"))
    [action] = watch.actions
    assert isinstance(action, ChangeFlowRunState)
    assert action.state == StateType.CRASHED
