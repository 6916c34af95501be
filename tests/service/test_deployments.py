"""What the files of deployments say fits the flows, and the pools and queues that `copytrace setup` makes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import is_valid_schema, validate

from tasks.service.run_watch import TAG
from tasks.service.setup import Pool, Queue, required_resources

ROOT = Path(__file__).parents[2]
FILES = {
    name: yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    for name in ("prefect.yaml", "prefect.docker.yaml", "prefect.kubernetes.yaml")
}
DEPLOYMENTS = [(file, deployment) for file, content in FILES.items() for deployment in content["deployments"]]
FLOWS = (
    *("index_images", "index_videos", "match_images", "match_videos"),
    *("train_aligner", "train_descriptor", "train_overlay_detector", "train_pair_classifier"),
)
MADE = required_resources(kubernetes=True, docker=True)
POOLS = {thing.name: thing for thing in MADE if isinstance(thing, Pool)}
QUEUES = {(thing.pool, thing.name) for thing in MADE if isinstance(thing, Queue)}


def named(value: object) -> str:
    return f"{value['entrypoint'].rpartition(':')[2]}/{value['name']}" if isinstance(value, dict) else str(value)


@cache
def schema_of(entrypoint: str) -> dict[str, Any]:
    """The schema of a flow's parameters, which is checked once; a flow has a deployment for each pool."""
    flow: Any = load_flow_from_entrypoint(entrypoint)
    schema = parameter_schema(flow).model_dump_for_openapi()
    is_valid_schema(schema)
    return schema


each_deployment = pytest.mark.parametrize(("file", "deployment"), DEPLOYMENTS, ids=named)


def test_each_flow_is_deployed_once_to_each_pool() -> None:
    source = {path.stem for path in (ROOT / "flows").glob("*.py") if "\n@flow" in path.read_text(encoding="utf-8")}
    assert source == set(FLOWS)
    expected = {
        "prefect.yaml": ("cpu", "gpu-a100"),
        "prefect.docker.yaml": ("docker-gpu",),
        "prefect.kubernetes.yaml": ("kubernetes-gpu",),
    }
    for file, pools in expected.items():
        names = sorted(named(deployment) for deployment in FILES[file]["deployments"])
        assert names == sorted(f"{flow}/{pool}" for flow in FLOWS for pool in pools)


@each_deployment
def test_a_deployment_starts_a_flow_with_parameters_that_it_takes(
    file: str, deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    schema = schema_of(deployment["entrypoint"])
    assert deployment["parameters"].keys() <= schema["properties"].keys()
    assert validate(deployment["parameters"], schema, ignore_required=True) == []
    assert not deployment["schedules"]


@each_deployment
def test_a_deployment_goes_to_a_pool_and_a_queue_that_setup_makes(file: str, deployment: dict[str, Any]) -> None:
    place = deployment["work_pool"]
    assert (place["name"], place["work_queue_name"]) in QUEUES
    assert deployment["name"] == place["name"]
    training = deployment["entrypoint"].startswith("flows/train")
    assert place["work_queue_name"] == ("training" if training else "matching")


@each_deployment
def test_a_job_variable_is_one_of_its_pools_template(file: str, deployment: dict[str, Any]) -> None:
    place = deployment["work_pool"]
    variables = POOLS[place["name"]].template["variables"]["properties"]
    given = place.get("job_variables", {})
    assert given.keys() <= variables.keys()
    validate(given, {"type": "object", "properties": variables}, raise_on_error=True, preprocess=False)


@each_deployment
def test_the_runs_of_a_deployment_are_watched(file: str, deployment: dict[str, Any]) -> None:
    assert TAG in deployment["tags"]


def test_a_deployment_runs_in_the_folder_that_it_was_deployed_from_or_where_the_image_has_the_project() -> None:
    assert "pull" not in FILES["prefect.yaml"]
    folder = (ROOT / "Dockerfile").read_text(encoding="utf-8").partition("WORKDIR ")[2].split()[0]
    for file in ("prefect.docker.yaml", "prefect.kubernetes.yaml"):
        assert FILES[file]["pull"] == [{"prefect.deployments.steps.set_working_directory": {"directory": folder}}]
