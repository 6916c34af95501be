from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.training import LoopSettings
from copytrace.errors import InputError
from copytrace.training.batches import iterate_batches, steps_per_epoch


@dataclass(frozen=True)
class Numbers:
    """Examples that tell what they were made of."""

    count: int

    def __len__(self) -> int:
        return self.count

    def example(self, epoch: int, index: int) -> dict[str, NDArray[Any]]:
        pixels = np.random.default_rng((epoch, index)).integers(0, 256, (2, 3), dtype=np.uint8)
        return {"pixels": pixels, "epoch": np.int64(epoch), "index": np.int64(index)}


def settings_of(**changes: Any) -> LoopSettings:
    return LoopSettings.model_validate({"epochs": 3, "batch_size": 4, "workers": 0} | changes)


def all_batches(settings: LoopSettings, epoch: int = 0, step: int = 0, count: int = 14) -> list[dict[str, Tensor]]:
    return list(iterate_batches(Numbers(count), settings, epoch, step))


def assert_same(found: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)


def test_an_epoch_has_whole_batches_of_different_examples() -> None:
    batches = all_batches(settings_of())
    assert len(batches) == 3 * steps_per_epoch(Numbers(14), settings_of()) == 9
    assert (batches[0]["pixels"].shape, batches[0]["pixels"].dtype) == ((4, 2, 3), torch.uint8)
    for epoch in range(3):
        ones = batches[3 * epoch : 3 * epoch + 3]
        assert {int(number) for batch in ones for number in batch["epoch"]} == {epoch}
        assert len({int(index) for batch in ones for index in batch["index"]}) == 12


def test_epochs_and_seeds_shuffle_differently() -> None:
    def order(settings: LoopSettings) -> list[list[int]]:
        indexes = torch.stack([batch["index"] for batch in all_batches(settings)])
        return indexes.reshape(3, 12).tolist()  # type: ignore[no-any-return]

    first, second, third = order(settings_of())
    assert len({tuple(first), tuple(second), tuple(third)}) == 3
    assert order(settings_of(seed=1))[0] != first


def test_batches_from_a_step_on_are_the_rest_of_all_batches() -> None:
    assert_same(all_batches(settings_of(), epoch=1, step=2), all_batches(settings_of())[5:])


def test_a_worker_process_makes_the_batches_that_this_one_makes() -> None:
    assert_same(all_batches(settings_of(workers=1)), all_batches(settings_of()))


def test_too_few_examples_for_a_batch_are_told() -> None:
    with pytest.raises(InputError, match=r"3 examples are too few for one batch of 4; lower loop\.batch_size"):
        steps_per_epoch(Numbers(3), settings_of())
