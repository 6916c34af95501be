from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from configs.training import DescriptorTraining
from copytrace.training.contrastive import ContrastiveModule
from copytrace.training.distributed import broadcast, is_first_process, launch, rank
from copytrace.training.log import read_history
from copytrace.training.loop import TrainingContext, fit
from models.descriptor import DescriptorNetwork
from models.losses import info_nce, koleo

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 16
NONE = -1
# In float32 a cosine of two of these vectors is known to some 1e-6. A loss divides that by the temperature of 0.05, and
# the entropy term by the squared distance to the nearest vector, 0.1 or more here, with a weight of 10.
COSINES = {"rtol": 0.0, "atol": 1e-5}
LOSSES = {"rtol": 1e-5, "atol": 1e-4}
Batch = dict[str, Tensor]


class Squares:
    """Two views of each of some random pictures."""

    def __len__(self) -> int:
        return 24

    def example(self, epoch: int, index: int) -> dict[str, NDArray[Any]]:
        picture = np.random.default_rng(index).integers(0, 200, (1, SIZE, SIZE, 3))
        noise = np.random.default_rng((epoch, index)).integers(0, 56, (2, SIZE, SIZE, 3))
        label = np.full(2, index)
        views = (picture + noise).astype(np.uint8)
        return {"views": views, "photo": label, "group": label, "donors": np.full(2, NONE)}


class InOtherLight:
    """Two views of each of 24 photos, each darker or brighter by up to a quarter of the range."""

    def __len__(self) -> int:
        return 24

    def example(self, epoch: int, index: int) -> dict[str, NDArray[Any]]:
        light = np.random.default_rng((epoch, index)).integers(-60, 61, (2, 1, 1, 1))
        views = np.clip(views_of([index])[0].numpy() + light, 0, 255).astype(np.uint8)
        label = np.full(2, index)
        return {"views": views, "photo": label, "group": label, "donors": np.full(2, NONE)}


def trainee_of(
    *, weights: int = 0, memory: int = 0, mixup: float = 0.0, entropy_weight: float = 10.0, **loop: Any
) -> ContrastiveModule:
    """A trainee whose weights follow from a seed; its vectors lie apart, as rounding rules among nearly equal ones."""
    torch.manual_seed(weights)
    values = {"loop": loop, "memory": memory, "dimensions": 8, "entropy_weight": entropy_weight}
    settings = DescriptorTraining.model_validate(values | {"views": {"mixup": mixup}})
    backbone = nn.Sequential(nn.Conv2d(3, 6, 4, stride=2), nn.BatchNorm2d(6), nn.GELU(), nn.Conv2d(6, 12, 3))
    projection = nn.Linear(12, 8)
    network = DescriptorNetwork(backbone, mean=[0.5] * 3, std=[0.25] * 3, projection=projection).eval()
    with torch.no_grad():
        pixels = views_of(range(10)).flatten(0, 1).permute(0, 3, 1, 2) / 255
        pooled = network.pooling(backbone((pixels - network.mean) / network.std))
        projection.bias.copy_(-projection.weight @ pooled.mean(dim=0))
    return ContrastiveModule(network, settings).train()


def trainee_like(other: ContrastiveModule) -> ContrastiveModule:
    """A trainee with the weights and the mixing of another, and without a memory."""
    trainee = ContrastiveModule(other.network, other.settings.model_copy(update={"memory": 0}))
    return trainee.train()


