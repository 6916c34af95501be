from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copytrace.errors import ConfigError
from copytrace.matching.evidence import EVIDENCE_SCHEMA
from copytrace.matching.score import (
    FEATURES,
    TEMPLATE_FEATURES,
    THUMBNAIL_FEATURES,
    LogisticModel,
    features_of,
    load_calibration,
    template_features_of,
)
from copytrace.storage import resolve_path, write_json

MODEL: dict[str, Any] = {"weights": dict.fromkeys(FEATURES, 0.5), "bias": -2.0}
TEMPLATE: dict[str, Any] = {"weights": dict.fromkeys(TEMPLATE_FEATURES, 0.5), "bias": -2.0}
THUMBNAIL: dict[str, Any] = {"weights": dict.fromkeys(THUMBNAIL_FEATURES, 0.5), "bias": -2.0}
GOOD: dict[str, Any] = {"copy": MODEL, "template": TEMPLATE}


def evidence(*rows: dict[str, Any]) -> pa.Table:
    """Return evidence as it is read from a file; what a row leaves out is missing."""
    basis = {"query_id": "q", "reference_id": "r", "branches": ["global"], "ratio_matches": 0, "inliers": 0}
    return pa.Table.from_pylist([basis | row for row in rows], schema=EVIDENCE_SCHEMA)


def feature(frame: pa.Table, name: str) -> list[float]:
    return list(features_of(frame)[:, FEATURES.index(name)])


def test_features_are_finite_where_evidence_is_missing() -> None:
    features = features_of(evidence({}, {"query_id": "other"}, {"similarity": -0.2, "normalized_similarity": -0.5}))
    assert features.shape == (3, len(FEATURES))
    assert np.isfinite(features).all()


def test_no_evidence_gives_no_features() -> None:
    assert features_of(EVIDENCE_SCHEMA.empty_table()).shape == (0, len(FEATURES))


def test_the_votes_of_the_better_local_branch_count() -> None:
    frame = evidence({"votes": 3.0, "crop_votes": 7.0}, {"votes": 3.0}, {"crop_votes": 1.0}, {})
    assert feature(frame, "log_votes") == pytest.approx(np.log([8, 4, 2, 1]))


def test_a_lead_is_over_the_best_other_reference_of_the_same_query() -> None:
    frame = evidence(
        {"query_id": "a", "inliers": 31}, {"query_id": "a", "inliers": 7}, {"query_id": "a", "inliers": 3},
        {"query_id": "b", "inliers": 15},
        {"query_id": "twins", "inliers": 63}, {"query_id": "twins", "inliers": 63},
    )  # fmt: skip
    # A lone candidate leads what the best of many unrelated references would reach: 3 inliers.
    assert feature(frame, "log_inlier_lead") == pytest.approx(np.log([4, 1, 1, 4, 1, 1]))


def test_matches_that_disagree_speak_against_a_copy() -> None:
    frame = evidence({"inliers": 12, "ratio_matches": 15}, {"inliers": 12, "ratio_matches": 75}, {"inliers": 12})
    assert feature(frame, "few_disagree") == pytest.approx(-np.log([4, 64, 1]))


def test_features_do_not_depend_on_the_order_of_rows() -> None:
    rows = [{"query_id": q, "reference_id": str(n), "inliers": 5 * n, "votes": 2.0 * n} for q in "ab" for n in range(4)]
    np.testing.assert_array_equal(features_of(evidence(*rows)), features_of(evidence(*rows[::-1]))[::-1])


@given(st.lists(st.floats(-1e6, 1e6), min_size=len(FEATURES), max_size=len(FEATURES)), st.floats(-1e6, 1e6))
def test_a_probability_is_between_0_and_1(values: list[float], bias: float) -> None:
    (probability,) = LogisticModel(np.ones(len(FEATURES)), bias).probability(np.array([values]))
    assert 0 <= probability <= 1


@given(st.floats(-50, 50), st.floats(0, 20), st.integers(0, len(FEATURES) - 1))
def test_more_of_what_speaks_for_a_copy_is_never_less_probable(value: float, more: float, column: int) -> None:
    features = np.zeros((2, len(FEATURES)))
    features[:, column] = value, value + more
    first, second = LogisticModel(np.linspace(0, 2, len(FEATURES)), -3.0).probability(features)
    assert first <= second + 1e-12  # an exponential is not monotone to its last digit


def test_a_probability_is_the_logistic_of_the_weighted_sum() -> None:
    model = LogisticModel(np.array([2.0, -1.0]), 0.5)
    assert model.probability(np.array([[1.0, 2.5], [0, 0.5]])).tolist() == pytest.approx([0.5, 0.5])
    assert model.probability(np.array([[np.log(3) / 2, 0.5]])).tolist() == pytest.approx([0.75])


