"""The specs that the page on published networks shows are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import yaml

import models.swin  # noqa: F401 - registers architectures with timm
from configs.load import load_settings
from configs.training import DescriptorTraining
from configs.videos import VideoSettings
from copytrace.features.editing import EditingSpec
from models.descriptor_spec import DescriptorSpec

PAGE = (Path(__file__).parents[2] / "docs" / "published.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
SPECS = [block for block in BLOCKS if "weights:" in block]


@pytest.mark.parametrize("block", SPECS)
def test_each_spec_of_the_page_is_valid_and_names_what_timm_builds(block: str):
    spec = DescriptorSpec.model_validate(yaml.safe_load(block))
    assert spec.architecture == "torchscript" or timm.is_model(spec.architecture)


def test_imgfps_fine_tuning_trains_the_network_of_the_pages_spec():
    specs = [DescriptorSpec.model_validate(yaml.safe_load(block)) for block in SPECS]
    spec = next(spec for spec in specs if spec.pooling == "last_blocks")
    training = load_settings(DescriptorTraining, "imgfp")
    shared = ("architecture", "pooling", "interpolation", "input_size")
    assert [getattr(training, name) for name in shared] == [getattr(spec, name) for name in shared]


def test_the_page_has_the_specs_of_both_systems_and_settings_that_are_there(tmp_path: Path):
    assert len(SPECS) == 4
    settings, editing = (block for block in BLOCKS if block not in SPECS)
    (tmp_path / "winners.yaml").write_text(settings)
    loaded = load_settings(VideoSettings, "vsc22", tmp_path / "winners.yaml")
    assert len(loaded.descriptor.also) == 3
    # Written out on the page, they are the values that a spec has without them.
    assert EditingSpec.model_validate(yaml.safe_load(editing)) == EditingSpec(
        frames="clip.torchscript.pt", video="vsm.torchscript.pt"
    )
    for named in re.findall(r"`((?:search|alignment|overlay|descriptor)\.[a-z_.]+=[^` ]+(?: [a-z_.]+=[^` ]+)*)`", PAGE):
        if "FILE" not in named and "sha256" not in named:
            assert load_settings(VideoSettings, "vsc22", overrides=named.split())
