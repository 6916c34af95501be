"""Base job templates of the work pools: how the process, container or pod of a run can be configured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from prefect.workers.process import ProcessWorker

from tasks.service.run_watch import HEARTBEAT_SECONDS

Template = dict[str, Any]

ENVIRONMENT = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    # Two seconds before the first further attempt, and twice as long before each next: 17 min in all.
    "PREFECT_CLIENT_MAX_RETRIES": "9",
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500,504",  # the server's answers while its database is away
    "DO_NOT_TRACK": "true",
}
"""What the processes of runs are told: heartbeats for `run_watch`, patience with the server, no usage data."""

_OURS: Template = {"variables": {"properties": {"env": {"default": ENVIRONMENT}}}}


def process_template() -> Template:
    """Return Prefect's own template for processes, with the `ENVIRONMENT` of runs."""
    return merge_templates(ProcessWorker.get_default_base_job_template(), _OURS)


def container_template(name: str) -> Template:
    """Return the template configs/work_pools/NAME.json, with the `ENVIRONMENT` of runs."""
    text = files("configs").joinpath("work_pools", f"{name}.json").read_text(encoding="utf-8")
    return merge_templates(json.loads(text), _OURS)


def update_template(there: Mapping[str, Any], ours: Mapping[str, Any]) -> Template:
    """Return the template `there` updated to `ours`; defaults that people set by hand are kept."""
    new, set_by_hand = merge_templates(there, ours), there.get("variables", {}).get("properties", {})
    properties = {
        name: {**variable, "default": set_by_hand[name]["default"]}
        if set_by_hand.get(name, {}).get("default") is not None
        else variable
        for name, variable in new["variables"]["properties"].items()
    }
    return merge_templates({**new, "variables": {**new["variables"], "properties": properties}}, _OURS)


def merge_templates(base: Mapping[str, Any], over: Mapping[str, Any]) -> Template:
    """Return `base` overridden by `over`, level by level."""
    both = dict(base)
    for name, value in over.items():
        under = both.get(name)
        both[name] = (
            merge_templates(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
        )
    return both
