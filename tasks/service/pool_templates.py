"""Base job templates of the work pools: what a deployment may say of the process, container or pod of its runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from prefect.workers.process import ProcessWorker

from tasks.service.run_watch import HEARTBEAT_SECONDS

Template = dict[str, Any]

_HEARTBEAT: Template = {
    "variables": {"properties": {"env": {"default": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}}}}
}


def process_template() -> Template:
    """Return Prefect's own template for processes, with the heartbeats that `run_watch` counts on."""
    return merged(ProcessWorker.get_default_base_job_template(), _HEARTBEAT)


def container_template(name: str) -> Template:
    """Return the template configs/work_pools/NAME.json, with the heartbeats that `run_watch` counts on."""
    text = files("configs").joinpath("work_pools", f"{name}.json").read_text(encoding="utf-8")
    return merged(json.loads(text), _HEARTBEAT)


def updated(there: Mapping[str, Any], ours: Mapping[str, Any]) -> Template:
    """Return the template `there` as `ours` has it, but for its defaults: those are what people set by hand."""
    new, set_by_hand = merged(there, ours), there.get("variables", {}).get("properties", {})
    properties = {
        name: {**variable, "default": set_by_hand[name]["default"]}
        if set_by_hand.get(name, {}).get("default") is not None
        else variable
        for name, variable in new["variables"]["properties"].items()
    }
    return merged({**new, "variables": {**new["variables"], "properties": properties}}, _HEARTBEAT)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Template:
    """Return `base` with what `over` says, level by level; what only `base` has stays."""
    both = dict(base)
    for name, value in over.items():
        under = both.get(name)
        both[name] = merged(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return both