COPY = {"inliers": 120, "ratio_matches": 130, "agreement": 0.92, "coverage": 0.7, "votes": 150.0, "similarity": 0.95}
COPY |= {
    "view_points": 300,
    "normalized_similarity": 0.5,
    "branches": ["global", "local"],
    "distance": 900.0,
    "confirmed": 0.9,
}


def test_the_shipped_calibration_tells_a_copy_from_chance() -> None:
    stray = {"inliers": 3, "ratio_matches": 20, "agreement": 0.15, "votes": 3.0, "branches": ["local"]}
    calibration = load_calibration()
    assert calibration.score(evidence(COPY))[0] > 0.9
    assert calibration.score(evidence(*[{"reference_id": str(n)} | stray for n in range(5)])).max() < 0.1


def test_pages_of_one_template_are_no_copies_though_their_frame_agrees() -> None:
    frame = COPY | {
        "inliers": 12,
        "ratio_matches": 80,
        "agreement": 0.15,
        "confirmed": 0.12,
        "uniqueness": 4000.0,
        "similarity": 0.98,
    }
    assert load_calibration().score(evidence(frame))[0] < 0.1
    assert load_calibration().score(evidence(frame | {"similarity": 0.999}))[0] > 0.5  # the same picture


def test_forms_with_other_entries_are_no_copies_though_most_of_their_points_agree() -> None:
    form = COPY | {"inliers": 92, "agreement": 0.54, "confirmed": 0.56, "uniqueness": 4700.0}

    def compared(replaced: float, spread: float, share: float) -> dict[str, Any]:
        inside = {"replaced_inside": replaced, "spread_inside": spread}
        return form | inside | {"replaced": replaced, "spread": spread, "agreeing_share": share}

    nearly, other, captioned = compared(0.126, 0.243, 0.88), compared(0.3, 0.5, 0.8), compared(0.01, 0.05, 0.9)
    calibration = load_calibration()
    assert calibration.score(evidence(other))[0] < 0.1
    assert calibration.score(evidence(captioned))[0] > 0.5
    alike = {"thumbnail_difference": 1.5, "thumbnail_contrast": 8.0}
    assert calibration.score(evidence(other | alike))[0] < 0.2
    assert calibration.score(evidence(captioned | alike))[0] > 0.9
    unread = calibration.score(evidence(form))[0]
    assert calibration.score(evidence(nearly))[0] < 0.5 < unread


def test_what_lies_around_a_crop_counts_less_than_what_is_in_it() -> None:
    page = COPY | {"inliers": 97, "agreement": 0.48, "confirmed": 0.71, "uniqueness": 2500.0, "agreeing_share": 0.72}
    around = page | {"replaced": 0.1, "spread": 0.2, "replaced_inside": 0.0, "spread_inside": 0.0}
    within = around | {"replaced_inside": 0.1, "spread_inside": 0.2}
    cropped, other = load_calibration().score(evidence(around, within | {"query_id": "other"}))
    assert cropped > 0.5 > other


@given(st.sampled_from(["inliers", "agreement", "confirmed"]), st.floats(1.0, 3.0))
def test_a_pair_with_more_in_common_never_scores_less(name: str, factor: float) -> None:
    less: dict[str, Any] = {"inliers": 20, "agreement": 0.3, "confirmed": 0.3, "distance": 2000.0, "votes": 20.0}
    more = less | {name: less[name] * factor if name != "inliers" else int(less[name] * factor)}
    first, second = (load_calibration().score(evidence(row))[0] for row in (less, more))
    assert first <= second + 1e-12


def test_features_of_templates_are_finite_where_evidence_is_missing() -> None:
    features = template_features_of(evidence({}, {"inliers": 9, "distance": 1e9}, COPY))
    assert features.shape == (3, len(TEMPLATE_FEATURES))
    assert np.isfinite(features).all()


def test_only_pairs_whose_points_agree_are_held_against_templates() -> None:
    none = LogisticModel(np.zeros(len(TEMPLATE_FEATURES)), -4.0)
    shipped = load_calibration()
    calibration = dataclasses.replace(shipped, copy=LogisticModel(np.zeros(len(FEATURES)), 4.0), template=none)
    alike = {"similarity": 0.999, "view_points": 300}
    agreeing, same, plain = calibration.score(evidence({"inliers": 30}, alike, alike | {"inliers": 30}))
    assert agreeing < 0.1
    assert min(same, plain) > 0.9


PLAIN = {"view_points": 0, "similarity": 0.999, "normalized_similarity": 0.6}


