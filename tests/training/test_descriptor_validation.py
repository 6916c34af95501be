from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.training import DescriptorTraining, PhotoSettings
from copytrace.errors import InputError
from copytrace.training.descriptor_validation import ValidationSet, describe
from copytrace.training.initial_descriptor import initial_network
from copytrace.training.photos import PhotoSplit, TrainingPhoto

Pixels = NDArray[np.uint8]
ARCHITECTURE = "test_efficientnet"
Settings = Callable[..., DescriptorTraining]

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_validation_set_is_the_same_for_every_input_size_and_seed(
    split: PhotoSplit, validation: ValidationSet, settings_of: Settings
) -> None:
    other = ValidationSet.create(split.validation, split.train, settings_of(loop={"seed": 5}).photos, 32)
    assert other.digest == validation.digest
    assert other.references.shape == (len(split.validation), 32, 32, 3)
    assert other.copies.shape == (2 * len(split.validation), 32, 32, 3)
    assert other.originals.tolist() == [number for number in range(len(split.validation)) for _ in range(2)]
    again = ValidationSet.create(split.validation, split.train, settings_of().photos, 48)
    assert np.array_equal(again.copies, validation.copies)
    more = PhotoSettings(validation_copies=3, long_side=96)
    assert ValidationSet.create(split.validation, split.train, more, 48).digest != validation.digest


def test_photos_that_cannot_be_read_do_not_validate(split: PhotoSplit, tmp_path: Path, settings_of: Settings) -> None:
    gone = TrainingPhoto("gone", str(tmp_path / "gone.png"), "gone")
    made = ValidationSet.create([*split.validation[:2], gone], split.train, settings_of().photos, 32)
    assert len(made.references) == 2
    with pytest.raises(InputError, match="of 3 validation photos 1 can be read, and"):
        ValidationSet.create([split.validation[0], gone, gone], split.train, settings_of().photos, 32)
    with pytest.raises(InputError, match="2 can be read, and 0 others; give more"):
        ValidationSet.create(split.validation[:2], [gone], settings_of().photos, 32)


@pytest.fixture
def twins(validation: ValidationSet) -> Callable[[list[int]], ValidationSet]:
    """Return a function that makes a set whose copies are the references, said to be copies of those it is given."""

    def make(originals: list[int]) -> ValidationSet:
        pictures = validation.references[: len(originals)]
        return ValidationSet(pictures, pictures, np.array(originals), "digest")

    return make


def test_copies_that_are_the_originals_are_all_found(
    twins: Callable[[list[int]], ValidationSet], split: PhotoSplit, settings_of: Settings
) -> None:
    network = initial_network(settings_of(), split).eval()
    metrics = twins([0, 1, 2]).metrics(network)
    assert metrics == pytest.approx({"micro_ap": 1.0, "recall_at_p90": 1.0, "top1": 1.0})
    metrics = twins([1, 2, 0]).metrics(network)
    assert (metrics["top1"], metrics["recall_at_p90"]) == (0.0, 0.0)
    assert metrics["micro_ap"] < 0.5


def test_mistakes_show_the_copy_its_original_and_what_was_preferred(
    twins: Callable[[list[int]], ValidationSet], split: PhotoSplit, settings_of: Settings
) -> None:
    made, network = twins([0, 2, 2]), initial_network(settings_of(), split).eval()
    worst = made.mistakes(network)[:48]
    expected = np.concatenate([made.copies[1], made.references[2], made.references[1]], axis=1)
    assert np.array_equal(worst, expected)


def test_descriptions_do_not_depend_on_the_batch(
    validation: ValidationSet, split: PhotoSplit, settings_of: Settings
) -> None:
    network = initial_network(settings_of(), split).eval()
    many = np.concatenate([validation.copies] * 4)[:40]
    vectors = describe(network, many)
    assert (vectors.shape, vectors.dtype) == ((40, 16), np.float32)
    np.testing.assert_allclose(vectors[35:36], describe(network, many[35:36]), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
