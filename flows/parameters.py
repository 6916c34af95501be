"""Parameters that flows share, with the schemas by which the server validates them and shows its forms."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, TypeVar

from pydantic import BaseModel, Field, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from configs.images import ImageSettings
from configs.load import flatten, load_settings
from configs.presets import missing_parts
from configs.settings import Settings
from configs.training import AlignerTraining, DescriptorTraining, OverlayTraining, PairTraining
from configs.videos import VideoSettings

Media = Annotated[str, Field(min_length=1, description="folder, glob, file, URI, or CSV/Parquet manifest id,path")]
References = Annotated[
    str, Field(min_length=1, description="the same, or an index made by index-images or index-videos")
]
Out = Annotated[str, Field(min_length=1, description="folder of the results; a second run into it continues the first")]
Photos = Annotated[
    str, Field(min_length=1, description="photos to learn from: folder, glob, URI, or CSV/Parquet manifest")
]


class LabeledRun(BaseModel):
    """A finished run of match-videos and its ground truth."""

    run: str = Field(min_length=1, description="folder that match-videos wrote")
    ground_truth: str = Field(min_length=1, description="CSV query_id,ref_id,query_start,query_end,ref_start,ref_end")


LabeledRuns = Annotated[
    list[LabeledRun], Field(min_length=1, description="runs to learn from, best of several descriptors")
]
Preset = Annotated[Literal["cpu", "a100", "imgfp"], Field(description="settings to start from")]
VideoPreset = Annotated[Literal["cpu", "a100", "vsc22"], Field(description="settings to start from")]
DescriptorPreset = Annotated[Literal["cpu", "a100", "imgfp"], Field(description="settings to start from")]
TrainingPreset = Annotated[Literal["cpu", "a100"], Field(description="settings to start from")]
MinImprovement = Annotated[float, Field(ge=0, description="improvement over the champion that is required")]

S = TypeVar("S", bound=Settings)

logger = logging.getLogger("copytrace.presets")  # Prefect shows what "copytrace" logs


class _WithoutDefaults(GenerateJsonSchema):
    """A schema without defaults: a form would fill them in and send them back, which would override the preset."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def _inline(node: Any, definitions: Mapping[str, Any]) -> Any:
    # A reference within a parameter's schema would point outside of that schema.
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = definitions[node["$ref"].rpartition("/")[2]] | {k: v for k, v in node.items() if k != "$ref"}
    return {name: _inline(value, definitions) for name, value in node.items() if name != "$defs"}


def _overrides_schema(settings: type[Settings]) -> dict[str, Any]:
    schema = settings.model_json_schema(by_alias=True, schema_generator=_WithoutDefaults)
    inlined: dict[str, Any] = _inline(schema, schema.get("$defs", {}))
    return inlined | {"title": "Overrides", "description": "settings that differ from the preset"}


AlignerOverrides = Annotated[dict[str, Any], WithJsonSchema(_overrides_schema(AlignerTraining))]
PairOverrides = Annotated[dict[str, Any], WithJsonSchema(_overrides_schema(PairTraining))]
DescriptorOverrides = Annotated[dict[str, Any], WithJsonSchema(_overrides_schema(DescriptorTraining))]
OverlayOverrides = Annotated[dict[str, Any], WithJsonSchema(_overrides_schema(OverlayTraining))]
VideoOverrides = Annotated[dict[str, Any], WithJsonSchema(_overrides_schema(VideoSettings))]
Overrides = Annotated[dict[str, Any], WithJsonSchema(_overrides_schema(ImageSettings))]
"""Nested as in a YAML file, `{"global": {"references_per_query": 5}}`; None leaves a setting as the preset has it."""


def flow_settings(schema: type[S], preset: str, overrides: Mapping[str, Any]) -> S:
    """Return the settings that a run's parameters describe, and warn of what its preset lacks.

    Raises `SettingsError` if they are invalid.
    """
    values = [f"{name}={json.dumps(value)}" for name, value in flatten(overrides).items() if value is not None]
    settings = load_settings(schema, preset, overrides=values)
    if line := missing_parts(preset, settings):
        logger.warning("%s", line)
    return settings


class FlowParameters(TypedDict):
    """The parameters of a flow that choose its settings."""

    preset: Any  # one of the names that the flow's own parameter allows
    overrides: dict[str, Any]


def parameters_from_cli(
    schema: type[Settings], preset: str, config: Path | None, overrides: Sequence[str] | None
) -> FlowParameters:
    """Return a command line's settings as parameters of a flow: the preset, and every value that differs from it.

    Raises `SettingsError` if the settings are invalid.
    """
    settings = load_settings(schema, preset, config, overrides or ())
    changed = _difference(load_settings(schema, preset).model_dump(mode="json"), settings.model_dump(mode="json"))
    return {"preset": preset, "overrides": changed}


def _difference(base: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    difference = {}
    for name, value in changed.items():
        if isinstance(value, dict):
            if inner := _difference(base[name], value):
                difference[name] = inner
        elif value != base[name]:
            difference[name] = value
    return difference
