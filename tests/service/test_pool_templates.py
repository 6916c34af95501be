"""The base job templates of the work pools."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest
from docker.models.containers import _create_container_args
from docker.types import DeviceRequest
from prefect.client.orchestration import PrefectClient
from prefect.workers.base import BaseJobConfiguration
from prefect.workers.process import ProcessJobConfiguration

from tasks.service.pool_templates import (
    ENVIRONMENT,
    Template,
    container_template,
    merge_templates,
    process_template,
    update_template,
)

TEMPLATES = {
    "process": process_template(),
    **{name: container_template(name) for name in ("docker-gpu", "kubernetes-gpu")},
}
each_template = pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
# Prefect's worker fills these in for each run, if they are not set.
FILLED_IN = {"command", "name", "labels"}


def placeholders(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from placeholders(inner)
    if isinstance(node, str):
        yield from re.findall(r"{{ (\w+) }}", node)


@each_template
def test_each_variable_is_used_and_each_one_used_is_a_variable(template: Template) -> None:
    assert set(placeholders(template["job_configuration"])) == template["variables"]["properties"].keys()


@each_template
def test_a_run_sends_the_heartbeats_that_its_watch_counts_on_whatever_else_its_environment_has(
    template: Template,
) -> None:
    default = template["variables"]["properties"]["env"]["default"]
    assert default == ENVIRONMENT


def nobody() -> PrefectClient:
    """A client of no server: none is asked for a template without blocks."""
    return PrefectClient("http://127.0.0.1:9/api")


async def configured(template: Template, values: dict[str, object]) -> dict[str, object]:
    kind = type("Any", (BaseJobConfiguration,), {"model_config": {"extra": "allow"}, "__module__": __name__})
    made: BaseJobConfiguration = await kind.from_template_and_values(template, values, client=nobody())
    return made.model_dump()


async def process_environment(values: dict[str, object]) -> dict[str, str | None]:
    made = await ProcessJobConfiguration.from_template_and_values(process_template(), values, client=nobody())
    return made.env


def test_the_environment_of_a_deployment_joins_that_of_its_pool() -> None:
    assert asyncio.run(process_environment({"env": {"A": "b"}})) == {"A": "b", **ENVIRONMENT}


def test_a_pod_asks_for_gpus_on_a_node_that_has_them() -> None:
    job = asyncio.run(configured(TEMPLATES["kubernetes-gpu"], {"gpu_count": 2}))
    pod = job["job_manifest"]["spec"]["template"]["spec"]  # type: ignore[index]
    [container] = pod["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 2}
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert {volume["name"] for volume in pod["volumes"]} == {mount["name"] for mount in container["volumeMounts"]}
    assert pod["volumes"][0] == {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}


def test_a_container_asks_for_gpus_in_words_that_docker_takes() -> None:
    job = asyncio.run(configured(TEMPLATES["docker-gpu"], {"gpu_count": -1}))
    arguments = job["container_create_kwargs"]
    assert arguments["shm_size"] == "8g"  # type: ignore[index]
    [request] = [DeviceRequest(**request) for request in arguments["device_requests"]]  # type: ignore[index]
    assert (request.driver, request.count, request.capabilities) == ("nvidia", -1, [["gpu"]])


def test_a_pod_is_nobody_special_and_writes_only_into_its_volumes() -> None:
    job = asyncio.run(configured(TEMPLATES["kubernetes-gpu"], {}))["job_manifest"]["spec"]  # type: ignore[index]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    assert {"parallelism", "completions"} <= job.keys()  # in a pod, they are unknown
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "fsGroup": 1000,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("copytrace-run", False)
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {
        *("/dev/shm", "/data", "/tmp", "/home/copytrace"),
    }


def test_a_container_is_nobody_special_and_writes_only_into_its_volumes() -> None:
    job = asyncio.run(configured(TEMPLATES["docker-gpu"], {}))
    arguments = {**job["container_create_kwargs"], "volumes": job["volumes"], "version": "1.50"}  # type: ignore[dict-item]
    made = _create_container_args(dict(arguments))
    host = made["host_config"]
    assert (made["user"], host["ReadonlyRootfs"], host["CapDrop"]) == ("1000:1000", True, ["ALL"])
    assert (host["SecurityOpt"], host["Init"]) == (["no-new-privileges:true"], True)
    assert "Privileged" not in host
    assert {*made["volumes"], *host["Tmpfs"]} == {"/data", "/tmp", "/home/copytrace"}


def test_an_update_brings_what_is_new_and_leaves_the_defaults_that_were_set_by_hand() -> None:
    ours = TEMPLATES["kubernetes-gpu"]
    properties = ours["variables"]["properties"]
    other_node = {**properties["node_selector"], "default": {"pool": "a100"}, "description": "as it was"}
    there = {**ours, "variables": {**ours["variables"], "properties": {"node_selector": other_node}}}
    new = update_template(there, ours)
    assert new["variables"]["properties"]["node_selector"] == {
        **properties["node_selector"],
        "default": {"pool": "a100"},
    }
    assert new["variables"]["properties"].keys() == properties.keys()


def test_merging_changes_what_is_said_and_leaves_the_rest() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 3}
    assert merge_templates(base, {"a": {"c": [3]}, "e": 4}) == {"a": {"b": 1, "c": [3]}, "d": 3, "e": 4}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 3}
