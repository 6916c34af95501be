"""Validation of descriptors by a search of edited copies among held-out photos."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from configs.training import PhotoSettings
from copytrace.errors import InputError, MediaError
from copytrace.features.resize import resize_for_descriptor
from copytrace.metrics.images import micro_average_precision, recall_at_precision
from copytrace.synthesis.edited_set import HARD, MILD, edit_copy
from copytrace.training.photos import TrainingPhoto, load_photo, random_generator
from models.configs import Interpolation
from models.descriptor import DescriptorNetwork

Pictures = NDArray[np.uint8]
SEED = 7_919  # the validation set does not depend on the training's seed
BATCH = 32
MISTAKES_SHOWN = 12
MOST_DONORS = 200


@dataclass(frozen=True)
class ValidationSet:
    """Pictures uint8 [N, S, S, 3] of references and of edited copies, the reference of each copy, and a digest.

    The digest is that of the pictures before they are reduced to S; only metrics of the same digest are comparable.
    """

    references: Pictures
    copies: Pictures
    originals: NDArray[np.int64]
    digest: str

    @classmethod
    def create(
        cls,
        photos: Sequence[TrainingPhoto],
        donors: Sequence[TrainingPhoto],
        settings: PhotoSettings,
        input_size: int,
        interpolation: Interpolation = "area",
    ) -> ValidationSet:
        """Edit `validation_copies` copies of each photo, half of them mildly; unreadable photos are left out.

        Copies are pasted onto `donors`, which are none of `photos`: a copy would have two originals. Raises
        `InputError` when fewer than two photos, or no donor, can be read.
        """
        images = _load_readable(photos, settings.long_side)
        backdrops = _load_readable(donors[:: max(1, len(donors) // MOST_DONORS)], settings.long_side)
        if len(images) < 2 or not backdrops:
            raise InputError(
                f"of {len(photos)} validation photos {len(images)} can be read, and {len(backdrops)} others; give more"
            )
        content = hashlib.sha256()
        for image in [*images, *backdrops]:
            content.update(image.tobytes())
        content.update(f"{SEED} {settings.validation_copies}".encode())
        copies, originals = [], []
        for number, image in enumerate(images):
            for copy in range(settings.validation_copies):
                rng = random_generator(SEED, number, copy)
                edited, _ = edit_copy(
                    image, HARD if copy % 2 else MILD, rng, lambda rng: backdrops[int(rng.integers(len(backdrops)))]
                )
                copies.append(resize_for_descriptor(np.asarray(edited.image), input_size, interpolation))
                originals.append(number)
        references = [resize_for_descriptor(np.asarray(image), input_size, interpolation) for image in images]
        return cls(np.stack(references), np.stack(copies), np.array(originals), content.hexdigest()[:16])

    def similarity(self, network: DescriptorNetwork) -> NDArray[np.float32]:
        """Return the cosines float32 [copies, references]."""
        return describe(network, self.copies) @ describe(network, self.references).T

    def metrics(self, network: DescriptorNetwork) -> dict[str, float]:
        """Return micro-AP and recall at 90 % precision of the cosine, and the share of right top results."""
        similarity = self.similarity(network)
        correct = np.arange(len(self.references)) == self.originals[:, None]
        point = recall_at_precision(correct.ravel(), similarity.ravel(), len(self.copies))
        return {
            "micro_ap": micro_average_precision(correct.ravel(), similarity.ravel(), len(self.copies)),
            "recall_at_p90": point.recall if point else 0.0,
            "top1": float((similarity.argmax(axis=1) == self.originals).mean()),
        }

    def mistakes(self, network: DescriptorNetwork) -> Pictures:
        """Return a sheet, uint8 [H, W, 3], of the worst mistakes: each row has copy, original, and top result."""
        similarity = self.similarity(network)
        preferred = similarity.argmax(axis=1)
        own = similarity[np.arange(len(self.copies)), self.originals]
        worst = np.argsort(own - similarity.max(axis=1), kind="stable")[:MISTAKES_SHOWN]
        columns = (self.copies[worst], self.references[self.originals[worst]], self.references[preferred[worst]])
        return np.concatenate([np.concatenate(list(column), axis=0) for column in columns], axis=1)


def _load_readable(photos: Sequence[TrainingPhoto], long_side: int) -> list[Image.Image]:
    images = []
    for photo in photos:
        try:
            images.append(load_photo(photo.path, long_side))
        except MediaError:
            continue
    return images


def describe(network: DescriptorNetwork, pictures: Pictures) -> NDArray[np.float32]:
    """Describe uint8 [N, S, S, 3] as float32 [N, D] on the network's device."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        parts = [
            network(torch.from_numpy(pictures[start : start + BATCH]).to(device)).float().cpu().numpy()
            for start in range(0, len(pictures), BATCH)
        ]
    return np.concatenate(parts)
