"""Automations that crash runs whose process has died: Prefect would leave them Running and keep their slots occupied.

When a worker is killed, its runs die with it, and nothing reports that to the server. Each run sends a heartbeat every
`HEARTBEAT_SECONDS`; one that has been silent for three times as long is considered dead. Only runs of deployments with
the tag `copytrace` are watched, because their pools set this interval. Other runs may send heartbeats less often, or
never.
"""

from __future__ import annotations

from datetime import timedelta

from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

TAG = "copytrace"
HEARTBEAT_SECONDS = 30
"""The shortest interval that Prefect allows; prefect.toml sets the same for runs outside of pools."""
SILENCE_TIMEOUT = timedelta(seconds=3 * HEARTBEAT_SECONDS)
START_TIMEOUT = timedelta(minutes=30)
"""Time that a run may wait for its image or for a node."""

_EVENT = "prefect.flow-run."


def run_automations() -> tuple[AutomationCore, ...]:
    """Return two automations: one for runs that fell silent, one for runs that never began."""
    alive = {_EVENT + name for name in ("heartbeat", "Running", "Retrying")}
    # The event Running follows the first heartbeat. It must start the wait again, or it would end it for good.
    died = "its process is gone: it sent no heartbeat for {} s. Run it again into the same folder to continue"
    return (
        _crash_automation(
            "copytrace: runs whose worker died",
            f"Crashes a run that sent no heartbeat for {SILENCE_TIMEOUT.seconds} s, so that its slot becomes free.",
            alive,
            SILENCE_TIMEOUT,
            died.format(SILENCE_TIMEOUT.seconds),
        ),
        _crash_automation(
            "copytrace: runs that never began",
            f"Crashes a run that a worker took but that did not begin within {START_TIMEOUT.seconds // 60} min.",
            {_EVENT + name for name in ("Pending", "Submitting", "InfrastructurePending")},
            START_TIMEOUT,
            f"a worker took it, and it did not begin within {START_TIMEOUT.seconds // 60} min",
        ),
    )


def _crash_automation(name: str, description: str, after: set[str], within: timedelta, message: str) -> AutomationCore:
    trigger = EventTrigger(
        match=ResourceSpecification.model_validate({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=ResourceSpecification.model_validate(
            {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"}
        ),
        for_each={"prefect.resource.id"},
        after=after,
        expect={_EVENT + "*"},
        posture=Posture.Proactive,
        threshold=1,
        within=within,
    )
    crash = ChangeFlowRunState(state=StateType.CRASHED, message=message)
    return AutomationCore(name=name, description=description, trigger=trigger, actions=[crash])
