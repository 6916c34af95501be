"""Variants of a point: how its descriptor reads in a mirror image, in a negative, and in both.

The four variants of a descriptor are permutations of one another, so two axes choose one of them as its *canonical
form*: the form whose projections on both axes are not negative. A copy's point and the original's have the same
canonical form, whatever was mirrored or inverted, and one search finds all variants. Near a boundary, where an edit may
have changed a sign, a query's point is searched in more than one form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats, Numbers
from copytrace.features.points import MIRRORED_ORDER, NEGATIVE_ORDER, Bytes

LARGEST = np.iinfo(np.int8).max  # component of an axis


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to read a view's points: as they are, mirrored, with inverted colors, or both."""

    mirrored: bool
    negative: bool

    @property
    def number(self) -> int:
        """0 plain, 1 mirrored, 2 negative, 3 both; reading by two variants is reading by the XOR of their numbers."""
        return self.mirrored + 2 * self.negative

    def read(self, geometry: Floats, descriptors: Bytes) -> tuple[Floats, Bytes]:
        """Return geometry float32 [N, 4] and descriptors uint8 [N, 128] as if the picture had not been edited so."""
        number = np.full(len(geometry), self.number)
        return read_geometry(geometry, number), read_descriptors(descriptors, number)


VARIANTS = tuple(Variant(mirrored, negative) for negative in (False, True) for mirrored in (False, True))
PLAIN = VARIANTS[0]

_ORDERS = np.stack(
    [np.arange(len(MIRRORED_ORDER)), MIRRORED_ORDER, NEGATIVE_ORDER, MIRRORED_ORDER[NEGATIVE_ORDER]]
).astype(np.int64)


def read_descriptors(descriptors: Bytes, variant: Numbers) -> Bytes:
    """Return descriptors uint8 [N, 128], each read by the variant of this number, int64 [N]."""
    read = descriptors.copy()
    for number in range(1, len(VARIANTS)):
        chosen = variant == number
        read[chosen] = descriptors[chosen][:, _ORDERS[number]]
    return read


def read_geometry(geometry: Floats, variant: Numbers) -> Floats:
    """Return x, y, scale and angle float32 [N, 4], each read by the variant of this number, int64 [N]."""
    read = geometry.copy()
    read[variant & 1 == 1, 1::2] *= -1
    read[variant & 2 == 2, 3] += np.pi
    return read


@dataclass(frozen=True, slots=True)
class CanonicalForm:
    """The rule by which one of a descriptor's variants is canonical.

    The first of the `axes` int8 [2, 128] changes its sign in mirror images, the second one in negatives. `margins`
    float32 [2] tell how near to 0 a projection of a query's point is uncertain. Projections are whole numbers, so they
    do not depend on the processor.
    """

    axes: NDArray[np.int8]
    margins: Floats

    def of(self, descriptors: Bytes) -> tuple[Bytes, Numbers]:
        """Return the canonical forms of descriptors uint8 [N, 128], and the variants int64 [N] that they are."""
        mirrored, negative = self._projections(descriptors).T < 0
        variant = mirrored + 2 * negative.astype(np.int64)
        return read_descriptors(descriptors, variant), variant

    def all_likely(self, descriptors: Bytes) -> tuple[Numbers, Bytes, Numbers]:
        """Return the canonical forms that descriptors may have had before an edit.

        They are E rows of `descriptors` int64 [E], forms uint8 [E, 128] and variants int64 [E]: up to four of each.
        """
        projections = self._projections(descriptors)
        uncertain = np.abs(projections) < self.margins
        canonical = (projections < 0) @ np.array([1, 2])
        rows, variants = [np.arange(len(descriptors))], [canonical]
        for change in range(1, len(VARIANTS)):
            likely = np.flatnonzero((uncertain[:, 0] | (change & 1 == 0)) & (uncertain[:, 1] | (change & 2 == 0)))
            rows.append(likely)
            variants.append(canonical[likely] ^ change)
        row, variant = np.concatenate(rows), np.concatenate(variants)
        return row, read_descriptors(descriptors[row], variant), variant

    def _projections(self, descriptors: Bytes) -> Floats:
        return descriptors.astype(np.float32) @ self.axes.T.astype(np.float32)


def fit_canonical_form(descriptors: Bytes, margins: Floats) -> CanonicalForm:
    """Fit axes to descriptors uint8 [N, 128]; `margins` float32 [2] are in standard deviations of the projections.

    An axis is the first principal component of the part of descriptors that changes sign under one edit only.
    """
    values = descriptors.astype(np.float64)
    axes = []
    for mirror_sign, negative_sign in ((-1, 1), (1, -1)):
        part = (values + mirror_sign * values[:, MIRRORED_ORDER]) / 2
        part = (part + negative_sign * part[:, NEGATIVE_ORDER]) / 2
        axis = np.linalg.eigh(part.T @ part)[1][:, -1]
        # Whole numbers that keep the symmetry exactly. Several are the largest, with both signs: the last of them gives
        # the axis its sign. Before rounding, errors of the eigenvector would tell which one is the largest.
        rounded = np.rint(axis / np.abs(axis).max() * LARGEST).astype(np.int8)
        axes.append(rounded * -np.sign(rounded[np.abs(rounded) == LARGEST][-1]))
    form = CanonicalForm(np.stack(axes), np.zeros(2, np.float32))
    spread = form._projections(descriptors).std(axis=0)
    return CanonicalForm(form.axes, (margins * spread).astype(np.float32))
