"""Batches of training examples, which worker processes make while the network computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from configs.training import LoopSettings
from copytrace.errors import InputError
from copytrace.training.distributed import rank, world_size


class Examples(Protocol):
    """The examples of a training. It must pickle, as worker processes make the examples."""

    def __len__(self) -> int:
        """Return the number of examples of an epoch."""

    def example(self, epoch: int, index: int) -> dict[str, NDArray[np.generic]]:
        """Make an example; the same epoch and index give the same arrays in every process."""


def steps_per_epoch(examples: Examples, settings: LoopSettings) -> int:
    """Return the number of whole batches of an epoch on each device; every epoch leaves out other examples.

    Raises `InputError` when there are too few examples for one batch.
    """
    batch = settings.batch_size * world_size()
    if len(examples) < batch:
        raise InputError(
            f"{len(examples)} examples are too few for one batch of {batch}; lower loop.batch_size, or give more photos"
        )
    return len(examples) // batch


def iterate_batches(examples: Examples, settings: LoopSettings, epoch: int, step: int) -> Iterator[dict[str, Tensor]]:
    """Yield the batches from `step` of an epoch to the end of the last epoch, arrays of [batch_size, …]."""
    loader = DataLoader(
        _ExampleDataset(examples),
        batch_sampler=_ShuffledBatches(len(examples), settings, epoch, step),
        num_workers=settings.workers,
        # Forking a process with threads, such as that of a Prefect worker, can lock up the child.
        multiprocessing_context="spawn" if settings.workers else None,
        worker_init_fn=_use_one_thread,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if settings.workers else None,
    )
    yield from loader


class _ExampleDataset(Dataset[dict[str, NDArray[np.generic]]]):
    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __getitem__(self, key: tuple[int, int]) -> dict[str, NDArray[np.generic]]:
        return self.examples.example(*key)


class _ShuffledBatches(Sampler[list[tuple[int, int]]]):
    """Epochs and indexes of the examples of this process, from a step on; all processes shuffle alike."""

    def __init__(self, count: int, settings: LoopSettings, epoch: int, step: int) -> None:
        self._count, self._settings, self._epoch, self._step = count, settings, epoch, step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size, first = self._settings.batch_size, self._step
        steps = self._count // (size * world_size())
        for epoch in range(self._epoch, self._settings.epochs):
            order = np.random.default_rng((self._settings.seed, epoch)).permutation(self._count)
            rows = order[: steps * size * world_size()].reshape(steps, world_size(), size)
            for row in rows[first:, rank()]:
                yield [(epoch, int(index)) for index in row]
            first = 0


def _use_one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
