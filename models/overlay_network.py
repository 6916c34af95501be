"""The overlay detector: pasted pictures as peaks of a heat map, with their four sides refined to the visible border.

The first stage is CenterNet's (Zhou et al., "Objects as Points", 2019) with FCOS's distances (Tian et al., 2019): a
heat map of centers, and at each center the distances of the sides. Its feature map has a cell per 8 pixels, too coarse
for exact borders. A second stage, related to BorderDet (Qiu et al., 2020), samples a band along each side of a box on a
finer map, and estimates the position of the border across the band. It runs twice, the second time on the box of the
first pass, like a cascade (Cai and Vasconcelos, 2018). Finally, a judge compares the inside of the box with its
surroundings, and estimates the confidence that a picture was pasted there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.configs import OverlayConfig

CANDIDATES = 8  # boxes per picture
STRIDES = (4, 8, 16, 32)  # of the backbone's maps
COARSE, FINE = 8, 4  # pixels per cell of the map of centers and of the map of borders
PROPOSED = 8  # proposals per picture in the exported graph
RARE = -2.2  # logit of a prior of 10 %: most cells are not a center
IMPOSSIBLE = -20.0  # logit of an empty box

# The bands of the second stage, in shares of the box's own side.
ACROSS, ALONG = 15, 12  # samples across a side, and along it
REACH = 0.16  # largest error of a side in either direction
FIXED_REACH = 0.02  # to which this share of the picture is added
OVERHANG = 0.12  # by which the band extends beyond the corners, where the border must end
PASSES = 2  # runs of the second stage

AROUND, GRID = 0.5, 8  # share of a box's side that the judge sees beyond it, and samples along each axis


class Centers(NamedTuple):
    """Output of the first stage for every cell: logits [N, H, W] and upright boxes [N, H, W, 4] in shares 0..1."""

    logits: Tensor
    boxes: Tensor


class BorderLook(NamedTuple):
    """Output of one pass of the second stage for boxes [N, K, 4].

    `proposed` are the boxes of the pass before. `places` [N, K, 4, ACROSS] are logits of the position of each of their
    sides across its band, `boxes` are the boxes with the sides at those positions, and `evidence` [N, K, 8 C] are
    features of the sides.
    """

    proposed: Tensor
    boxes: Tensor
    places: Tensor
    evidence: Tensor


class OverlayNetwork(nn.Module):
    """Network from pictures to the boxes of pictures pasted into them, including normalization and decoding."""

    mean: Tensor
    std: Tensor
    confidence_shift: Tensor

    def __init__(self, backbone: nn.Module, channels: Sequence[int], config: OverlayConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.frozen_statistics = True
        self.pyramid = Pyramid(channels, config.width)
        self.tower = nn.Sequential(
            separable_convolution(config.width, config.width), separable_convolution(config.width, config.width)
        )
        self.centre = nn.Conv2d(config.width, 1, 1)  # trained weights have this name
        self.distances = nn.Conv2d(config.width, 4, 1)
        self.borders = Borders(config.width // 2)
        self.judge = Judge(config.width, 4 * config.width)
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)
        # Added to the logit of every box. It is set after training so that matching should use boxes from 0.5 on.
        self.register_buffer("confidence_shift", torch.zeros(1))
        nn.init.constant_(self.centre.bias, RARE)  # type: ignore[arg-type]
        nn.init.constant_(self.distances.bias, -1.5)  # type: ignore[arg-type] # sides some 0.2 from the center

    def forward(self, images: Tensor, proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Find pictures in uint8 [N, S, S, 3] RGB: boxes x0, y0, x1, y1 [N, 8, 4] and confidences [N, 8], 0..1.

        `proposals` float32 [N, P, 4] are boxes from another detector, which the second stage judges together with those
        of the first; rows of zeros are empty. Corners are shares of the sides. The best box comes first, and repeats of
        a better box are not removed.
        """
        coarse, fine = self.maps(self.normalize(images))
        centers = self.decode_centers(coarse)
        boxes, heat = top_peaks(centers, CANDIDATES)
        boxes = torch.cat([boxes, proposals], dim=1)
        heat = torch.cat([heat, center_logits(centers.logits, proposals)], dim=1)
        looks, judged = self.second_stage(coarse, fine, boxes, heat)
        logits = torch.where(boxes[..., 2] > boxes[..., 0], judged, IMPOSSIBLE)
        confidence, order = torch.sigmoid(logits + self.confidence_shift).topk(CANDIDATES, dim=1)
        return looks[-1].boxes.gather(1, order[..., None].expand(-1, -1, 4)), confidence

    def normalize(self, images: Tensor) -> Tensor:
        """Return uint8 [N, S, S, 3] as normalized float32 [N, 3, S, S], the backbone's input."""
        scale, shift = 1.0 / (255.0 * self.std), self.mean / self.std
        return images.permute(0, 3, 1, 2).float() * scale - shift

    def maps(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map of centers [N, W, S / 8, S / 8] and that of borders [N, W / 2, S / 4, S / 4]."""
        coarse, fine = self.pyramid(self.backbone(pixels))
        return self.tower(coarse), fine

    def decode_centers(self, coarse: Tensor) -> Centers:
        """Decode heat and boxes from the map of centers."""
        logits = self.centre(coarse).squeeze(1).float()
        left, top, right, bottom = torch.sigmoid(self.distances(coarse).float()).unbind(1)
        rows, columns = logits.shape[1:]
        x = ((torch.arange(columns, device=logits.device) + 0.5) / columns).view(1, 1, -1)
        y = ((torch.arange(rows, device=logits.device) + 0.5) / rows).view(1, -1, 1)
        return Centers(logits, torch.stack([x - left, y - top, x + right, y + bottom], dim=-1).clamp(0.0, 1.0))

    def second_stage(
        self, coarse: Tensor, fine: Tensor, boxes: Tensor, heat: Tensor
    ) -> tuple[list[BorderLook], Tensor]:
        """Refine the borders of boxes [N, K, 4] in `PASSES` passes, and judge the last boxes: logits [N, K].

        `heat` [N, K] are the first stage's logits. Gradients do not flow into boxes and heat.
        """
        looks: list[BorderLook] = []
        for _ in range(PASSES):
            looks.append(self.borders(fine, (looks[-1].boxes if looks else boxes).detach()))
        last = looks[-1]
        return looks, self.judge(coarse, last.boxes.detach(), last.evidence, heat.detach())

    def resize(self, input_size: int) -> None:
        """Change the side of the square input in pixels."""
        self.config = replace(self.config, input_size=input_size)

    def train(self, mode: bool = True) -> OverlayNetwork:
        """Set the training mode; with `frozen_statistics` the BatchNorms of the backbone keep their statistics."""
        super().train(mode)
        if self.frozen_statistics:
            self.backbone.eval()
        return self


class Pyramid(nn.Module):
    """Fusion of the backbone's maps at strides 4, 8, 16, 32 from the coarsest to the finest (FPN, Lin et al., 2017)."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(number, width, 1) for number in channels[1:]])
        self.fuse = nn.ModuleList([separable_convolution(width, width, kernel=5) for _ in channels[1:]])
        self.fine_lateral = nn.Conv2d(channels[0], width // 2, 1)
        self.fine_coarse = nn.Conv2d(width, width // 2, 1)
        self.fine_fuse = separable_convolution(width // 2, width // 2)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Fuse four maps, finest first, into one of stride 8 and one of stride 4."""
        fused = self.fuse[-1](self.lateral[-1](maps[-1]))
        for number in (1, 0):
            lateral = self.lateral[number](maps[number + 1])
            fused = self.fuse[number](lateral + _enlarge(fused, lateral))
        lateral = self.fine_lateral(maps[0])
        return fused, self.fine_fuse(lateral + _enlarge(self.fine_coarse(fused), lateral))


class Borders(nn.Module):
    """Estimation of the position of each side of a box from a band of samples along it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.by_side = nn.Parameter(torch.empty(4, channels, channels))  # left and upper borders look different
        self.look = nn.Sequential(
            nn.GroupNorm(4, channels), nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels), nn.Conv2d(channels, channels, 1),
            nn.GroupNorm(4, channels), nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels), nn.Conv2d(channels, channels, 1),
            nn.GroupNorm(4, channels), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.place = nn.Conv1d(2 * channels, 1, 3, padding=1)
        self.register_buffer("offsets", torch.linspace(-1.0, 1.0, ACROSS), persistent=False)
        nn.init.kaiming_uniform_(self.by_side, a=5**0.5)

    offsets: Tensor

    def forward(self, fine: Tensor, boxes: Tensor) -> BorderLook:
        """Move the sides of boxes [N, K, 4] to the borders on the map [N, C, H, W]."""
        count, number = boxes.shape[:2]
        samples = sample_maps(fine, band_points(boxes, self.offsets).flatten(1, 3))
        samples = samples.view(count, -1, number, 4, ACROSS, ALONG)
        mixed = torch.einsum("nckspq,scd->nksdpq", samples, self.by_side.to(samples.dtype))
        seen = self.look(mixed.reshape(count * number * 4, -1, ACROSS, ALONG))
        profile = torch.cat([seen.mean(dim=3), seen.amax(dim=3)], dim=1)  # [N K 4, 2 C, ACROSS]
        places = self.place(profile).float()  # [N K 4, 1, ACROSS]
        probabilities = places.softmax(dim=2)
        inwards = (probabilities.squeeze(1) * self.offsets).sum(dim=1).view(count, number, 4) * reach(boxes)
        moved = boxes + inwards * inwards.new_tensor([1.0, 1.0, -1.0, -1.0])
        evidence = (profile * probabilities.to(profile.dtype)).sum(dim=2).view(count, number, -1)
        return BorderLook(boxes, moved.clamp(0.0, 1.0), places.view(count, number, 4, ACROSS), evidence)


class Judge(nn.Module):
    """Estimation of the confidence of a box from its borders, its inside and surroundings, and the heat."""

    def __init__(self, channels: int, evidence: int) -> None:
        super().__init__()
        width = channels // 2
        self.compare = nn.Sequential(
            nn.Conv2d(channels, width, 1), nn.GroupNorm(4, width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Conv2d(width, width, 1),
            nn.GroupNorm(4, width), nn.ReLU(inplace=True),
            nn.Flatten(), nn.Linear(width * GRID * GRID, 64), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.decide = nn.Sequential(nn.Linear(evidence + 64 + 1, 64), nn.ReLU(inplace=True), nn.Linear(64, 1))
        self.register_buffer("steps", torch.linspace(-AROUND, 1 + AROUND, GRID), persistent=False)

    steps: Tensor

    def forward(self, coarse: Tensor, boxes: Tensor, evidence: Tensor, heat: Tensor) -> Tensor:
        """Judge boxes [N, K, 4] on the map [N, C, H, W], with `evidence` [N, K, E] and `heat` [N, K]: logits [N, K]."""
        count, number = boxes.shape[:2]
        x0, y0, x1, y1 = boxes[..., None, None].unbind(2)
        whole = (count, number, GRID, GRID)
        across = (x0 + self.steps.view(1, 1, 1, -1) * (x1 - x0)).expand(whole)
        down = (y0 + self.steps.view(1, 1, -1, 1) * (y1 - y0)).expand(whole)
        samples = sample_maps(coarse, torch.stack([across, down], dim=-1).flatten(1, 2))
        samples = samples.view(count, -1, number, GRID, GRID).transpose(1, 2).flatten(0, 1)
        compared = self.compare(samples).view(count, number, -1)
        logits: Tensor = self.decide(torch.cat([evidence, compared, heat[..., None].to(evidence.dtype)], dim=2))
        return logits.squeeze(2).float()


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """Sample maps [N, C, H, W] at points x, y [N, A, B, 2] in shares of the picture, as [N, C, A, B]; 0 outside.

    Places are float32 even where maps have half precision: bfloat16 would round them to 1/256 of the picture.
    """
    return functional.grid_sample(maps.float(), points.float() * 2 - 1, align_corners=False).to(maps.dtype)


def reach(boxes: Tensor) -> Tensor:
    """Return how far the left, top, right and bottom side of boxes [..., 4] may move, in shares of the picture."""
    wide, tall = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return FIXED_REACH + REACH * torch.stack([wide, tall, wide, tall], dim=-1)


def band_points(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Return points x, y [N, K, 4, ACROSS, ALONG, 2] in shares of the picture, from outside to inside, along sides."""
    x0, y0, x1, y1 = boxes[..., None, None].unbind(2)  # [N, K, 1, 1]
    steps = torch.linspace(-OVERHANG, 1 + OVERHANG, ALONG, device=boxes.device)
    left, top, right, bottom = (reach(boxes)[..., None, None] * offsets.view(1, 1, 1, -1, 1)).unbind(2)
    across, down = x0 + steps * (x1 - x0), y0 + steps * (y1 - y0)
    sides = ((x0 + left, down), (across, y0 + top), (x1 - right, down), (across, y1 - bottom))
    whole = (*boxes.shape[:2], ACROSS, ALONG)
    return torch.stack([torch.stack([x.expand(whole), y.expand(whole)], dim=-1) for x, y in sides], dim=2)


def top_peaks(centers: Centers, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` highest peaks of the heat map: the boxes [N, K, 4] of their cells, and logits [N, K]."""
    heat = centers.logits
    around = functional.max_pool2d(heat[:, None], 3, stride=1, padding=1).squeeze(1)
    peaks = torch.where(heat >= around, heat, heat - 20.0).flatten(1)
    logits, cells = peaks.topk(count, dim=1)
    boxes = centers.boxes.flatten(1, 2).gather(1, cells[..., None].expand(-1, -1, 4))
    return boxes, logits


def center_logits(logits: Tensor, boxes: Tensor) -> Tensor:
    """Return the first stage's logits [N, H, W] at the centers of boxes [N, K, 4], as [N, K]."""
    rows, columns = logits.shape[1:]
    x = ((boxes[..., 0] + boxes[..., 2]) / 2 * columns).long().clamp(0, columns - 1)
    y = ((boxes[..., 1] + boxes[..., 3]) / 2 * rows).long().clamp(0, rows - 1)
    return logits.flatten(1).gather(1, y * columns + x)


def _enlarge(coarse: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(coarse, size=like.shape[-2:], mode="nearest")


def separable_convolution(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """Return a depthwise and a pointwise convolution, BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, kernel, padding=kernel // 2, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def build_overlay(config: OverlayConfig) -> OverlayNetwork:
    """Return the network of `config` with random weights.

    Raises `ValueError` when timm has no such model, or it has no maps at strides 4, 8, 16 and 32.
    """
    try:
        whole: Any = timm.create_model(config.architecture, pretrained=False, features_only=True)
        strides = list(whole.feature_info.reduction())
        levels = [strides.index(stride) for stride in STRIDES]
        backbone: Any = timm.create_model(config.architecture, pretrained=False, features_only=True, out_indices=levels)
    except (RuntimeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{config.architecture} gives no feature maps at strides {STRIDES}; give another model of timm ({error})"
        ) from error
    channels = backbone.feature_info.channels()
    return OverlayNetwork(backbone, channels, config)
