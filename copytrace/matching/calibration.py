"""The calibrated score: the probability that a pair is a copy, given the evidence of all branches."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import models
from copytrace.arrays import Doubles
from copytrace.errors import ConfigError
from copytrace.storage import resolve_path

SHIPPED = Path(models.__file__).parent / "weights" / "image_calibration.json"

# Medians over 263 edited photos of what the best of 210 unrelated references reaches.
RIVAL_INLIERS = 3
RIVAL_LOG_INLIERS = float(np.log1p(RIVAL_INLIERS))
RIVAL_LOG_VOTES = float(np.log1p(2.8))
RIVAL_SIMILARITY = 0.099  # score-normalized cosine

SURE_LOGIT = 5.0  # a probability of 0.9933

FEATURES = (
    "log_inliers",
    "agreement",
    "coverage",
    "log_votes",
    "log_vote_lead",
    "log_inlier_lead",
    "similarity",
    "normalized_similarity",
    "similarity_lead",
    "branches",
)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A logistic model over `FEATURES`; `weights` float64 [F] and `bias` apply to features that are not scaled."""

    weights: Doubles
    bias: float

    def probability(self, features: Doubles) -> Doubles:
        """Return float64 [N] in 0..1 for features float64 [N, F]."""
        return probability(features @ self.weights + self.bias)


def probability(logit: Doubles) -> Doubles:
    """Return 1 / (1 + exp(−l)), where l grows only logarithmically beyond ±`SURE_LOGIT`.

    So a score claims no more certainty than thousands of training pairs can show, and pairs with overwhelming evidence
    keep their order instead of all being rounded to 1.
    """
    beyond = np.log1p(np.maximum(np.abs(logit) - SURE_LOGIT, 0))
    return np.asarray(1 / (1 + np.exp(-np.sign(logit) * (np.minimum(np.abs(logit), SURE_LOGIT) + beyond))))


def calibration_file(name: str) -> Path:
    """Return the calibration file for a value of `merge.calibration`: "shipped", a path or `s3://…`."""
    return SHIPPED if name == "shipped" else resolve_path(name)


def load_calibration(name: str = "shipped") -> Calibration:
    """Read a calibration file: JSON with `weights` and `bias`. Raises `ConfigError` if it cannot be used."""
    path = calibration_file(name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        weights = np.array([content["weights"][feature] for feature in FEATURES], np.float64)
        bias = float(content["bias"])
        if set(content["weights"]) != set(FEATURES) or not np.isfinite([*weights, bias]).all():
            raise ValueError("its weights are not finite numbers for this version's features")
        return Calibration(weights, bias)
    except FileNotFoundError as error:
        raise ConfigError(
            f"no calibration file at {path}; give merge.calibration=shipped, or an existing path"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read the calibration file {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a calibration of this version ({error}); fit a new one with copytrace calibrate"
        ) from error


def features_of(evidence: pd.DataFrame) -> Doubles:
    """Return the `FEATURES` of evidence rows, float64 [N, F]; the rows must include all pairs of each query.

    Inliers count only beyond the number that unrelated pairs reach by chance. Below it, agreement and coverage are 0,
    because two points always agree.

    A lead compares a pair with the best other reference of the same query: many weak matches with one reference mean
    more if no other has nearly as many. The rival is at least as good as the best of many unrelated references, since a
    small collection may not have such a rival. A lead is never negative.
    """
    inliers = np.log1p(evidence["inliers"].to_numpy(np.float64))
    votes = np.log1p(evidence[["votes", "crop_votes"]].max(axis=1).fillna(0).to_numpy(np.float64))
    normalized = np.nan_to_num(evidence["normalized_similarity"].to_numpy(np.float64), nan=0.0)
    query = evidence["query_id"]
    beyond_chance = inliers > RIVAL_LOG_INLIERS
    columns = {
        "log_inliers": np.maximum(inliers - RIVAL_LOG_INLIERS, 0.0),
        "agreement": beyond_chance * evidence["agreement"].fillna(0).to_numpy(np.float64),
        "coverage": beyond_chance * np.sqrt(evidence["coverage"].fillna(0).to_numpy(np.float64)),
        "log_votes": votes,
        "log_vote_lead": _lead(votes, query, RIVAL_LOG_VOTES),
        "log_inlier_lead": _lead(inliers, query, RIVAL_LOG_INLIERS),
        "similarity": np.nan_to_num(evidence["similarity"].to_numpy(np.float64), nan=0.0),
        "normalized_similarity": normalized,
        "similarity_lead": _lead(normalized, query, RIVAL_SIMILARITY),
        "branches": evidence["branches"].map(len).to_numpy(np.float64),
    }
    return np.stack([columns[name] for name in FEATURES], axis=1)


def _lead(values: Doubles, query: pd.Series[str], rival: float) -> Doubles:
    """Return how far each value exceeds both `rival` and the greatest other value of its query; at least 0."""
    frame = pd.DataFrame({"query": query.to_numpy(), "value": values})
    by_query = frame.groupby("query", sort=False)["value"]
    greatest = by_query.transform("max").to_numpy()
    second = by_query.transform(lambda group: group.nlargest(2).iloc[-1] if len(group) > 1 else 0.0).to_numpy()
    return np.maximum(values - np.maximum(np.where(values == greatest, second, greatest), rival), 0)
