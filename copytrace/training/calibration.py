"""Fit of the calibrated score to runs with known copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from copytrace.arrays import Doubles
from copytrace.checked_files import read_checked
from copytrace.errors import InputError
from copytrace.matching.evidence import EVIDENCE_SCHEMA
from copytrace.matching.score import (
    CONTENT_FEATURES,
    FEATURES,
    TEMPLATE_FEATURES,
    THUMBNAIL_FEATURES,
    Calibration,
    LogisticModel,
    content_features_of,
    features_of,
    load_calibration,
    look_alike,
    points_agree,
    template_features_of,
    thumbnail_features_of,
    was_compared,
)
from copytrace.metrics.evaluation import read_ground_truth
from copytrace.metrics.reliability import expected_calibration_error
from copytrace.run_folder import ImageRunFolder
from copytrace.storage import resolve_path, write_json

DOUBTFUL = 0.5  # score from which a pair that no ground truth lists is reported
LEADS = [FEATURES.index(name) for name in FEATURES if name.endswith("_lead")]


@dataclass(frozen=True, slots=True)
class LabeledPairs:
    """The evidence of a run's candidate pairs, N rows, and which of them are copies, bool [N]."""

    evidence: pa.Table
    labels: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class CalibrationFit:
    """Result of a fit: the expected calibration error on the pairs of the fit, 0..1, and the doubtful pairs.

    `doubtful` has `query_id, reference_id, score` of the pairs that no ground truth lists and that score `DOUBTFUL` or
    more, highest first. Near-duplicates among the references appear there, and they spoil a fit.
    """

    error: float
    doubtful: pd.DataFrame


def fit_calibration(
    runs: Sequence[tuple[str | Path, str | Path]],
    out: str | Path,
    *,
    lookalikes: Sequence[tuple[str | Path, str | Path]] = (),
) -> CalibrationFit:
    """Fit the models of a `Calibration` to finished runs and their ground truths, and write them to `out`.

    `runs` and `lookalikes` are pairs of a `match_images` output folder and its ground truth CSV. The model of copies is
    fitted to `runs`; every true pair counts twice: as it is, and without its lead, as if its reference were stored
    twice. Otherwise the score would depend on the lead, which is absent in collections with near-duplicates. The model
    of templates is fitted to the pairs of both whose points agree, or is the shipped one without `lookalikes`: runs
    with pictures of one origin. The models of thumbnails and of contents are fitted to the pairs of both whose
    thumbnails are alike, or whose pictures were compared; if these are all copies, or none, they are the shipped ones.
    Without `runs`, only these two are fitted. The error is the expected calibration error on the pairs of `runs` as
    they are, or else on those of `lookalikes`.
    """
    tables, others = ([_read_pairs(run, truth) for run, truth in given] for given in (runs, lookalikes))
    shipped, pairs = load_calibration(), [*tables, *others]
    if not pairs:
        raise InputError("calibration needs a run and its ground truth, or lookalikes; give some")
    calibration = Calibration(
        _fit_copy(tables) if tables else shipped.copy,
        _fit_template(pairs) if tables and others else shipped.template,
        _fit_where(look_alike, thumbnail_features_of, pairs) or shipped.thumbnail,
        _fit_where(was_compared, content_features_of, pairs) or shipped.content,
    )
    measured = tables or others
    labels = np.concatenate([part.labels for part in measured])
    scores = np.concatenate([calibration.score(part.evidence) for part in measured])
    error = expected_calibration_error(scores, labels)
    content = {
        "copy": _content(calibration.copy, FEATURES),
        "template": _content(calibration.template, TEMPLATE_FEATURES),
        "thumbnail": _content(calibration.thumbnail, THUMBNAIL_FEATURES),
        "content": _content(calibration.content, CONTENT_FEATURES),
        "pairs": len(labels),
        "true_pairs": int(labels.sum()),
        "expected_calibration_error": round(error, 5),
    }
    write_json(resolve_path(out), content)
    ids = pa.concat_tables([part.evidence.select(["query_id", "reference_id"]) for part in measured]).to_pandas()
    doubtful = ids.assign(score=scores)[~labels & (scores >= DOUBTFUL)]
    return CalibrationFit(error, doubtful.sort_values("score", ascending=False, ignore_index=True))


