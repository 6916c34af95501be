"""The training module of the descriptor: SSCD's losses, or a margin, with a memory of earlier batches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from configs.training import DescriptorTraining
from copytrace.training.distributed import gather_rows, rank
from copytrace.training.loop import TrainingModule
from copytrace.training.views import NO_DONOR
from models.descriptor import DescriptorNetwork
from models.losses import info_nce, koleo, margin_loss

LABELS = 4  # photo, group, donor's group, and the photo mixed in; NO_DONOR if there is none


class ContrastiveModule(TrainingModule[DescriptorNetwork]):
    """Training of a descriptor network so that views of one photo have similar vectors, and others do not."""

    memory: Tensor
    remembered: Tensor

    def __init__(self, network: DescriptorNetwork, settings: DescriptorTraining) -> None:
        super().__init__()
        self.network, self.settings = network, settings
        self._step = 0, 0
        # Cross-batch memory (Wang et al., 2020): the latest vectors first, with their labels.
        self.register_buffer("memory", torch.zeros(settings.memory, settings.dimensions))
        self.register_buffer("remembered", torch.full((settings.memory, LABELS), NO_DONOR))

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the backbone."""
        return list(self.network.backbone.parameters())

    def train(self, mode: bool = True) -> ContrastiveModule:
        """Set the training mode as in torch, but keep the statistics of the backbone's BatchNorms."""
        super().train(mode)
        for module in self.network.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def start_step(self, epoch: int, step: int) -> None:
        """Receive the number of the next step, the seed of mixing."""
        self._step = epoch, step

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `loss`, its parts, and the mean cosines of `positives` and of the nearest `negatives`.

        The parts are that of the setting `loss`, such as `info_nce`, and `koleo`.
        """
        views = batch["views"].flatten(0, 1).permute(0, 3, 1, 2).float() / 255.0
        columns_of_labels = [batch[name].flatten() for name in ("photo", "group", "donors")]
        labels = torch.stack([*columns_of_labels, torch.full_like(columns_of_labels[0], NO_DONOR)], dim=1)
        views, labels = self._mix(views, labels)
        pixels = (views - self.network.mean) / self.network.std
        vectors = self.network.embed(pixels.contiguous(memory_format=torch.channels_last))
        others, other_labels = gather_rows(vectors), gather_rows(labels)
        itself = torch.zeros(len(vectors), len(others) + len(self.memory), dtype=torch.bool, device=vectors.device)
        itself[:, rank() * len(vectors) : (rank() + 1) * len(vectors)].fill_diagonal_(True)
        columns = torch.cat([others, self.memory])
        positive, related = _relations(labels, torch.cat([other_labels, self.remembered]))
        empty = torch.cat([torch.zeros_like(other_labels[:, 0]), self.remembered[:, 0]]) == NO_DONOR
        with torch.autocast(vectors.device.type, enabled=False):  # bfloat16 has a precision of 1/256 near 1
            similarity = vectors @ columns.T
        contrast = self._contrast(similarity, positive, itself | empty | (related & ~positive))
        spread = koleo(similarity, itself | related | empty)
        self._remember(others.detach(), other_labels)
        unrelated = similarity.detach().masked_fill(itself | related | empty, -1.0).amax(dim=1)
        return {
            "loss": contrast + self.settings.entropy_weight * spread,
            self.settings.loss: contrast.detach(),
            "koleo": spread.detach(),
            "positives": similarity.detach()[positive & ~itself & ~empty].mean(),
            "negatives": unrelated.mean(),
        }

    def _contrast(self, similarity: Tensor, positive: Tensor, ignored: Tensor) -> Tensor:
        if self.settings.loss == "margin":
            return margin_loss(similarity, positive, ignored, self.settings.margin)
        return info_nce(similarity, positive, ignored, self.settings.temperature)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # it would be compiled again for each step's draws
    def _mix(self, views: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Paste some views onto others of the batch, so that they are views of both photos (SSCD's mixing, as a paste).

        Views that already show a donor are not changed, as there is no label for a third photo.
        """
        rng = np.random.default_rng((self.settings.loop.seed, *self._step, rank()))
        chosen = np.flatnonzero(rng.random(len(views)) < self.settings.views.mixup)
        side, before, known = views.shape[-1], views, labels.tolist()
        views, labels = views.clone(), labels.clone()
        for index in chosen:
            other = int(rng.integers(len(views)))
            photo, group, donor, _ = known[other]
            if group == known[index][1] or max(donor, known[index][2]) != NO_DONOR:
                continue
            width, height = (int(side * rng.uniform(0.4, 0.8)) for _ in range(2))
            left, top = int(rng.integers(side - width + 1)), int(rng.integers(side - height + 1))
            inset = functional.interpolate(before[index : index + 1], (height, width), mode="area")
            views[index] = before[other]
            views[index, :, top : top + height, left : left + width] = inset[0]
            labels[index, 2], labels[index, 3] = group, photo
        return views, labels

    @torch.no_grad()
    def _remember(self, vectors: Tensor, labels: Tensor) -> None:
        size = len(self.memory)
        if size:
            self.memory.copy_(torch.cat([vectors.to(self.memory.dtype), self.memory])[:size])
            self.remembered.copy_(torch.cat([labels, self.remembered])[:size])


def _relations(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return two bool [N, M]: which pairs show the same photo, and which are related at all.

    Stills of one video and pictures with the same donor are related without showing the same photo.
    """

    def same(row: int, column: int) -> Tensor:
        found = rows[:, row, None] == columns[None, :, column]
        return found & (rows[:, row, None] != NO_DONOR)

    positive = same(0, 0) | same(0, 3) | same(3, 0) | same(3, 3)
    related = positive | same(1, 1) | same(1, 2) | same(2, 1) | same(2, 2)
    return positive, related
