"""Pictures in a row that are the same are described once, and have the vectors that they have one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from copytrace.arrays import Floats
from copytrace.features.repeated_pictures import RepeatedPictures


def pictures_of(numbers: list[int]) -> NDArray[np.uint8]:
    return np.array(numbers, np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)


class Counter:
    """Describes a picture by its first pixel, and keeps the sizes of batches."""

    def __init__(self) -> None:
        self.sizes = list[int]()

    def describe(self, batch: NDArray[np.uint8]) -> Floats:
        self.sizes.append(len(batch))
        return batch[:, 0, 0, :2].astype(np.float32)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 2), min_size=1, max_size=9)), max_size=6))
def test_each_picture_has_its_vector_and_only_changes_are_described(parts: list[tuple[str, list[int]]]) -> None:
    counter = Counter()
    describer, changes, last = RepeatedPictures(counter.describe, 3), 0, dict[str, int]()
    for series, numbers in parts:
        vectors = describer.describe(pictures_of(numbers), series)
        assert vectors.tolist() == [[number, number] for number in numbers]
        for number in numbers:
            changes += last.get(series) != number
            last[series] = number
    assert sum(counter.sizes) == changes
    assert all(1 <= size <= 3 for size in counter.sizes)


def test_an_hour_of_one_frame_costs_one() -> None:
    counter = Counter()
    describer = RepeatedPictures(counter.describe, 32)
    for _ in range(56):
        assert (describer.describe(pictures_of([7] * 64)) == 7).all()
    assert counter.sizes == [1]


def test_what_comes_after_is_not_changed_through_what_was_given() -> None:
    describer = RepeatedPictures(Counter().describe, 32)
    pictures = pictures_of([1, 1])
    describer.describe(pictures)[:] = 9
    pictures[:] = 2
    assert describer.describe(pictures_of([2])).tolist() == [[2, 2]]
    assert describer.describe(pictures_of([2, 1])).tolist() == [[2, 2], [1, 1]]
