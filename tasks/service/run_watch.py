"""The watch over runs, which finds those whose process has died: Prefect would leave them Running for ever.

When a worker is killed, its runs die with it, and nothing reports that to the server. Each run sends a heartbeat every
`HEARTBEAT_SECONDS`. The watch asks the server every few seconds which heartbeats have arrived, and marks a run as
crashed that has sent none for three times as long. An automation of Prefect cannot do this: it goes by the times that
the senders wrote into their heartbeats, and counts the time in which the server itself was away. The watch compares no
clocks, and counts only time in which the server answered (`tasks.service.silence`).

A run that was paused for longer than that is marked as crashed too, since nobody can tell from afar. Its
next heartbeat makes it Running again, and the lease of its folder decides whether it may write there still.

Only runs with the tag `copytrace` are watched, because their pools set the interval of heartbeats. Other runs may send
them less often, or never.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL

from tasks.patience import limit_attempts
from tasks.service.silence import Silence

TAG = "copytrace"
HEARTBEAT_SECONDS = 30
"""The shortest interval that Prefect allows; prefect.toml sets the same for runs outside of pools."""

_HEARTBEAT = "prefect.flow-run.heartbeat"
_DEAD = "its process is gone"
_SECONDS_TO_ANSWER = 10.0
_RUNS_PER_PAGE = 200  # the most that the server returns at once
_LATEST = 50  # heartbeats of a run; the same
_PAUSE = timedelta(days=2)  # after which a run that was taken for dead is looked for no longer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WatchTimes:
    """Seconds of silence after which a run is dead, that a run may take to begin, and between two looks."""

    silence: float = 3.0 * HEARTBEAT_SECONDS
    begin: float = 1800.0
    look: float = 10.0

    @property
    def state_of_silent_run(self) -> State:
        """The state of a run that was silent for too long."""
        told = f"{_DEAD}: for {self.silence:.0f} s the server was there, and heard nothing of it"
        return State(type=StateType.CRASHED, message=f"{told}. Run it again into the same folder to continue")

    @property
    def state_of_late_run(self) -> State:
        """The state of a run that did not begin."""
        told = f"a worker took it, and it did not begin within {self.begin / 60:.0f} min"
        return State(type=StateType.CRASHED, message=told)


class RunWatch:
    """A watch over the runs of the server at PREFECT_API_URL."""

    def __init__(self, times: WatchTimes) -> None:
        self._times = times
        self._silence = Silence(longest_gap=times.look + 2 * _SECONDS_TO_ANSWER)
        self._has_answered: bool | None = None

    def watch(self) -> NoReturn:
        """Look again and again, whether the server answers or not."""
        while True:
            self.look()
            time.sleep(self._times.look)

    def look(self) -> None:
        """Look once: crash the runs that have been silent for too long, and revive those that are heard again."""
        url = PREFECT_API_URL.value()
        try:
            with limit_attempts(_SECONDS_TO_ANSWER), get_client(sync_client=True) as client:
                self._judge(client)
        except (httpx.HTTPError, PrefectException) as error:
            self._silence.start_anew()
            if self._has_answered is not False:
                logger.warning("%s does not answer (%s); no run is taken for dead", url, type(error).__name__)
            self._has_answered = False
            return
        if not self._has_answered:
            logger.warning("watching the runs of %s", url)
        self._has_answered = True

    def _judge(self, client: SyncPrefectClient) -> None:
        runs = {run.id: (run, state) for run, state in _watched_runs(client)}
        signs = {identity: _signs_of_life(client, run, state) for identity, (run, state) in runs.items()}
        for identity, heard in self._silence.look(time.monotonic(), signs).items():
            run, state = runs[identity]
            if state.type == StateType.RUNNING and heard.seconds >= self._times.silence:
                _set_state(client, run, self._times.state_of_silent_run)
            elif state.type == StateType.PENDING and heard.seconds >= self._times.begin:
                _set_state(client, run, self._times.state_of_late_run)
            elif state.type == StateType.CRASHED and heard.is_new:
                back = "its heartbeats arrive again: it was paused or cut off, and is not dead"
                _set_state(client, run, State(type=StateType.RUNNING, message=back), force=True)


def _watched_runs(client: SyncPrefectClient) -> Iterator[tuple[FlowRun, State[object]]]:
    """Yield the runs that should give signs of life, and those that were taken for dead, with their states."""
    tagged = FlowRunFilterTags(all_=[TAG])
    begun = FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING])
    crashed = FlowRunFilterStateType(any_=[StateType.CRASHED])
    lately = FlowRunFilterEndTime(after_=datetime.now(UTC) - _PAUSE)
    yield from _read_runs(client, FlowRunFilter(tags=tagged, state=FlowRunFilterState(type=begun)))
    dead = FlowRunFilter(tags=tagged, state=FlowRunFilterState(type=crashed), end_time=lately)
    for run, state in _read_runs(client, dead):
        if (state.message or "").startswith(_DEAD):
            yield run, state


def _read_runs(client: SyncPrefectClient, wanted: FlowRunFilter) -> Iterator[tuple[FlowRun, State[object]]]:
    offset = 0
    while True:
        page = client.read_flow_runs(
            flow_run_filter=wanted, sort=FlowRunSort.ID_DESC, limit=_RUNS_PER_PAGE, offset=offset
        )
        yield from ((run, run.state) for run in page if run.state)
        if len(page) < _RUNS_PER_PAGE:
            return
        offset += len(page)


def _signs_of_life(client: SyncPrefectClient, run: FlowRun, state: State[object]) -> set[UUID]:
    """Return the ids of the latest heartbeats that have arrived from a run, and of its state, unless it has ended."""
    # The server selects by the sender's clock, which may go ahead.
    any_time = EventOccurredFilter(until=datetime.now(UTC) + timedelta(days=1))
    wanted = EventFilter(
        occurred=any_time,
        event=EventNameFilter(name=[_HEARTBEAT]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
    )
    beats = {event.id for event in client.read_events(wanted, limit=_LATEST).events}
    return beats if state.type == StateType.CRASHED else beats | {state.id}


def _set_state(client: SyncPrefectClient, run: FlowRun, state: State[object], *, force: bool = False) -> None:
    done = client.set_flow_run_state(run.id, state, force=force)
    if done.state and done.state.type == state.type:
        logger.warning("%s (%s) is %s: %s", run.name, run.id, state.name, state.message)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    RunWatch(WatchTimes()).watch()
