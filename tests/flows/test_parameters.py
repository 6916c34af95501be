"""What the flows may be told, and what is refused before a run exists."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema.exceptions import best_match
from prefect.utilities.callables import ParameterSchema, parameter_schema
from prefect.utilities.schema_tools.validation import is_valid_schema, validate

from configs.images import ImageSettings
from configs.load import SettingsError, load_settings, preset_names
from configs.training import AlignerTraining
from flows.index_images import index_images
from flows.index_videos import index_videos
from flows.match_images import match_images
from flows.match_videos import match_videos
from flows.parameters import Preset, flow_settings, parameters_from_cli
from flows.train_aligner import train_aligner
from flows.train_pair_classifier import train_pair_classifier

PATHS = {"queries": "q", "references": "r", "out": "o"}
LABELLED = {"runs": [{"run": "a", "ground_truth": "t.csv"}, {"run": "b", "ground_truth": "t.csv"}], "out": "o"}


@cache
def schema_of(flow: Any) -> ParameterSchema:
    """The schema of a flow's parameters, which is checked once; no test changes anything of it."""
    schema = parameter_schema(flow)
    is_valid_schema(schema.model_dump_for_openapi())
    return schema


def check(parameters: dict[str, Any], flow: Any = match_images) -> None:
    """Validate as the server does, from the schema that a deployment stores."""
    if error := best_match(validate(parameters, schema_of(flow).model_dump_for_openapi())):
        raise ValueError(f"{error.json_path}: {error.message}")


def test_the_form_offers_the_presets_that_ship() -> None:
    assert sorted(get_args(get_args(Preset)[0])) == preset_names(ImageSettings)


def test_a_command_line_and_the_run_that_it_starts_have_the_same_settings(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("local: {neighbours: 9, stretches: [3.0]}\n")
    given = ["global.references_per_query=5", "descriptor.device=cuda:1", "local.mirrored=true"]

    chosen = parameters_from_cli(ImageSettings, "imgfp", config, given)

    assert chosen["overrides"] == {
        "descriptor": {"device": "cuda:1"},
        "local": {"neighbours": 9, "stretches": [3.0], "mirrored": True},
        "global": {"references_per_query": 5},
    }
    assert flow_settings(ImageSettings, **chosen) == load_settings(ImageSettings, "imgfp", config, given)


def test_globs_of_files_come_from_a_command_line_and_from_a_form() -> None:
    given = ['media.exclude=["*.json", "raw/**"]']
    chosen = parameters_from_cli(ImageSettings, "cpu", None, given)
    assert chosen["overrides"] == {"media": {"exclude": ["*.json", "raw/**"]}}
    check({**PATHS, **chosen})
    assert flow_settings(ImageSettings, **chosen).media.exclude == ("*.json", "raw/**")


def test_an_empty_field_of_the_form_leaves_the_preset_as_it_is() -> None:
    overrides = {"local": {"exact": None}, "merge": {"threshold": None}}
    assert flow_settings(ImageSettings, "imgfp", overrides) == load_settings(ImageSettings, "imgfp")


def test_the_server_takes_parameters_that_make_sense() -> None:
    check(
        {**PATHS, "preset": "imgfp", "overrides": {"global": {"references_per_query": 5}, "local": {"stretches": []}}}
    )
    check({**PATHS, "overrides": {"local": {"query_points": {"first_octave": 0}}, "report": {"max_matches": 0}}})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"preset": "fast"}, "'fast' is not one of"),
        ({"queries": ""}, "queries"),
        ({"overrides": {"global": {"references_per_query": 0}}}, "overrides.global.references_per_query"),
        ({"overrides": {"local": {"query_points": {"first_octave": 5}}}}, "5 is not one of"),
        ({"overrides": {"local": {"neighbors": 4}}}, "'neighbors' was unexpected"),
        ({"overrides": {"local.neighbours": 4}}, "'local.neighbours' was unexpected"),
        ({"runner": {"kind": "processes"}}, "'processes' is not one of"),
        ({"runner": {"kind": "dask", "workers": 0}}, "runner.workers"),
        ({"runner": {"kind": "dask", "adress": "tcp://dask:8786"}}, "'adress' was unexpected"),
        ({"runner": {"kind": "dask", "address": "dask:8786"}}, "does not match"),
        ({"runner": {"kind": "threads", "address": "tcp://dask:8786"}}, "'dask' was expected"),
        ({"runner": {"address": "tcp://dask:8786"}}, "'kind' is a required property"),
    ],
)
def test_the_server_refuses_parameters_that_make_no_sense(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check(PATHS | change)


@pytest.mark.parametrize("flow", [match_images, index_images, match_videos, index_videos])
def test_a_run_may_choose_what_works_on_its_shards(flow: Any) -> None:
    paths = {name: value for name, value in PATHS.items() if name in flow.fn.__annotations__}
    for runner in (
        {"kind": "threads", "workers": 2},
        {"kind": "dask", "workers": 4, "address": None},
        {"kind": "dask", "address": "tcp://dask:8786"},
    ):
        check({**paths, "runner": runner}, flow)


def test_a_flow_started_without_the_server_refuses_unknown_settings() -> None:
    with pytest.raises(SettingsError, match=r"there is no setting local\.neighbors"):
        flow_settings(ImageSettings, "cpu", {"local": {"neighbors": 4}})


@pytest.mark.parametrize("flow", [train_aligner, train_pair_classifier])
def test_the_server_takes_several_runs_with_their_ground_truths(flow: Any) -> None:
    check(LABELLED, flow)
    check({**LABELLED, "overrides": {"start": "random", "fold": 3, "loop": {"epochs": 2}}}, flow)


@pytest.mark.parametrize("flow", [train_aligner, train_pair_classifier])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"runs": []}, "runs"),
        ({"runs": ["a"]}, "'a' is not of type 'object'"),
        ({"runs": [{"run": "a"}]}, "'ground_truth' is a required property"),
        ({"runs": [{"run": "", "ground_truth": "t.csv"}]}, "run"),
        ({"overrides": {"folds": 1}}, "overrides.folds"),
        ({"overrides": {"photos": {"long_side": 64}}}, "'photos' was unexpected"),
        ({"preset": "vsc22"}, "'vsc22' is not one of"),
    ],
)
def test_the_server_refuses_runs_and_settings_that_make_no_sense(flow: Any, change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check(LABELLED | change, flow)


def test_a_fold_that_does_not_exist_is_refused_by_the_flow_itself() -> None:
    with pytest.raises(SettingsError, match="fold=7 does not exist among folds=5"):
        flow_settings(AlignerTraining, "cpu", {"fold": 7})


@pytest.mark.parametrize("flow", [match_images, index_images, train_aligner, train_pair_classifier])
def test_no_default_of_the_schema_can_undo_a_preset(flow: Any) -> None:
    overrides = schema_of(flow).properties["overrides"]
    assert "'default'" not in str(overrides["properties"])
    assert "$ref" not in str(overrides)