def views_of(photos: Iterable[int]) -> Tensor:
    """Two noisy views of each photo, which is four squares of a color each: uint8 [N, 2, S, S, 3]."""
    views = []
    for photo in photos:
        rng = np.random.default_rng(photo)
        colors = rng.integers(28, 228, (2, 2, 3)).repeat(SIZE // 2, axis=0).repeat(SIZE // 2, axis=1)
        views.append((colors + rng.integers(-28, 28, (2, SIZE, SIZE, 3))).astype(np.uint8))
    return torch.from_numpy(np.stack(views))


def batch_of(photos: list[int], groups: list[int] | None = None, donors: list[list[int]] | None = None) -> Batch:
    return {
        "views": views_of(photos),
        "photo": torch.tensor(photos)[:, None].expand(-1, 2),
        "group": torch.tensor(groups or photos)[:, None].expand(-1, 2),
        "donors": torch.tensor(donors or [[NONE, NONE]] * len(photos)),
    }


def mixed(trainee: ContrastiveModule, batch: Batch) -> tuple[Tensor, Tensor]:
    """The views, float [N, 3, S, S], that the network sees of a batch, and the labels, int64 [N, 4], remembered."""
    seen: list[Tensor] = []
    hook = trainee.network.backbone.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        trainee(batch)
    hook.remove()
    return seen[0] * 0.25 + 0.5, trainee.remembered[: len(seen[0])].clone()


def cosines_of(trainee: ContrastiveModule, batch: Batch) -> Tensor:
    with torch.no_grad():
        vectors = trainee.network(batch["views"].flatten(0, 1))
    return vectors @ vectors.T


def train(out: Path, batch_size: int) -> tuple[list[float], dict[str, NDArray[np.float32]]]:
    """Train for two epochs into a folder of this process's own; return the losses and the weights."""
    torch.set_num_threads(1)
    # Whatever the others start with, the first one's weights are everybody's.
    trainee = trainee_of(
        weights=rank(), memory=40, epochs=2, batch_size=batch_size, workers=0, learning_rate=0.01, ema_decay=0
    )
    result = fit(
        trainee,
        Squares(),
        lambda network: {"score": float(is_first_process())},
        trainee.settings.loop,
        TrainingContext(out / str(rank()), "run", torch.device("cpu")),
        score="score",
    )
    assert broadcast(rank()) == 0
    losses = [line["info_nce"] for line in read_history(out / "0" / "history.jsonl")]
    return losses, {name: value.numpy() for name, value in result.network.state_dict().items()}


@pytest.mark.usefixtures("forked_from_one_import")
def test_two_processes_learn_what_one_learns_from_batches_twice_as_large(tmp_path: Path) -> None:
    losses_of_two, of_two = launch(train, tmp_path / "two", 4, devices=2)
    losses, of_one = launch(train, tmp_path / "one", 8, devices=1)
    assert len(losses) == len(losses_of_two) == 2
    for name, weight in of_one.items():
        np.testing.assert_allclose(of_two[name], weight, rtol=1e-3, atol=1e-4, err_msg=name)
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["0"]
    assert {path.name for path in (tmp_path / "two" / "0").iterdir()} == {"checkpoint.pt", "history.jsonl"}


def share_found(network: DescriptorNetwork) -> float:
    """How many of the photos are nearest to themselves, in views that no epoch has shown."""
    views = np.stack([InOtherLight().example(999, photo)["views"] for photo in range(24)])
    with torch.no_grad():
        first, second = (network.eval()(torch.from_numpy(views[:, number])) for number in (0, 1))
    return (first @ second.T).argmax(dim=1).eq(torch.arange(24)).double().mean().item()


def test_training_lowers_the_loss_far_below_chance_and_finds_more(tmp_path: Path) -> None:
    trainee = trainee_of(
        entropy_weight=1, epochs=20, batch_size=12, workers=0, learning_rate=0.01, backbone_rate=1, ema_decay=0
    )
    # To a network of random weights a view looks like others as bright; one that has learned the task finds all.
    assert share_found(trainee.network) < 0.75
    trainee.train()
    loop, device = trainee.settings.loop, torch.device("cpu")
    fit(
        trainee, InOtherLight(), lambda _: {"score": 0.0}, loop, TrainingContext(tmp_path, "run", device), score="score"
    )
    assert share_found(trainee.network) > 0.8
    # A network that cannot tell photos apart gets the logarithm of a positive among 22 negatives, 3.1.
    assert read_history(tmp_path / "history.jsonl")[-1]["info_nce"] < 0.3 * math.log(23)


def test_the_loss_is_that_of_its_terms_worked_out_from_the_cosines() -> None:
    trainee, batch = trainee_of(), batch_of([4, 7, 9])
    cosines = cosines_of(trainee, batch)
    same = torch.block_diag(*[torch.ones(2, 2)] * 3).bool()
    itself = torch.eye(6, dtype=torch.bool)
    found = trainee(batch)
    torch.testing.assert_close(found["info_nce"], info_nce(cosines, same & ~itself, itself, 0.05), **LOSSES)
    torch.testing.assert_close(found["koleo"], koleo(cosines, same), **LOSSES)
    torch.testing.assert_close(found["loss"], found["info_nce"] + 10.0 * found["koleo"])
    torch.testing.assert_close(found["positives"], cosines[same & ~itself].mean(), **COSINES)
    torch.testing.assert_close(found["negatives"], cosines.masked_fill(same, -1).amax(dim=1).mean(), **COSINES)


@pytest.mark.parametrize(
    ("groups", "donors"),
    [
        pytest.param([1, 1, 2], None, id="stills of one video"),
        pytest.param([1, 5, 2], [[NONE, 5], [NONE, NONE], [NONE, NONE]], id="a photo and what it was pasted onto"),
        pytest.param([1, 5, 2], [[NONE, 8], [NONE, 8], [NONE, NONE]], id="two photos pasted onto the same one"),
    ],
)
def test_related_pictures_are_neither_positives_nor_negatives(
    groups: list[int], donors: list[list[int]] | None
) -> None:
    trainee, batch = trainee_of(), batch_of([0, 1, 2], groups, donors)
    cosines = cosines_of(trainee, batch)
    positive = torch.block_diag(*[torch.ones(2, 2)] * 3).bool() & ~torch.eye(6, dtype=torch.bool)
    related = torch.zeros(6, 6, dtype=torch.bool)
    if donors is None:
        related[:4, :4] = True
    else:
        shown = slice(3, 4) if donors[1][1] == 8 else slice(2, 4)
        related[1, shown] = related[shown, 1] = True
    ignored = (related & ~positive) | torch.eye(6, dtype=torch.bool)
    found = trainee(batch)
    torch.testing.assert_close(found["info_nce"], info_nce(cosines, positive, ignored, 0.05), **LOSSES)
    torch.testing.assert_close(found["koleo"], koleo(cosines, ignored | positive), **LOSSES)

    # Where both photos look the same, each related view would be as near as any picture can be. As a negative it then
    # costs an anchor log(1 + 1 / 3) or more, whatever the weights are; two anchors or more of the six have one.
    twins = views_of([0, 0, 2])
    related_twins, strangers = trainee(batch | {"views": twins}), trainee(batch_of([0, 1, 2]) | {"views": twins})
    assert strangers["info_nce"] - related_twins["info_nce"] > math.log(4 / 3) * 2 / 6 - 1e-4


def test_a_mixed_view_is_a_view_of_both_photos() -> None:
    trainee, batch = trainee_of(mixup=0.3, memory=6, seed=1), batch_of([0, 1, 2])
    views, labels = mixed(trainee, batch)
    changed = [row for row in range(6) if labels[row, 3] != NONE]
    assert len(changed) == 1
    (row,) = changed
    onto = int(labels[row, 3])
    assert onto != labels[row, 0]
    assert labels[row, 2] == onto
    before = batch["views"].flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    covered = [(views[row] - before[2 * onto + other]).abs().amax(dim=0) > 1e-4 for other in (0, 1)]
    assert int(0.4 * SIZE) ** 2 <= (covered[0] & covered[1]).sum() <= int(0.8 * SIZE) ** 2
    untouched = [other for other in range(6) if other != row]
    torch.testing.assert_close(views[untouched], before[untouched])

    vectors = trainee.memory.clone()
    found = trainee_like(trainee)(batch)
    positive = torch.block_diag(*[torch.ones(2, 2)] * 3).bool()
    positive[row, 2 * onto : 2 * onto + 2] = positive[2 * onto : 2 * onto + 2, row] = True
    itself = torch.eye(6, dtype=torch.bool)
    expected = info_nce(vectors @ vectors.T, positive & ~itself, itself, 0.05)
    torch.testing.assert_close(found["info_nce"], expected, **LOSSES)


def test_mixing_depends_on_the_step_alone() -> None:
    trainee, batch = trainee_of(mixup=0.5, memory=8), batch_of([0, 1, 2, 3])
    first = mixed(trainee, batch)
    torch.rand(5)
    again = mixed(trainee, batch)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    trainee.start_step(0, 1)
    assert not torch.equal(mixed(trainee, batch)[1], first[1])


def test_views_that_show_a_donor_are_not_mixed_with_a_third_photo() -> None:
    batch = batch_of([0, 1, 2], donors=[[7, 7], [8, 8], [NONE, NONE]])
    _, labels = mixed(trainee_of(mixup=1.0, memory=6), batch)
    assert labels[:4, 2:].tolist() == [[7, NONE], [7, NONE], [8, NONE], [8, NONE]]
    assert set(labels[4:, 3].tolist()) == {NONE}


def test_the_memory_holds_the_latest_vectors_first_and_wraps() -> None:
    trainee = trainee_of(memory=7)
    for photos in ([0, 1], [2, 3], [4, 5]):
        trainee(batch_of(photos))
        with torch.no_grad():
            latest = trainee.network(batch_of(photos)["views"].flatten(0, 1))
        torch.testing.assert_close(trainee.memory[:4], latest, **COSINES)
    assert trainee.remembered[:, 0].tolist() == [4, 4, 5, 5, 2, 2, 3]
    assert trainee.memory.shape == (7, 8)
    assert not trainee.memory.requires_grad


def test_an_empty_memory_changes_nothing_and_a_filled_one_adds_negatives() -> None:
    with_memory = trainee_of(memory=16)
    without = trainee_like(with_memory)
    batch = batch_of([0, 1])
    found, expected = with_memory(batch), without(batch)
    assert expected["negatives"] < -0.1, "empty rows, which are zeros, would be nearer than the other photo"
    torch.testing.assert_close(found["info_nce"], expected["info_nce"], **LOSSES)
    torch.testing.assert_close(found["koleo"], expected["koleo"], **LOSSES)
    torch.testing.assert_close(found["negatives"], expected["negatives"], **COSINES)

    # The same views by other names: what is remembered is as near as any picture can be, and two negatives have been
    # there before. That costs each anchor log(1 + 1 / 3) or more, whatever the weights are.
    other = batch_of([2, 3]) | {"views": batch["views"]}
    assert with_memory(other)["info_nce"] - without(other)["info_nce"] > math.log(4 / 3) - 1e-4


def test_the_memory_survives_a_checkpoint() -> None:
    trainee, other = trainee_of(memory=6), trainee_of(weights=1, memory=6)
    trainee(batch_of([0, 1]))
    other.load_state_dict(trainee.state_dict())
    assert torch.equal(other.memory, trainee.memory)
    assert torch.equal(other.remembered, trainee.remembered)
    batch = batch_of([1, 2])
    assert torch.equal(other(batch)["loss"], trainee(batch)["loss"])


def test_vectors_of_a_photo_in_memory_are_positives() -> None:
    trainee = trainee_of(memory=4)
    batch = batch_of([0, 1])
    trainee(batch)
    again = trainee(batch)
    cosines = cosines_of(trainee, batch)
    positive = torch.block_diag(*[torch.ones(2, 2)] * 2).bool()
    itself = torch.eye(4, dtype=torch.bool)
    mean = torch.cat([cosines[positive & ~itself], cosines[positive]]).mean()
    torch.testing.assert_close(again["positives"], mean, **COSINES)


def test_training_leaves_the_statistics_of_the_backbones_batchnorms() -> None:
    trainee = trainee_of()
    norm = trainee.network.backbone[1]
    before = norm.running_mean.clone(), norm.running_var.clone()
    trainee.train()
    trainee(batch_of([0, 1]))
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(norm.running_var, before[1])
    assert trainee.network.backbone[0].training
    assert norm.weight.requires_grad


def test_gradients_reach_every_parameter_and_are_finite() -> None:
    trainee = trainee_of(memory=8)
    trainee(batch_of([0, 1, 2]))["loss"].backward()
    for name, parameter in trainee.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_cosines_keep_their_precision_under_autocast() -> None:
    trainee, batch = trainee_of(memory=6), batch_of([0, 1, 2])
    with torch.autocast("cpu", torch.bfloat16):
        found = trainee(batch)
    assert found["positives"].dtype == torch.float32
    vectors = trainee.memory.double()
    same = torch.block_diag(*[torch.ones(2, 2)] * 3).bool()
    exact = vectors @ vectors.T
    # Cosines rounded to bfloat16 would be off by up to 1/512 each.
    torch.testing.assert_close(found["positives"].double(), exact[same & ~torch.eye(6).bool()].mean(), **COSINES)
    torch.testing.assert_close(found["negatives"].double(), exact.masked_fill(same, -1).amax(dim=1).mean(), **COSINES)


def test_the_backbone_is_what_was_pretrained() -> None:
    trainee = trainee_of()
    shared = {id(parameter) for parameter in trainee.pretrained_parameters()}
    others = [name for name, parameter in trainee.named_parameters() if id(parameter) not in shared]
    assert others == ["network.projection.weight", "network.projection.bias"]
