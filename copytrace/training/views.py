"""Views of a photo, which a descriptor must recognize as the same picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import v2

from configs.training import ViewSettings
from copytrace.errors import MediaError
from copytrace.features.resize import resize_for_descriptor
from copytrace.synthesis.edit_tracking import Strength
from copytrace.synthesis.edited_set import Difficulty, edit_copy
from copytrace.synthesis.edits import kind_of_edits
from copytrace.training.confirmed_pairs import ConfirmedPairs
from copytrace.training.photos import TrainingPhoto, group_numbers, load_photo, random_generator
from models.configs import Interpolation

# Share of the edited views that SSCD's transforms make; the others have the edits of `edits.EDITS`.
SSCD_SHARE = 0.4
COPIES = Difficulty(
    (1, 4), Strength(0.0, 1.0), {"photo": 1.0, "decor": 1.0, "geometry": 1.5, "crop": 1.5, "overlay": 2.5}
)
NO_DONOR = -1

_Picture = tuple[Image.Image, int, int, int]  # and the numbers of its photo, of the photo's group, and of its donor's


@dataclass(frozen=True)
class ViewExamples:
    """Examples of the descriptor's training: the views of one photo each, and photos that are negatives only.

    An example has V pictures, `views` uint8 [V, S, S, 3]; `photo` and `group` int64 [V], the numbers of the photo that
    each shows and of its group; and `donors` int64 [V], the group of the photo that was pasted on the view or that the
    view was pasted onto, or -1. With `pairs`, a share of the examples are labeled ones: a query and its reference as
    they are, and then edited views of the reference.
    """

    photos: Sequence[TrainingPhoto]
    settings: ViewSettings
    input_size: int
    long_side: int
    seed: int
    pairs: ConfirmedPairs | None = None
    interpolation: Interpolation = "area"

    def __len__(self) -> int:
        return len(self.photos)

    def example(self, epoch: int, index: int) -> dict[str, NDArray[np.generic]]:
        """Make the views of photo `index`, or of a labeled pair; unreadable ones are replaced by readable ones."""
        rng = random_generator(self.seed, epoch, index)
        pairs = self.pairs if self.pairs and rng.random() < self.settings.labeled_share else None
        pictures = (pairs and self._labeled_views(pairs, rng)) or self._views(index, rng)
        views, photos, groups, donors = zip(*pictures, strict=True)
        return {
            "views": np.stack([self._resize(view) for view in views]),
            "photo": np.array(photos, np.int64),
            "group": np.array(groups, np.int64),
            "donors": np.array(donors, np.int64),
        }

    def _resize(self, view: Image.Image) -> NDArray[np.uint8]:
        return resize_for_descriptor(np.asarray(view), self.input_size, self.interpolation)

    def _views(self, index: int, rng: np.random.Generator) -> list[_Picture]:
        index, image = self._load_readable(index)
        views = []
        for number in range(self.settings.views):
            plain = number == 0 and rng.random() < self.settings.reference_share
            view, donor = (image, NO_DONOR) if plain else self._edit(image, rng)
            views.append((view, index, int(self._groups[index]), donor))
        return views + self._negatives(self.settings.negatives, rng)

    def _labeled_views(self, pairs: ConfirmedPairs, rng: np.random.Generator) -> list[_Picture] | None:
        """Return the pictures of a pair and of negatives; None if the pair cannot be read."""
        pair = int(rng.integers(len(pairs.copies)))
        views = [self._of_pair(pairs, row) for row in pairs.copies[pair].tolist()]
        if None in views:
            return None
        known = [view for view in views if view is not None]
        for _ in range(self.settings.views - 2):
            view, donor = self._edit(known[1][0], rng)
            known.append((view, *known[1][1:3], donor))
        rows = rng.permutation(pairs.alike(pair))[: self.settings.negatives].tolist()
        alike = [view for view in (self._of_pair(pairs, row) for row in rows) if view is not None]
        return known + alike + self._negatives(self.settings.negatives - len(alike), rng)

    def _of_pair(self, pairs: ConfirmedPairs, row: int) -> _Picture | None:
        try:
            image = load_photo(pairs.paths[row], self.long_side)
        except MediaError:
            return None
        return image, int(pairs.photo[row]), int(pairs.group[row]), NO_DONOR

    def _negatives(self, count: int, rng: np.random.Generator) -> list[_Picture]:
        chosen = [self._load_readable(int(rng.integers(len(self.photos)))) for _ in range(count)]
        return [(image, index, int(self._groups[index]), NO_DONOR) for index, image in chosen]

    @cached_property
    def _groups(self) -> NDArray[np.int64]:
        return group_numbers(self.photos)

    def _load_readable(self, index: int) -> tuple[int, Image.Image]:
        for step in range(len(self.photos)):
            candidate = (index + step) % len(self.photos)
            try:
                return candidate, load_photo(self.photos[candidate].path, self.long_side)
            except MediaError:
                continue
        raise MediaError("none of the photos can be read any more")

    def _edit(self, image: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, int]:
        if rng.random() < SSCD_SHARE:
            return sscd_view(image, self.input_size, rng), NO_DONOR
        donors = []

        def load_donor(rng: np.random.Generator) -> Image.Image:
            index, donor = self._load_readable(int(rng.integers(len(self.photos))))
            donors.append(int(self._groups[index]))
            return donor

        edited, names = edit_copy(image, COPIES, rng, load_donor)
        return edited.image, donors[-1] if kind_of_edits(names) == "overlay" else NO_DONOR


def sscd_view(image: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """Edit by SSCD's augmentations (Pizzi et al., 2022; transforms/settings.py) to a square of `size` pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(rng.integers(1 << 62)))  # `torch.manual_seed` also seeds CUDA
        edited: Image.Image = _sscd_transforms(size)(image)
    return edited


def _sscd_transforms(size: int) -> v2.Transform:
    radius = size / 224  # SSCD blurs by 1-5 pixels at 224
    return v2.Compose(
        [
            v2.RandomApply([v2.RandomRotation((0, 360))], p=0.05),
            v2.RandomResizedCrop(size, scale=(0.08, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.RandomChoice([v2.RandomRotation((90 * n, 90 * n)) for n in (1, 2, 3)])], p=0.05),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(2 * round(2 * radius) + 5, (0.5 * radius, 2.5 * radius))], p=0.5),
            v2.RandomApply([v2.PILToTensor(), v2.JPEG((5, 95)), v2.ToPILImage()], p=0.2),
        ]
    )
