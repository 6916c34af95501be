"""The training module of the overlay detector: its targets and its losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss

from copytrace.training.loop import TrainingModule
from models.overlay_network import ACROSS, Centers, OverlayNetwork, center_logits, reach, top_peaks

# Weights of the four parts of the loss, which make them equally large after the first epochs.
HEAT, BOXES, PLACES, TRUST = 1.0, 1.0, 0.25, 2.0

SPREAD = 0.1  # standard deviation of a heat spot, as a share of the box's side (TTFNet, Liu et al., 2020: 0.09)
MIN_SPREAD = 0.7  # in cells
NEAR_CENTER = 0.3  # height of the spot above which a cell also learns the box
PROPOSALS = 8  # boxes of the first stage that the second learns from
WRONG, RIGHT = 0.4, 0.8  # IoU at which the target confidence of a box is 0, and at which it is 1


class OverlayModule(TrainingModule[OverlayNetwork]):
    """Training on batches of `image` uint8 [N, S, S, 3] and `boxes` float32 [N, M, 4]; rows of zeros are empty."""

    def __init__(self, network: OverlayNetwork) -> None:
        super().__init__()
        self.network = network

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the backbone."""
        return list(self.network.backbone.parameters())

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `loss` and its parts: heat, boxes (first stage), places (of both passes) and trust (second stage)."""
        network, truth = self.network, batch["boxes"]
        coarse, fine = network.maps(network.normalize(batch["image"]))
        centers = network.decode_centers(coarse)
        heat, boxes = first_stage_losses(centers, truth)
        found, logits = top_peaks(centers, PROPOSALS)
        guesses = jitter_boxes(truth)
        proposed = torch.cat([found.detach(), guesses], dim=1)
        looks, trusted = network.second_stage(
            coarse, fine, proposed, torch.cat([logits, center_logits(centers.logits, guesses)], dim=1)
        )
        places = sum((place_loss(look.places, look.proposed, truth) for look in looks), boxes.new_zeros(()))
        trust = trust_loss(trusted, looks[-1].boxes.detach(), truth)
        loss = HEAT * heat + BOXES * boxes + PLACES * places + TRUST * trust
        return {"loss": loss, "heat": heat, "boxes": boxes, "places": places, "trust": trust}


def first_stage_losses(centers: Centers, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return the penalty-reduced focal loss of the heat (Law and Deng, 2018), and the GIoU loss of boxes near centers.

    `truth` is [N, M, 4]; both losses are scalars, means over the batch's true boxes.
    """
    rows, columns = centers.logits.shape[1:]
    spots = heat_spots(truth, rows, columns)  # [N, M, H, W]
    target, owner = spots.max(dim=1)
    number = box_mask(truth).sum().clamp(min=1)
    log_heat, log_cold = functional.logsigmoid(centers.logits), functional.logsigmoid(-centers.logits)
    heat, cold = log_heat.exp(), log_cold.exp()
    at_center = (target > 0.9999).float()
    focal = at_center * cold.square() * log_heat + (1 - at_center) * (1 - target).pow(4) * heat.square() * log_cold
    own = truth.gather(1, owner.flatten(1)[..., None].expand(-1, -1, 4)).view_as(centers.boxes)
    weight = torch.where(target > NEAR_CENTER, target, 0.0)
    wrong = generalized_box_iou_loss(centers.boxes, own) + ((centers.boxes - own).abs() / reach(own)).mean(dim=-1)
    return -focal.sum() / number, (weight * wrong).sum() / weight.sum().clamp(min=1.0)


def heat_spots(truth: Tensor, rows: int, columns: int) -> Tensor:
    """Return a Gaussian spot for each of the boxes [N, M, 4], [N, M, rows, columns]: 1 in the cell of its center."""
    x0, y0, x1, y1 = truth[..., None].unbind(2)  # [N, M, 1]

    def along(low: Tensor, high: Tensor, cells: int) -> Tensor:
        at = torch.arange(cells, device=truth.device)
        center = ((low + high) / 2 * cells).floor().clamp(max=cells - 1)
        spread = (SPREAD * cells * (high - low)).clamp(min=MIN_SPREAD)
        return torch.exp(-0.5 * ((at - center) / spread).square())

    spots = along(y0, y1, rows)[..., None] * along(x0, x1, columns)[:, :, None]
    return spots * box_mask(truth)[..., None, None]


def box_mask(truth: Tensor) -> Tensor:
    """Return which rows of [N, M, 4] are boxes rather than zeros, bool [N, M]."""
    return truth[..., 2] > truth[..., 0]


def jitter_boxes(truth: Tensor) -> Tensor:
    """Return boxes [N, M, 4] with each side moved at random within reach; rows of zeros become random boxes."""
    noise = torch.rand_like(truth) * 2 - 1
    moved = truth + 0.8 * noise * reach(truth)
    corner, side = 0.7 * torch.rand_like(truth[..., :2]), 0.1 + 0.5 * torch.rand_like(truth[..., :2])
    anywhere = torch.cat([corner, corner + side], dim=-1)
    return torch.where(box_mask(truth)[..., None], moved, anywhere).clamp(0.0, 1.0)


def nearest_truth(boxes: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest IoU [N, K] of each of the boxes [N, K, 4] with a true box, and that box [N, K, 4]."""
    best, index = pairwise_iou(boxes, truth).max(dim=2)
    return best, truth.gather(1, index[..., None].expand(-1, -1, 4))


def pairwise_iou(boxes: Tensor, truth: Tensor) -> Tensor:
    """Return the IoU of each of the boxes [N, K, 4] with each of [N, M, 4], [N, K, M]; 0 for two empty ones.

    All pictures are compared at once: `torch.compile` would unroll a loop over a batch into thousands of operations.
    """
    one, other = boxes[:, :, None], truth[:, None]
    sides = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp(min=0)
    shared = sides.prod(dim=-1)
    areas = [(each[..., 2:] - each[..., :2]).prod(dim=-1) for each in (one, other)]
    return torch.nan_to_num(shared / (areas[0] + areas[1] - shared))


def place_loss(places: Tensor, proposed: Tensor, truth: Tensor) -> Tensor:
    """Return the distribution focal loss (Li et al., 2020) of the positions of true sides [N, K, 4] within reach."""
    overlap, own = nearest_truth(proposed, truth)
    inwards = (own - proposed) * proposed.new_tensor([1.0, 1.0, -1.0, -1.0]) / reach(proposed)
    known = (inwards.abs() <= 1.0) & (overlap > WRONG)[..., None]
    position = ((inwards.clamp(-1.0, 1.0) + 1) / 2 * (ACROSS - 1)).clamp(max=ACROSS - 1 - 1e-4)
    low = position.floor()
    share = position - low
    log_probabilities = functional.log_softmax(places, dim=-1)
    at_low = log_probabilities.gather(-1, low.long()[..., None]).squeeze(-1)
    at_high = log_probabilities.gather(-1, low.long()[..., None] + 1).squeeze(-1)
    losses = -((1 - share) * at_low + share * at_high)
    return (losses * known).sum() / known.sum().clamp(min=1)


def trust_loss(logits: Tensor, boxes: Tensor, truth: Tensor) -> Tensor:
    """Return the cross-entropy between the confidence of boxes [N, K, 4] and a target 0..1 by their IoU."""
    overlap, _ = nearest_truth(boxes, truth)
    right = ((overlap - WRONG) / (RIGHT - WRONG)).clamp(0.0, 1.0)
    return functional.binary_cross_entropy_with_logits(logits, right)
