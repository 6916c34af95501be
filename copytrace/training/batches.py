"""Batches of training examples, made by other processes while the network computes."""

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
    """What there is to learn from. It must pickle, as worker processes make the examples."""

    def __len__(self) -> int:
        """How many examples an epoch has."""

    def example(self, epoch: int, index: int) -> dict[str, NDArray[np.generic]]:
        """Make one; the same epoch and index give the same arrays, in every process."""


def steps_per_epoch(examples: Examples, settings: LoopSettings) -> int:
    """How many batches an epoch has on each device; the rest of its examples is left out, as each epoch shuffles anew.

    Raises `InputError` when there are too few examples for one batch.
    """
    whole = settings.batch_size * world_size()
    if len(examples) < whole:
        raise InputError(
            f"{len(examples)} examples are too few for one batch of {whole}; lower loop.batch_size, or give more photos"
        )
    return len(examples) // whole


def iterate_batches(examples: Examples, settings: LoopSettings, epoch: int, step: int) -> Iterator[dict[str, Tensor]]:
    """Yield the batches from `step` of an epoch to the end of the last; each array gets a first axis of batch_size."""
    loader = DataLoader(
        _Indexed(examples),
        batch_sampler=_Shuffled(len(examples), settings, epoch, step),
        num_workers=settings.workers,
        # Forking a process that has threads, as those of a Prefect worker do, can lock up the child.
        multiprocessing_context="spawn" if settings.workers else None,
        worker_init_fn=_one_thread,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if settings.workers else None,
    )
    yield from loader


class _Indexed(Dataset[dict[str, NDArray[np.generic]]]):
    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __getitem__(self, place: tuple[int, int]) -> dict[str, NDArray[np.generic]]:
        return self.examples.example(*place)


class _Shuffled(Sampler[list[tuple[int, int]]]):
    """Which examples this process learns from, from a step of an epoch on; all processes shuffle alike."""

    def __init__(self, count: int, settings: LoopSettings, epoch: int, step: int) -> None:
        self._count, self._settings, self._epoch, self._step = count, settings, epoch, step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size, first = self._settings.batch_size, self._step
        steps = self._count // (size * world_size())
        for epoch in range(self._epoch, self._settings.epochs):
            order = np.random.default_rng((self._settings.seed, epoch)).permutation(self._count)
            whole = order[: steps * size * world_size()].reshape(steps, world_size(), size)
            for row in whole[first:, rank()]:
                yield [(epoch, int(index)) for index in row]
            first = 0


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
