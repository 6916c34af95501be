"""Losses of contrastive learning, as combined in SSCD (Pizzi et al., "A Self-Supervised Descriptor for Image Copy
Detection", 2022): InfoNCE between views, and an entropy term that spreads descriptors over the sphere; and the loss of
triplets with a margin."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def info_nce(similarity: Tensor, positive: Tensor, ignored: Tensor, temperature: float) -> Tensor:
    """Return the mean InfoNCE loss over all positive pairs (van den Oord et al., 2018; several positives per anchor).

    `similarity` float [N, M] holds the cosines of N anchors with M others. `positive` bool [N, M] marks the others that
    show the same photo, `ignored` bool [N, M] those that are neither positive nor negative (the anchor itself, or a
    picture that shares only the backdrop). Each positive is compared with the anchor's negatives alone, not with its
    other positives. The loss is 0 without positives.
    """
    logits = similarity.float() / temperature
    negatives = logits.masked_fill(positive | ignored, -torch.inf).logsumexp(dim=1, keepdim=True)
    per_pair = functional.softplus(negatives - logits)  # -log(e^p / (e^p + sum of e^n))
    taken = positive & ~ignored
    return torch.where(taken, per_pair, 0.0).sum() / taken.sum().clamp(min=1)


def margin_loss(similarity: Tensor, positive: Tensor, ignored: Tensor, margin: float) -> Tensor:
    """Return the mean over the violated triplets of d²(anchor, positive) − d²(anchor, negative) + `margin`.

    It is the loss of FaceNet (Schroff et al., 2015), with all triplets of which it is positive. The inputs are those of
    `info_nce`; the squared distance of unit vectors is 2 − 2 cosine. The loss is 0 without such triplets.
    """
    distance = 2.0 - 2.0 * similarity.float()
    anchors, others = torch.nonzero(positive & ~ignored, as_tuple=True)
    excess = distance[anchors, others][:, None] - distance[anchors] + margin
    violated = (excess > 0) & ~(positive | ignored)[anchors]
    return torch.where(violated, excess, 0.0).sum() / violated.sum().clamp(min=1)


def koleo(similarity: Tensor, related: Tensor) -> Tensor:
    """Return minus the mean log distance of each vector to its nearest unrelated one (Sablayrolles et al., 2019).

    `similarity` float [N, M] holds cosines; `related` bool [N, M] marks the others that do not count: the vector itself
    and views of the same photo. Rows without an unrelated vector are left out.
    """
    nearest = similarity.float().masked_fill(related, -torch.inf).amax(dim=1)
    counted = torch.isfinite(nearest)
    distance = (2.0 - 2.0 * nearest[counted]).clamp(min=1e-6).sqrt()
    return -torch.log(distance).sum() / counted.sum().clamp(min=1)