def _fit_copy(parts: Sequence[LabeledPairs]) -> LogisticModel:
    features = np.concatenate([features_of(part.evidence) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    if labels.all() or not labels.any():
        raise InputError("calibration needs both copies and other pairs among the candidates; give other runs")
    twins = features[labels].copy()
    twins[:, LEADS] = 0
    return _fit(np.concatenate([features, twins]), np.concatenate([labels, np.ones(len(twins), bool)]))


def _fit_template(parts: Sequence[LabeledPairs]) -> LogisticModel:
    fitted = _fit_where(points_agree, template_features_of, parts)
    if fitted is None:
        raise InputError("the runs need pairs whose points agree and that are no copies; give other lookalikes")
    return fitted


def _fit_where(
    choose: Callable[[pa.Table], NDArray[np.bool_]],
    measure: Callable[[pa.Table], Doubles],
    parts: Sequence[LabeledPairs],
) -> LogisticModel | None:
    """Fit a model to the features of the chosen pairs; None if these are all copies, or none."""
    chosen = [choose(part.evidence) for part in parts]
    features = [measure(part.evidence)[rows] for part, rows in zip(parts, chosen, strict=True)]
    labels = np.concatenate([part.labels[rows] for part, rows in zip(parts, chosen, strict=True)])
    return None if labels.all() or not labels.any() else _fit(np.concatenate(features), labels)


def _fit(features: Doubles, labels: NDArray[np.bool_]) -> LogisticModel:
    return LogisticModel(*fit_logistic(features, labels))


def _content(model: LogisticModel, features: Sequence[str]) -> dict[str, Any]:
    weights = {name: round(float(weight), 6) for name, weight in zip(features, model.weights, strict=True)}
    return {"weights": weights, "bias": round(model.bias, 6)}


def fit_logistic(features: NDArray[np.float64], labels: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Fit a logistic model to features float64 [N, F] and bool [N], and return its weights float64 [F] and its bias.

    No weight is negative: every feature is evidence for a copy, and more evidence must never lower the score, not even
    by chance in the given pairs. The weights of standardized features have a prior of variance 1.
    """
    scale = features.std(axis=0) + 1e-9
    values, wanted = features / scale, labels.astype(np.float64)

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, bias = parameters[:-1], parameters[-1]
        logits = values @ weights + bias
        wrong = expit(logits) - wanted
        value = float((np.logaddexp(0.0, logits) - wanted * logits).sum() + 0.5 * weights @ weights)
        return value, np.append(values.T @ wrong + weights, wrong.sum())

    count = features.shape[1]
    bounds = [(0.0, None)] * count + [(None, None)]
    result = minimize(loss, np.zeros(count + 1), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 5000})
    return np.asarray(result.x[:-1] / scale, np.float64), float(result.x[-1])


def _read_pairs(run: str | Path, ground_truth: str | Path) -> LabeledPairs:
    shards = sorted(ImageRunFolder(resolve_path(run)).evidence(0).parent.glob("*.parquet"))
    if not shards:
        raise InputError(
            f"{run} holds no evidence; make it with: copytrace match-images QUERIES REFERENCES --out {run}"
        )
    truth = read_ground_truth(resolve_path(ground_truth))
    true = {(q, r) for q, r in zip(truth.queries, truth.references, strict=True) if r}
    evidence = pa.concat_tables([read_checked(path, schema=EVIDENCE_SCHEMA) for path in shards])
    pairs = zip(evidence.column("query_id").to_pylist(), evidence.column("reference_id").to_pylist(), strict=True)
    return LabeledPairs(evidence, np.array([pair in true for pair in pairs], bool))
