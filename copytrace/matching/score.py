"""The score of a pair: the probability that it is a copy, given the evidence of all branches.

It is the product of two logistic models. One was fitted to photographs: what is measured of a copy, and of two pictures
that have nothing to do with each other. The other was fitted to pairs whose points agree, among them drawn pictures of
one origin: pages, windows, charts or logos that share letters or a frame, but are no copies. Where the pictures
themselves were compared (`matching.content`), it is a model that knows where their ink differs. The score stays below
0.05 where only the likeness of two pictures speaks for a copy, and no points agree.

Another model tells the same picture, encoded again, from another one of nearly the same look, by their thumbnails. Its
probability is the score where it is greater: a plain picture or a pattern has no points that tell it from others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import models
from configs.bounded_files import read_small_file
from configs.parsing import parse_json
from copytrace.arrays import Doubles
from copytrace.errors import ConfigError
from copytrace.storage import resolve_path

SHIPPED = Path(models.__file__).parent / "weights" / "image_calibration.json"

RIVAL_INLIERS = 3  # of the best of 210 unrelated references: the median over 263 edited photos
RIVAL_LOG_INLIERS = float(np.log1p(RIVAL_INLIERS))

SURE_LOGIT = 5.0  # a probability of 0.9933
LEAST_COPIED = 0.05  # what is left at least: some copies of photographs look like pictures of one origin

# Of 375 true pairs of two evaluation sets, one has fewer inliers and yet a probability over 0.5.
LEAST_INLIERS = 5
FEW_POINTS = 8  # with fewer, a query is a plain picture, and only descriptors can tell
PLAIN_LIKENESS = 0.98  # least cosine of a plain picture and a copy of it; red and green have 0.87
SAME_LIKENESS = 0.995  # of a picture and the same one; pages of other words have up to 0.985
UNSUPPORTED_FROM, UNSUPPORTED_TO = 0.02, 0.05  # probabilities above the first are pressed together below the second

FEATURES = (
    "log_inliers",
    "agreement",
    "confirmed",
    "few_disagree",
    "log_votes",
    "log_inlier_lead",
    "similarity",
    "normalized_similarity",
)

THUMBNAIL_FEATURES = ("likeness", "log_contrast")
DIFFERENT = 8.0  # thumbnails that differ by so much or more are of different pictures; see `features.thumbnails`
CONTRASTS = (1.0, 8.0)  # of thumbnails of plain pictures, and of a page with some lines; more is no further evidence

CONTENT_FEATURES = (
    "agreement",
    "confirmed",
    "log_kept",
    "log_untouched",
    "log_kept_inside",
    "log_untouched_inside",
    "agreeing_share",
)
LEAST_REPLACED, LEAST_SPREAD = 0.01, 0.02  # of copies that were edited a little
DOUBTFUL = 0.5  # probability of a copy by a look at the pictures, below which thumbnails count less

TEMPLATE_FEATURES = ("agreement", "confirmed", "log_distance", "unique")
DISTANCES = (300.0, 20_000.0)  # squared, of the inliers of pictures as they are, and of pictures that were edited much
UNIQUENESS = (10_000.0, 12_000.0)  # of pictures with marks that repeat, and of 90 % of photographs
POINTS = (200.0, 350.0)  # of drawn pictures, in which no mark repeats because they have few, and of most photographs


@dataclass(frozen=True, slots=True)
class LogisticModel:
    """A logistic model over F features; `weights` float64 [F] and `bias` apply to features that are not scaled."""

    weights: Doubles
    bias: float

    def probability(self, features: Doubles) -> Doubles:
        """Return float64 [N] in 0..1 for features float64 [N, F]."""
        return probability(features @ self.weights + self.bias)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The models of a score, each over the features named like it; `copy` over `FEATURES`.

    `template` gives the probability that points agree because of a copy, and not of what two pictures of one origin
    share; `content` the same, given a look at the pictures; and `thumbnail` the probability that two pictures of nearly
    the same look are the same one.
    """

    copy: LogisticModel
    template: LogisticModel
    thumbnail: LogisticModel
    content: LogisticModel

    def score(self, evidence: pa.Table) -> Doubles:
        """Return the scores of evidence rows, float64 [N] in 0..1; the rows must include all pairs of each query."""
        copied, compared = self.template_probability(evidence), was_compared(evidence)
        same = np.where(look_alike(evidence), self.thumbnail.probability(thumbnail_features_of(evidence)), 0.0)
        # A thumbnail shows a page of a timetable, but not its figures: a look at the pictures outweighs it.
        doubt = np.where(compared, np.minimum(copied / DOUBTFUL, 1.0), 1.0)
        by_points = self._score_by_points(evidence, np.maximum(copied, LEAST_COPIED))
        return np.asarray(np.maximum(by_points, same * doubt))

    def _score_by_points(self, evidence: pa.Table, copied: Doubles) -> Doubles:
        """Return the scores without thumbnails; `copied` float64 [N] are those of the model of templates."""
        score, is_same = self.copy.probability(features_of(evidence)), _is_same(evidence)
        agrees = points_agree(evidence)
        score *= np.where(agrees & ~is_same, copied, 1.0)
        share = np.maximum(score - UNSUPPORTED_FROM, 0) / (1 - UNSUPPORTED_FROM)
        pressed = np.minimum(score, UNSUPPORTED_FROM) + share * (UNSUPPORTED_TO - UNSUPPORTED_FROM)
        return np.asarray(np.where(agrees | is_same, score, pressed))

    def template_probability(self, evidence: pa.Table) -> Doubles:
        """Return the probability, float64 [N], that points agree because of a copy: by a look at pictures, if any."""
        by_content = self.content.probability(content_features_of(evidence))
        by_points = self.template.probability(template_features_of(evidence))
        return np.asarray(np.where(was_compared(evidence), by_content, by_points))


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
    """Read a calibration file: JSON with the models of a `Calibration`, each with `weights` and `bias`.

    `thumbnail` and `content` may be missing; then they are the shipped ones. Raises `ConfigError` if the file cannot be
    used.
    """
    path = calibration_file(name)
    try:
        content = parse_json(read_small_file(path))
        copy, template = _model(content["copy"], FEATURES), _model(content["template"], TEMPLATE_FEATURES)
        if path != SHIPPED:
            shipped = parse_json(SHIPPED.read_bytes())
            content = {"thumbnail": shipped["thumbnail"], "content": shipped["content"]} | content
        thumbnail = _model(content["thumbnail"], THUMBNAIL_FEATURES)
        return Calibration(copy, template, thumbnail, _model(content["content"], CONTENT_FEATURES))
    except FileNotFoundError as error:
        raise ConfigError(
            f"no calibration file at {path}; give merge.calibration=shipped, or an existing path"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read the calibration file {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ConfigError(
            f"{path} is not a calibration of this version ({error}); fit a new one with copytrace calibrate"
        ) from error


def _model(content: Mapping[str, Any], features: tuple[str, ...]) -> LogisticModel:
    weights = np.array([content["weights"][feature] for feature in features], np.float64)
    bias = float(content["bias"])
    if set(content["weights"]) != set(features) or not np.isfinite([*weights, bias]).all():
        raise ValueError("its weights are not finite numbers for this version's features")
    return LogisticModel(weights, bias)


def features_of(evidence: pa.Table) -> Doubles:
    """Return the `FEATURES` of evidence rows, float64 [N, F]; the rows must include all pairs of each query.

    Inliers count only beyond the number that unrelated pairs reach by chance. Below it, agreement and the confirmed
    share are 0, because two points always agree. Matches that disagree speak against a copy.

    The lead compares a pair with the best other reference of the same query: inliers with one reference mean more if no
    other has nearly as many. The rival is at least as good as the best of many unrelated references, since a small
    collection may not have such a rival. The lead is never negative.
    """
    similarity, normalized, agreement, confirmed, inliers, matches = (
        _numbers(evidence, name)
        for name in ("similarity", "normalized_similarity", "agreement", "confirmed", "inliers", "ratio_matches")
    )
    votes = np.maximum(_numbers(evidence, "votes"), _numbers(evidence, "crop_votes"))
    disagreeing, inliers = np.log1p(np.maximum(matches - inliers, 0)), np.log1p(inliers)
    beyond_chance = inliers > RIVAL_LOG_INLIERS
    columns = {
        "log_inliers": np.maximum(inliers - RIVAL_LOG_INLIERS, 0.0),
        "agreement": beyond_chance * agreement,
        "confirmed": beyond_chance * confirmed,
        "few_disagree": -disagreeing,
        "log_votes": np.log1p(votes),
        "log_inlier_lead": _lead(inliers, evidence.column("query_id").to_numpy(), RIVAL_LOG_INLIERS),
        "similarity": similarity,
        "normalized_similarity": normalized,
    }
    return np.stack([columns[name] for name in FEATURES], axis=1)


def _numbers(evidence: pa.Table, name: str) -> Doubles:
    """Return a column, with 0 where it is null."""
    values: Doubles = pc.fill_null(evidence.column(name).cast(pa.float64()), 0.0).to_numpy()
    return values


def _lead(values: Doubles, query: NDArray[np.object_], rival: float) -> Doubles:
    """Return how far each value exceeds both `rival` and the greatest other value of its query; at least 0."""
    _, number = np.unique(query.astype(str), return_inverse=True)
    order = np.lexsort((-values, number))
    starts = np.flatnonzero(np.diff(number[order], prepend=-1))
    ranked = np.append(values[order], 0.0)
    last = np.diff(np.append(starts, len(values))) == 1  # a query with one reference
    greatest, second = ranked[starts][number], np.where(last, 0.0, ranked[starts + 1])[number]
    return np.maximum(values - np.maximum(np.where(values == greatest, second, greatest), rival), 0)


def template_features_of(evidence: pa.Table) -> Doubles:
    """Return the `TEMPLATE_FEATURES` of evidence rows, float64 [N, F].

    The farther the inliers' descriptors are from each other, the more a picture was edited, and the fewer of its points
    can be expected to agree.
    """
    distance = np.clip(_numbers(evidence, "distance"), *DISTANCES)
    columns = {
        "agreement": _numbers(evidence, "agreement"),
        "confirmed": _numbers(evidence, "confirmed"),
        "log_distance": np.log(distance / DISTANCES[0]),
        "unique": _ramp(_numbers(evidence, "uniqueness"), UNIQUENESS)
        * _ramp(_numbers(evidence, "fewest_points"), POINTS),
    }
    return np.stack([columns[name] for name in TEMPLATE_FEATURES], axis=1)


def content_features_of(evidence: pa.Table) -> Doubles:
    """Return the `CONTENT_FEATURES` of evidence rows, float64 [N, F]; 0 where no pictures were compared."""
    seen = was_compared(evidence)

    def rest(name: str, least: float) -> Doubles:
        return np.asarray(-np.log(np.clip(_numbers(evidence, name), least, 1)) * seen)

    columns = {
        "agreement": _numbers(evidence, "agreement"),
        "confirmed": _numbers(evidence, "confirmed"),
        "log_kept": rest("replaced", LEAST_REPLACED),
        "log_untouched": rest("spread", LEAST_SPREAD),
        "log_kept_inside": rest("replaced_inside", LEAST_REPLACED),
        "log_untouched_inside": rest("spread_inside", LEAST_SPREAD),
        "agreeing_share": _numbers(evidence, "agreeing_share"),
    }
    return np.stack([columns[name] for name in CONTENT_FEATURES], axis=1)


def was_compared(evidence: pa.Table) -> NDArray[np.bool_]:
    """Return of which pairs the pictures were compared, bool [N]."""
    return np.asarray(evidence.column("replaced").is_valid().to_numpy(zero_copy_only=False))


def looks_drawn(uniqueness: float, points: int) -> bool:
    """Return whether the points of a pair are not clearly those of photographs; see `Confirmation`."""
    return uniqueness < UNIQUENESS[1] or points < POINTS[1]


def marks_repeat(uniqueness: float) -> bool:
    """Return whether the points of a pair are as little unique as in pictures with marks that repeat."""
    return uniqueness < UNIQUENESS[0]


def uniqueness_share(uniqueness: float) -> float:
    """Return 0 for the uniqueness of points in pictures with marks that repeat, and 1 for that in photographs."""
    return float(_ramp(np.array(uniqueness), UNIQUENESS))


def _ramp(values: Doubles, bounds: tuple[float, float]) -> Doubles:
    """Return 0 up to the first bound, 1 from the second on, and the share of the way in logarithms between them."""
    return np.asarray(np.log(np.clip(values, *bounds) / bounds[0]) / np.log(bounds[1] / bounds[0]))


def thumbnail_features_of(evidence: pa.Table) -> Doubles:
    """Return the `THUMBNAIL_FEATURES` of evidence rows, float64 [N, F]; all are 0 where a thumbnail is missing.

    The plainer two pictures are, the less it takes for them to look the same.
    """
    contrast = np.clip(_numbers(evidence, "thumbnail_contrast"), *CONTRASTS)
    columns = {"likeness": np.maximum(DIFFERENT - _difference(evidence), 0), "log_contrast": np.log(contrast)}
    return np.stack([columns[name] for name in THUMBNAIL_FEATURES], axis=1)


def look_alike(evidence: pa.Table) -> NDArray[np.bool_]:
    """Return which pairs have thumbnails that differ by less than `DIFFERENT`, bool [N]."""
    return np.asarray(_difference(evidence) < DIFFERENT)


def _difference(evidence: pa.Table) -> Doubles:
    column = evidence.column("thumbnail_difference").cast(pa.float64())
    values: Doubles = pc.fill_null(column, float("inf")).to_numpy()
    return values


def points_agree(evidence: pa.Table) -> NDArray[np.bool_]:
    """Return in which pairs more points agree than in pictures that have nothing to do with each other, bool [N].

    Descriptors and votes alone call pages of other words a copy, since their layout and their letters are the same, and
    any photograph with a black box a copy of a black picture.
    """
    return np.asarray(_numbers(evidence, "inliers") >= LEAST_INLIERS)


def _is_same(evidence: pa.Table) -> NDArray[np.bool_]:
    """Return which pairs without thumbnails show the same picture by their descriptors, bool [N].

    The points of a repeated pattern do not agree even with those of the same picture. Where there are thumbnails, they
    decide: the descriptors of plain pictures of two shades may have a cosine of 0.999.
    """
    is_plain = _numbers(evidence, "view_points") < FEW_POINTS
    alike = _numbers(evidence, "similarity") >= np.where(is_plain, PLAIN_LIKENESS, SAME_LIKENESS)
    return np.asarray(alike & np.isinf(_difference(evidence)))
