"""The result of a training run, written beside its weights as JSON and as a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from configs.settings import Settings
from copytrace.errors import InputError
from copytrace.storage import read_json, write_json, write_text

RESULT, CARD = "result.json", "README.md"


@dataclass(frozen=True)
class TrainingResult:
    """A finished training.

    `metrics` are those of the validation, and `score` names the one that decides between models. The metrics of two
    models are comparable if their `validation_digest` is the same. `seconds` includes all attempts of a resumed run.
    """

    title: str
    metrics: Mapping[str, float]
    score: str
    best_epoch: int
    images: int
    validation_images: int
    dataset_digest: str
    validation_digest: str
    seconds: float
    device: str
    settings: Mapping[str, Any]
    unit: str = "photos"  # of `images` and `validation_images`

    def facts(self) -> dict[str, Any]:
        """Return the facts for the notes of the weights' file."""
        return {name: value for name, value in asdict(self).items() if name not in {"settings", "title"}}


def write_result(out: Path, result: TrainingResult, settings: Settings) -> Path:
    """Write `result.json`, then the model card `README.md`, and return the former."""
    write_text(out / CARD, _card(result, settings))
    return write_json(out / RESULT, asdict(result))


def read_result(out: Path) -> TrainingResult:
    """Return the result that `write_result` wrote to `out`. Raises `InputError` if it is damaged."""
    try:
        return TypeAdapter(TrainingResult).validate_python(read_json(out / RESULT))
    except ValidationError as error:
        raise InputError(f"{out / RESULT} is damaged; delete it, and train again into the same folder") from error


def _card(result: TrainingResult, settings: Settings) -> str:
    rows = "\n".join(f"| {name.replace('_', ' ')} | {value:.4f} |" for name, value in result.metrics.items())
    changed = settings.model_dump(mode="json", exclude_defaults=True)
    return f"""# {result.title}

- **Data.** {result.images:,} {result.unit} (digest `{result.dataset_digest}`), and
  {result.validation_images:,} others to validate on (digest
  `{result.validation_digest}`). Add the license of these data here.
- **Training.** {result.seconds / 3600:.2f} hours on {result.device}, torch {torch.__version__}; the weights kept are
  those after epoch {result.best_epoch}, the best by {result.score.replace("_", " ")}.
- **Settings** other than the defaults: `{json.dumps(changed)}`

| validation | |
|---|---|
{rows}
"""
