"""What a training run leaves beside its weights: its figures, and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from configs.settings import Settings
from copytrace.storage import write_json, write_text

RESULT, CARD = "result.json", "README.md"


@dataclass(frozen=True)
class TrainingResult:
    """A finished training.

    `metrics` are of the validation, `score` names the one that decides between models; figures of two models compare
    where `validation_digest` is the same. `seconds` count all attempts of a run that was resumed.
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
    unit: str = "photos"  # what `images` and `validation_images` count

    def facts(self) -> dict[str, Any]:
        """What the weights' file says of itself."""
        return {name: value for name, value in asdict(self).items() if name not in {"settings", "title"}}


def write_outcome(out: Path, outcome: TrainingResult, settings: Settings) -> Path:
    """Write `result.json`, then the model card `README.md`, and return the former."""
    write_text(out / CARD, _card(outcome, settings))
    return write_json(out / RESULT, asdict(outcome))


def read_result(out: Path) -> TrainingResult:
    """Return what `write_outcome` wrote into `out`."""
    return TrainingResult(**json.loads((out / RESULT).read_text(encoding="utf-8")))


def _card(outcome: TrainingResult, settings: Settings) -> str:
    figures = "\n".join(f"| {name.replace('_', ' ')} | {value:.4f} |" for name, value in outcome.metrics.items())
    changed = settings.model_dump(mode="json", exclude_defaults=True)
    return f"""# {outcome.title}

- **Data.** {outcome.images:,} {outcome.unit} (digest `{outcome.dataset_digest}`), and
  {outcome.validation_images:,} others to validate on (digest
  `{outcome.validation_digest}`). What licence they are under is for you to say.
- **Training.** {outcome.seconds / 3600:.2f} hours on {outcome.device}, torch {torch.__version__}; the weights kept are
  those after epoch {outcome.best_epoch}, the best by {outcome.score.replace("_", " ")}.
- **Settings** other than the defaults: `{json.dumps(changed)}`

| validation | |
|---|---|
{figures}
"""
