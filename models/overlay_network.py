"""The overlay detector: pasted pictures as peaks of a heat map, and their four sides drawn to the visible border.

The first stage is CenterNet's (Zhou et al., "Objects as Points", 2019) with FCOS's distances (Tian et al., 2019): a
heat map of centres, and at each centre how far the sides are. Its feature map has a cell per 8 pixels, too coarse for
exact borders, so a second stage looks at a band along each side of a found box on a finer map, and says where across
the band the border runs: a small relative of BorderDet (Qiu et al., 2020). It looks twice, the second time at the box
that the first has drawn, as cascades do (Cai and Vasconcelos, 2018). Last, a judge compares what is in the box with
what is round it, and says how sure it is that somebody pasted a picture there.
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
COARSE, FINE = 8, 4  # pixels per cell of the map of centres, and of the map of borders
PROPOSED = 8  # boxes per picture that somebody else may propose, where the graph is fixed
RARE = -2.2  # logit of a prior of 10 %: most cells are no centre
IMPOSSIBLE = -20.0  # logit of a box that is none

# The bands of the second stage, in shares of the box's own side.
ACROSS, ALONG = 15, 12  # samples across a side, and along it
REACH = 0.16  # how far off a side may be, either way
FIXED_REACH = 0.02  # and this share of the picture besides
OVERHANG = 0.12  # the band goes on beyond the corners: there the border must stop
PASSES = 2  # looks at the borders of a box

AROUND, GRID = 0.5, 8  # shares of a box's sides that the judge sees beyond it, and samples along each side of all that


class Centres(NamedTuple):
    """What the first stage says of every cell: logits [N, H, W] and upright boxes [N, H, W, 4] in shares 0..1."""

    logits: Tensor
    boxes: Tensor


class Bordered(NamedTuple):
    """What one look at the borders says of boxes [N, K, 4]: where they are, and why.

    `places` [N, K, 4, ACROSS] are the logits of where across its band each side of `looked_at` runs, `boxes` is that
    box with its sides there, and `evidence` [N, K, 8 C] is what was seen of them.
    """

    looked_at: Tensor
    boxes: Tensor
    places: Tensor
    evidence: Tensor


class OverlayNetwork(nn.Module):
    """Pictures in, boxes of pictures pasted into them out; normalisation and decoding are inside the graph."""

    mean: Tensor
    std: Tensor
    confidence_shift: Tensor

    def __init__(self, backbone: nn.Module, channels: Sequence[int], config: OverlayConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.frozen_statistics = True
        self.pyramid = Pyramid(channels, config.width)
        self.tower = nn.Sequential(separable(config.width, config.width), separable(config.width, config.width))
        self.centre = nn.Conv2d(config.width, 1, 1)
        self.distances = nn.Conv2d(config.width, 4, 1)
        self.borders = Borders(config.width // 2)
        self.judge = Judge(config.width, 4 * config.width)
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)
        # Added to the logit of every box; set after training so that 0.5 is where matching should believe a box.
        self.register_buffer("confidence_shift", torch.zeros(1))
        nn.init.constant_(self.centre.bias, RARE)  # type: ignore[arg-type]
        nn.init.constant_(self.distances.bias, -1.5)  # type: ignore[arg-type] # sides some 0.2 from the centre

    def forward(self, images: Tensor, proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Find pictures in uint8 [N, S, S, 3] RGB: boxes x0, y0, x1, y1 [N, 8, 4] and confidences [N, 8], 0..1.

        `proposals` float32 [N, P, 4] are boxes that somebody else has found; the second stage judges them beside those
        of the first. Rows of zeros are none. Corners are shares of the sides; the best box comes first, and repeats of
        a better one are not taken out.
        """
        coarse, fine = self.maps(self.normalise(images))
        centres = self.centres(coarse)
        boxes, heat = strongest(centres, CANDIDATES)
        boxes = torch.cat([boxes, proposals], dim=1)
        heat = torch.cat([heat, logits_at(centres.logits, proposals)], dim=1)
        looks, judged = self.second_stage(coarse, fine, boxes, heat)
        logits = torch.where(boxes[..., 2] > boxes[..., 0], judged, IMPOSSIBLE)
        confidence, order = torch.sigmoid(logits + self.confidence_shift).topk(CANDIDATES, dim=1)
        return looks[-1].boxes.gather(1, order[..., None].expand(-1, -1, 4)), confidence

    def normalise(self, images: Tensor) -> Tensor:
        """Turn uint8 [N, S, S, 3] into what the backbone takes, float32 [N, 3, S, S]."""
        scale, shift = 1.0 / (255.0 * self.std), self.mean / self.std
        return images.permute(0, 3, 1, 2).float() * scale - shift

    def maps(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The map of centres [N, W, S / 8, S / 8] and that of borders [N, W / 2, S / 4, S / 4]."""
        coarse, fine = self.pyramid(self.backbone(pixels))
        return self.tower(coarse), fine

    def centres(self, coarse: Tensor) -> Centres:
        """Read heat and boxes off the map of centres."""
        logits = self.centre(coarse).squeeze(1).float()
        left, top, right, bottom = torch.sigmoid(self.distances(coarse).float()).unbind(1)
        rows, columns = logits.shape[1:]
        x = ((torch.arange(columns, device=logits.device) + 0.5) / columns).view(1, 1, -1)
        y = ((torch.arange(rows, device=logits.device) + 0.5) / rows).view(1, -1, 1)
        return Centres(logits, torch.stack([x - left, y - top, x + right, y + bottom], dim=-1).clamp(0.0, 1.0))

    def second_stage(self, coarse: Tensor, fine: Tensor, boxes: Tensor, heat: Tensor) -> tuple[list[Bordered], Tensor]:
        """Look at the borders of boxes [N, K, 4] `PASSES` times, and judge the last: logits [N, K].

        `heat` [N, K] are the first stage's logits. Gradients do not flow into boxes and heat.
        """
        looks: list[Bordered] = []
        for _ in range(PASSES):
            looks.append(self.borders(fine, (looks[-1].boxes if looks else boxes).detach()))
        last = looks[-1]
        return looks, self.judge(coarse, last.boxes.detach(), last.evidence, heat.detach())

    def resize(self, input_size: int) -> None:
        """Look at squares of another side from now on."""
        self.config = replace(self.config, input_size=input_size)

    def train(self, mode: bool = True) -> OverlayNetwork:
        """Switch to training or back; with `frozen_statistics` the backbone keeps those that it came with."""
        super().train(mode)
        if self.frozen_statistics:
            self.backbone.eval()
        return self


class Pyramid(nn.Module):
    """Backbone maps at strides 4, 8, 16, 32, fused from the coarsest down (FPN, Lin et al., 2017)."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(number, width, 1) for number in channels[1:]])
        self.fuse = nn.ModuleList([separable(width, width, kernel=5) for _ in channels[1:]])
        self.fine_lateral = nn.Conv2d(channels[0], width // 2, 1)
        self.fine_coarse = nn.Conv2d(width, width // 2, 1)
        self.fine_fuse = separable(width // 2, width // 2)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Fuse four maps, finest first, into those of stride 8 and of stride 4."""
        fused = self.fuse[-1](self.lateral[-1](maps[-1]))
        for number in (1, 0):
            lateral = self.lateral[number](maps[number + 1])
            fused = self.fuse[number](lateral + _enlarged(fused, lateral))
        lateral = self.fine_lateral(maps[0])
        return fused, self.fine_fuse(lateral + _enlarged(self.fine_coarse(fused), lateral))


class Borders(nn.Module):
    """A band of samples along each side of a box tells where the side is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.by_side = nn.Parameter(torch.empty(4, channels, channels))  # a left border looks unlike an upper one
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

    def forward(self, fine: Tensor, boxes: Tensor) -> Bordered:
        """Move boxes [N, K, 4] to the borders on the map [N, C, H, W]."""
        count, number = boxes.shape[:2]
        samples = sampled(fine, band_points(boxes, self.offsets).flatten(1, 3))
        samples = samples.view(count, -1, number, 4, ACROSS, ALONG)
        mixed = torch.einsum("nckspq,scd->nksdpq", samples, self.by_side.to(samples.dtype))
        seen = self.look(mixed.reshape(count * number * 4, -1, ACROSS, ALONG))
        profile = torch.cat([seen.mean(dim=3), seen.amax(dim=3)], dim=1)  # [N K 4, 2 C, ACROSS]
        places = self.place(profile).float()  # [N K 4, 1, ACROSS]
        chances = places.softmax(dim=2)
        inwards = (chances.squeeze(1) * self.offsets).sum(dim=1).view(count, number, 4) * reach(boxes)
        moved = boxes + inwards * inwards.new_tensor([1.0, 1.0, -1.0, -1.0])
        evidence = (profile * chances.to(profile.dtype)).sum(dim=2).view(count, number, -1)
        return Bordered(boxes, moved.clamp(0.0, 1.0), places.view(count, number, 4, ACROSS), evidence)


class Judge(nn.Module):
    """Says how surely a box is a pasted picture: by its borders, by its inside and what is round it, by the heat."""

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
        samples = sampled(coarse, torch.stack([across, down], dim=-1).flatten(1, 2))
        samples = samples.view(count, -1, number, GRID, GRID).transpose(1, 2).flatten(0, 1)
        compared = self.compare(samples).view(count, number, -1)
        logits: Tensor = self.decide(torch.cat([evidence, compared, heat[..., None].to(evidence.dtype)], dim=2))
        return logits.squeeze(2).float()


def sampled(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps [N, C, H, W] at points x, y [N, A, B, 2] in shares of the picture, as [N, C, A, B]; 0 beyond it."""
    return functional.grid_sample(maps, points.to(maps.dtype) * 2 - 1, align_corners=False)


def reach(boxes: Tensor) -> Tensor:
    """How far the sides left, top, right, bottom of boxes [..., 4] are searched, in shares of the picture [..., 4]."""
    wide, tall = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return FIXED_REACH + REACH * torch.stack([wide, tall, wide, tall], dim=-1)


def band_points(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Points x, y [N, K, 4, ACROSS, ALONG, 2] in shares of the picture: from outside to inside, along each side."""
    x0, y0, x1, y1 = boxes[..., None, None].unbind(2)  # [N, K, 1, 1]
    steps = torch.linspace(-OVERHANG, 1 + OVERHANG, ALONG, device=boxes.device)
    left, top, right, bottom = (reach(boxes)[..., None, None] * offsets.view(1, 1, 1, -1, 1)).unbind(2)
    across, down = x0 + steps * (x1 - x0), y0 + steps * (y1 - y0)
    sides = ((x0 + left, down), (across, y0 + top), (x1 - right, down), (across, y1 - bottom))
    whole = (*boxes.shape[:2], ACROSS, ALONG)
    return torch.stack([torch.stack([x.expand(whole), y.expand(whole)], dim=-1) for x, y in sides], dim=2)


def strongest(centres: Centres, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest peaks of the heat map: boxes [N, K, 4] and logits [N, K]; the box of each is its cell's."""
    heat = centres.logits
    around = functional.max_pool2d(heat[:, None], 3, stride=1, padding=1).squeeze(1)
    peaks = torch.where(heat >= around, heat, heat - 20.0).flatten(1)
    logits, cells = peaks.topk(count, dim=1)
    boxes = centres.boxes.flatten(1, 2).gather(1, cells[..., None].expand(-1, -1, 4))
    return boxes, logits


def logits_at(logits: Tensor, boxes: Tensor) -> Tensor:
    """The first stage's logits [N, H, W] at the centres of boxes [N, K, 4], as [N, K]."""
    rows, columns = logits.shape[1:]
    x = ((boxes[..., 0] + boxes[..., 2]) / 2 * columns).long().clamp(0, columns - 1)
    y = ((boxes[..., 1] + boxes[..., 3]) / 2 * rows).long().clamp(0, rows - 1)
    return logits.flatten(1).gather(1, y * columns + x)


def _enlarged(coarse: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(coarse, size=like.shape[-2:], mode="nearest")


def separable(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """A depthwise and a pointwise convolution, BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, kernel, padding=kernel // 2, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def build_overlay(config: OverlayConfig) -> OverlayNetwork:
    """Return the network that `config` tells of, with random weights.

    Raises `ValueError` when timm has no such model, or none with maps at strides 4, 8, 16 and 32.
    """
    try:
        whole: Any = timm.create_model(config.architecture, pretrained=False, features_only=True)
        strides = list(whole.feature_info.reduction())
        levels = [strides.index(stride) for stride in STRIDES]
        backbone: Any = timm.create_model(config.architecture, pretrained=False, features_only=True, out_indices=levels)
    except (RuntimeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{config.architecture} gives no feature maps at strides {STRIDES}; take another model of timm ({error})"
        ) from error
    channels = backbone.feature_info.channels()
    return OverlayNetwork(backbone, channels, config)
