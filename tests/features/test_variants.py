from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from copytrace.features.variants import VARIANTS, CanonicalForm, fit_canonical_form, read_descriptors, read_geometry

Bytes = NDArray[np.uint8]
Descriptors = Callable[[int, int], Bytes]
FEW = np.array([0.3, 0.3], np.float32)


@pytest.fixture
def form(random_descriptors: Descriptors) -> CanonicalForm:
    return fit_canonical_form(random_descriptors(400, 7), FEW)


def test_reading_by_two_variants_is_reading_by_the_xor_of_their_numbers(random_descriptors: Descriptors) -> None:
    descriptors = random_descriptors(3, 0)
    for first in VARIANTS:
        for second in VARIANTS:
            twice = read_descriptors(read_descriptors(descriptors, np.full(3, first.number)), np.full(3, second.number))
            once = read_descriptors(descriptors, np.full(3, first.number ^ second.number))
            np.testing.assert_array_equal(twice, once)


def test_each_point_is_read_by_its_own_variant(random_descriptors: Descriptors) -> None:
    descriptors = random_descriptors(4, 1)
    geometry = np.random.default_rng(0).uniform(0.1, 1, (4, 4)).astype(np.float32)
    read, places = read_descriptors(descriptors, np.arange(4)), read_geometry(geometry, np.arange(4))
    for variant in VARIANTS:
        row = slice(variant.number, variant.number + 1)
        place, expected = variant.read(geometry[row], descriptors[row])
        np.testing.assert_array_equal(read[row], expected)
        np.testing.assert_array_equal(places[row], place)


def test_all_variants_of_a_point_have_one_canonical_form(form: CanonicalForm, random_descriptors: Descriptors) -> None:
    descriptors = random_descriptors(200, 2)
    canonical, variant = form.of(descriptors)
    np.testing.assert_array_equal(read_descriptors(descriptors, variant), canonical)
    for edit in VARIANTS[1:]:
        edited = read_descriptors(descriptors, np.full(200, edit.number))
        again, edited_variant = form.of(edited)
        np.testing.assert_array_equal(again, canonical)
        assert (edited_variant ^ variant == edit.number).all()


def test_the_likely_forms_begin_with_the_canonical_one_and_differ(
    form: CanonicalForm, random_descriptors: Descriptors
) -> None:
    descriptors = random_descriptors(300, 3)
    row, forms, variants = form.all_likely(descriptors)
    canonical, own = form.of(descriptors)
    np.testing.assert_array_equal(row[:300], np.arange(300))
    np.testing.assert_array_equal(forms[:300], canonical)
    np.testing.assert_array_equal(variants[:300], own)
    np.testing.assert_array_equal(read_descriptors(descriptors[row], variants), forms)
    assert len(np.unique(row * 4 + variants)) == len(row)
    assert 1.2 < len(row) / 300 < 1.9  # a margin of 0.3 deviations holds a quarter of the points: 1.24 squared


def test_a_point_near_the_boundary_is_found_by_a_form_that_an_edit_gave_it(form: CanonicalForm) -> None:
    random = np.random.default_rng(4)
    points = random.integers(0, 120, (500, 128), dtype=np.uint8)
    edited = np.clip(points + random.integers(-4, 5, points.shape), 0, 255).astype(np.uint8)
    row, _, variants = form.all_likely(edited)
    stored = form.of(points)[1]
    found = {(int(r), int(v)) for r, v in zip(row, variants, strict=True)}
    missed = sum((number, int(variant)) not in found for number, variant in enumerate(stored))
    changed = int((form.of(edited)[1] != stored).sum())
    assert changed > 5
    assert missed < changed / 5


def test_projections_are_exact_whole_numbers(form: CanonicalForm) -> None:
    extreme = np.where(form.axes[0] > 0, 255, 0).astype(np.uint8)[None]
    exact = int((extreme.astype(np.int64) @ form.axes[0].astype(np.int64))[0])
    assert exact < 1 << 24  # float32 holds it
    assert form._projections(extreme)[0, 0] == exact


def test_the_axes_do_not_depend_on_how_a_library_rounds_eigenvectors_or_chooses_their_signs(
    random_descriptors: Descriptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, eigh, random = random_descriptors(400, 7), np.linalg.eigh, np.random.default_rng(0)

    def of_another_library(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values, vectors = eigh(matrix)
        return values, vectors * random.choice([-1, 1]) + random.normal(0, 1e-12, vectors.shape)

    expected = fit_canonical_form(points, FEW).axes
    monkeypatch.setattr(np.linalg, "eigh", of_another_library)
    for _ in range(12):
        np.testing.assert_array_equal(fit_canonical_form(points, FEW).axes, expected)
