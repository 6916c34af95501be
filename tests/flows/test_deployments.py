"""What prefect.yaml says fits the flows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

ROOT = Path(__file__).parents[2]
PROJECT = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))


def named(deployment: dict[str, Any]) -> str:
    return f"{deployment['entrypoint'].rpartition(':')[2]}/{deployment['name']}"


def test_each_flow_is_deployed_to_each_pool_once() -> None:
    names = sorted(named(deployment) for deployment in PROJECT["deployments"])
    flows = (
        *("index_images", "index_videos", "match_images", "match_videos"),
        *("train_aligner", "train_descriptor", "train_overlay_detector", "train_pair_classifier"),
    )
    assert names == [f"{flow}/{pool}" for flow in flows for pool in ("cpu", "gpu-a100")]
    assert all(deployment["work_pool"]["name"] == deployment["name"] for deployment in PROJECT["deployments"])


@pytest.mark.parametrize("deployment", PROJECT["deployments"], ids=named)
def test_a_deployment_starts_a_flow_with_parameters_that_it_takes(
    deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    flow: Any = load_flow_from_entrypoint(deployment["entrypoint"])
    schema = parameter_schema(flow).model_dump_for_openapi()
    validate(deployment["parameters"], schema, raise_on_error=True, ignore_required=True)
    assert not deployment["schedules"]


def test_a_deployment_runs_in_the_folder_that_it_was_deployed_from() -> None:
    assert "pull" not in PROJECT
