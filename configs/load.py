"""Settings from a preset, a file and single values; each overrides the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from reprlib import Repr
from typing import Any, TypeVar

from pydantic import ValidationError

from configs.bounded_files import read_small_file
from configs.images import ImageSettings
from configs.parsing import parse_yaml
from configs.settings import Settings
from configs.training import AlignerTraining, CodebookTraining, DescriptorTraining, OverlayTraining, PairTraining
from configs.videos import VideoSettings

S = TypeVar("S", bound=Settings)

FOLDER = Path(__file__).parent
_PRESETS: dict[type[Settings], Path] = {
    ImageSettings: FOLDER / "match_images",
    VideoSettings: FOLDER / "match_videos",
    DescriptorTraining: FOLDER / "train_descriptor",
    OverlayTraining: FOLDER / "train_overlay_detector",
    AlignerTraining: FOLDER / "train_aligner",
    PairTraining: FOLDER / "train_pair_classifier",
    CodebookTraining: FOLDER / "train_codebook",
}

_MOST_PROBLEMS = 8  # in an error message
_values = Repr()  # shortens what an error message shows
_values.maxstring = _values.maxother = 80
_values.maxlevel = 3


class SettingsError(ValueError):
    """An unknown or misplaced setting, or a value out of range; the text names it and what is allowed."""


def preset_names(schema: type[Settings]) -> list[str]:
    """Return the names of the shipped presets for settings of that schema."""
    return sorted(path.stem for path in _PRESETS[schema].glob("*.yaml"))


def load_settings(schema: type[S], preset: str = "cpu", config: Path | None = None, overrides: Sequence[str] = ()) -> S:
    """Return the settings of a preset, changed by a YAML file and then by overrides such as `local.neighbours=4`.

    Raises `SettingsError` if a preset or name is unknown, a file is unreadable, or a value is not allowed.
    """
    if preset not in preset_names(schema):
        raise SettingsError(f"unknown preset {preset!r}; give one of: {', '.join(preset_names(schema))}")
    values = _read(_PRESETS[schema] / f"{preset}.yaml")
    if config is not None:
        values = _merge(values, _read(config))
    for override in overrides:
        values = _merge(values, _parse(override))
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()[:_MOST_PROBLEMS]]
        more = error.error_count() - len(problems)
        told = "; ".join(problems) + (f"; and {more:,} more" if more else "")
        raise SettingsError(f"{told} (settings of {config})" if config else told) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(read_small_file(path).decode("utf-8")) or {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read the settings file {path}: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path} must have names and values, such as `local:` and below it `neighbours: 4`")
    return values


def _parse(override: str) -> dict[str, Any]:
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        raise SettingsError(f"{override!r} is not a setting; write name=value, such as local.neighbours=4")
    try:
        value: Any = parse_yaml(text)
    except ValueError as error:
        raise SettingsError(f"the value in {override!r} is not valid YAML; quote it, such as name='text'") from error
    for part in reversed(name.strip().split(".")):
        value = {part: value}
    return dict(value)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        known = merged.get(name)
        merged[name] = _merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def _explain(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if not name:
        return str(problem["ctx"]["error"])  # the rule concerns several settings, and its text names them
    if problem["type"] == "extra_forbidden":
        return f"there is no setting {name}; see configs/images.py, videos.py and training.py for all of them"
    return f"{name}={_values.repr(problem['input'])}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted names: `{"loop": {"epochs": 30}}` becomes `{"loop.epochs": 30}`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