@pytest.mark.parametrize(("contrast", "apart"), [(0.0, 5.0), (5.0, 7.9), (60.0, 7.9)])
def test_the_same_picture_is_told_by_its_thumbnail_where_it_has_no_points(contrast: float, apart: float) -> None:
    rows = [PLAIN | {"thumbnail_difference": each, "thumbnail_contrast": contrast} for each in (0.0, 1.5, apart, 40.0)]
    same, encoded_again, near, other = load_calibration().score(evidence(*rows))
    assert same >= encoded_again > 0.5
    assert max(near, other) < 0.1


def test_thumbnails_of_nearly_the_same_look_do_not_lower_what_points_say() -> None:
    seen = COPY | {"thumbnail_difference": 7.9, "thumbnail_contrast": 0.0}
    without, alike = load_calibration().score(evidence({"query_id": "a"} | COPY, {"query_id": "b"} | seen))
    assert alike == without


@given(st.floats(0, 20), st.floats(0, 10), st.floats(0, 90), st.floats(0, 30))
def test_thumbnails_that_differ_less_or_show_more_never_score_less(
    difference: float, more: float, contrast: float, greater: float
) -> None:
    seen = {"thumbnail_difference": difference + more, "thumbnail_contrast": contrast}
    nearer = {"thumbnail_difference": difference, "thumbnail_contrast": contrast + greater}
    first, second = load_calibration().score(evidence(PLAIN | seen, PLAIN | nearer))
    assert first <= second + 1e-12


def test_a_calibration_is_read_from_a_file(tmp_path: Path) -> None:
    weights = {name: float(number) for number, name in enumerate(reversed(FEATURES))}
    (tmp_path / "c.json").write_text(json.dumps(GOOD | {"copy": {"weights": weights, "bias": -1}, "pairs": 10}))
    calibration = load_calibration(str(tmp_path / "c.json"))
    assert calibration.copy.weights.tolist() == list(range(len(FEATURES)))[::-1]
    assert calibration.copy.bias == -1
    assert calibration.template.weights.tolist() == [0.5] * len(TEMPLATE_FEATURES)
    assert calibration.thumbnail.bias == load_calibration().thumbnail.bias  # the file is of an older version


def test_a_calibration_is_read_from_a_store() -> None:
    path = write_json(resolve_path("memory://calibrations/c.json"), GOOD)
    assert load_calibration(str(path)).copy.weights.tolist() == [0.5] * len(FEATURES)
    path.unlink()
    with pytest.raises(ConfigError, match="no calibration file at memory://calibrations"):
        load_calibration(str(path))


def test_a_missing_calibration_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no calibration file at .*absent\.json; give merge\.calibration=shipped"):
        load_calibration(str(tmp_path / "absent.json"))


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "[]",
        "{}",
        json.dumps(MODEL),
        json.dumps({"copy": MODEL}),
        json.dumps(GOOD | {"template": MODEL}),
        json.dumps(GOOD | {"copy": {"weights": MODEL["weights"]}}),
        json.dumps(GOOD | {"copy": MODEL | {"weights": {**MODEL["weights"], "unknown": 1.0}}}),
        json.dumps(GOOD | {"copy": MODEL | {"weights": {**MODEL["weights"], FEATURES[0]: "much"}}}),
        json.dumps(GOOD | {"copy": MODEL | {"weights": {**MODEL["weights"], FEATURES[0]: None}}}),
        json.dumps(GOOD | {"copy": MODEL | {"weights": {**MODEL["weights"], FEATURES[0]: float("nan")}}}),
        json.dumps(GOOD | {"copy": MODEL | {"bias": None}}),
        json.dumps(GOOD | {"template": TEMPLATE | {"bias": float("nan")}}),
        json.dumps(GOOD | {"thumbnail": THUMBNAIL | {"bias": None}}),
    ],
)
def test_a_file_that_is_no_calibration_of_this_version_says_to_fit_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ConfigError, match=r"c\.json is not a calibration of this version .*; fit a new one"):
        load_calibration(str(tmp_path / "c.json"))


def test_a_folder_is_no_calibration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="calibration"):
        load_calibration(str(tmp_path))


def test_inliers_that_chance_explains_are_no_evidence() -> None:
    few = evidence(*({"inliers": number, "agreement": 1.0, "confirmed": 0.5} for number in (0, 1, 3)))
    some = evidence({"inliers": 15, "agreement": 1.0, "confirmed": 0.25})
    for name, beyond in (("log_inliers", np.log(4)), ("agreement", 1.0), ("confirmed", 0.25)):
        assert feature(few, name) == [0.0, 0.0, 0.0]
        assert feature(some, name) == pytest.approx([beyond])
