"""Which stages need a GPU, and which the cores."""

from __future__ import annotations

from typing import Any

import pytest

from configs.images import ImageSettings
from configs.training import DescriptorTraining
from configs.videos import VideoSettings
from tasks.limits import CPU, GPU, Slots, aligner_slots, descriptor_slots, training_slots

ON_CUDA = {"device": "cuda:1"}
ON_CPU = {"device": "cpu"}


@pytest.mark.parametrize(
    ("descriptor", "limit"),
    [(ON_CUDA, GPU), (ON_CPU, CPU), ({"backend": "onnx"}, CPU), ({"backend": "torch", "device": "cpu"}, CPU)],
)
def test_a_stage_that_describes_needs_what_its_network_runs_on(descriptor: dict[str, Any], limit: str) -> None:
    assert descriptor_slots(ImageSettings.model_validate({"descriptor": descriptor})) == Slots(limit)
    assert descriptor_slots(VideoSettings.model_validate({"descriptor": descriptor})) == Slots(limit)


@pytest.mark.parametrize(
    ("alignment", "limit"),
    [
        ({"aligner": "network"}, GPU),
        ({"aligner": "hough", "pair_filter": "none"}, CPU),
        ({"aligner": "hough"}, GPU),
    ],
)
def test_aligning_needs_a_gpu_where_networks_do_it(alignment: dict[str, Any], limit: str) -> None:
    on_gpu = {"descriptor": ON_CUDA, "alignment": alignment}
    assert aligner_slots(VideoSettings.model_validate(on_gpu)) == Slots(limit)
    assert aligner_slots(VideoSettings.model_validate({**on_gpu, "descriptor": ON_CPU})) == Slots(CPU)


def test_a_training_needs_as_many_gpus_as_it_trains_on() -> None:
    several = DescriptorTraining.model_validate({"loop": {"device": "cuda", "devices": 4}})
    assert training_slots(several) == Slots(GPU, 4)
    assert training_slots(DescriptorTraining.model_validate({"loop": {"device": "cpu"}})) == Slots(CPU)
