"""Automations that end runs whose process is gone, for Prefect leaves those Running, and their slots taken.

A worker that is stopped takes its runs with it and tells nobody. Each run says every `HEARTBEAT_SECONDS` that it lives,
so a run that has been silent for three times as long is dead. What is watched are the runs of deployments that are
tagged `copytrace`: their pools make them say it that often, and others may say it less often, or never.
"""

from __future__ import annotations

from datetime import timedelta

from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

TAG = "copytrace"
HEARTBEAT_SECONDS = 30
"""As in prefect.toml, which runs outside of pools read; the least that Prefect allows."""
SILENCE = timedelta(seconds=3 * HEARTBEAT_SECONDS)
BEGINNING = timedelta(minutes=30)
"""A run may wait this long for its image, or for a node."""

_EVENT = "prefect.flow-run."


def watches() -> tuple[AutomationCore, ...]:
    """Return both automations: for runs that fell silent, and for runs that never began."""
    alive = {_EVENT + name for name in ("heartbeat", "Running", "Retrying")}
    # A run's start comes after its first heartbeat. If only heartbeats began the wait, it would end it.
    died = "its process is gone: nothing was heard of it for {} s. Run it again into the same folder, and it goes on"
    return (
        _watch(
            "copytrace: runs whose worker died",
            f"Crashes a run that has not been heard of for {SILENCE.seconds} s, so that its slot is free again.",
            alive,
            SILENCE,
            died.format(SILENCE.seconds),
        ),
        _watch(
            "copytrace: runs that never began",
            f"Crashes a run that a worker took and that did not begin within {BEGINNING.seconds // 60} min.",
            {_EVENT + name for name in ("Pending", "Submitting", "InfrastructurePending")},
            BEGINNING,
            f"a worker took it, and it did not begin within {BEGINNING.seconds // 60} min",
        ),
    )


def _watch(name: str, description: str, after: set[str], within: timedelta, message: str) -> AutomationCore:
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
