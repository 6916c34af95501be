from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.images import ImageSettings
from configs.load import SettingsError, load_settings, preset_names
from configs.settings import Settings
from configs.training import AlignerTraining, DescriptorTraining, OverlayTraining, PairTraining
from configs.videos import VideoSettings


@pytest.mark.parametrize(
    "schema", [ImageSettings, VideoSettings, DescriptorTraining, OverlayTraining, AlignerTraining, PairTraining]
)
def test_every_preset_that_ships_is_valid(schema: type[Settings]) -> None:
    assert {"cpu", "a100"} <= set(preset_names(schema))
    for name in preset_names(schema):
        assert isinstance(load_settings(schema, name), schema)


@pytest.mark.parametrize(
    "schema", [ImageSettings, VideoSettings, DescriptorTraining, OverlayTraining, AlignerTraining, PairTraining]
)
def test_every_setting_says_what_it_is(schema: type[Settings]) -> None:
    silent, sections = list[str](), [schema]
    for section in sections:
        fields = section.model_fields.items()
        nested = {name: each.annotation for name, each in fields if isinstance(each.default, Settings)}
        silent += [f"{section.__name__}.{name}" for name, each in fields if name not in nested and not each.description]
        sections += [each for each in nested.values() if isinstance(each, type)]
    assert len(sections) > 1
    assert silent == []


def test_a_file_changes_a_preset_and_an_override_changes_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("dimensions: 64\nloop:\n  epochs: 3\n  batch_size: 8\n")
    preset = load_settings(DescriptorTraining, "cpu")
    settings = load_settings(DescriptorTraining, "cpu", file, ["loop.epochs=5", "views.mixup=0"])
    assert (settings.dimensions, settings.loop.batch_size, settings.loop.epochs) == (64, 8, 5)
    assert settings.views.mixup == 0
    assert settings.loop.warmup_epochs == preset.loop.warmup_epochs != DescriptorTraining().loop.warmup_epochs


def test_the_preset_imgfp_adds_up_its_own_counts() -> None:
    settings = load_settings(ImageSettings, "imgfp")
    assert (settings.verification.rule, settings.merge.rule, settings.merge.threshold) == ("imgfp", "sum", 34)


def test_presets_of_video_matching_differ_in_what_they_are_for() -> None:
    settings = {name: load_settings(VideoSettings, name) for name in ("cpu", "a100", "vsc22")}
    assert preset_names(VideoSettings) == sorted(settings)
    assert settings["cpu"] == VideoSettings()
    assert settings["a100"].descriptor.batch_size > settings["cpu"].descriptor.batch_size
    assert (settings["vsc22"].search.normalization_weight, settings["vsc22"].search.aggregate) == (1.5, "best")


@pytest.mark.parametrize("stretches", ["[0]", "[2.0, -1]", "[11]"])
def test_views_are_stretched_by_factors_that_leave_a_picture(stretches: str) -> None:
    with pytest.raises(SettingsError, match=r"local\.stretches\.\d=.*: input should be (greater|less) than"):
        load_settings(ImageSettings, overrides=[f"local.stretches={stretches}"])


def test_several_models_can_be_named_on_the_command_line() -> None:
    overrides = ["descriptor.also=[imagenet, s3://models/sscd.pt]", "search.typical_noise=null"]
    settings = load_settings(VideoSettings, "cpu", overrides=overrides)
    assert settings.descriptor.also == ("imagenet", "s3://models/sscd.pt")
    assert settings.search.typical_noise is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["frames.per_second=0"], r"frames\.per_second=0: input should be greater than 0"),
        (["alignment.aligner=dtw"], r"aligner='dtw': input should be 'network', 'hough' or 'dynamic_programming'"),
        (["local.neighbours=3"], r"there is no setting local"),
        (["panes.max_panes=-1"], r"panes\.max_panes=-1: input should be greater than or equal to 0"),
    ],
)
def test_what_is_wrong_with_a_setting_of_videos_is_told_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as told:
        load_settings(VideoSettings, "cpu", overrides=overrides)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("whitening=off", {"whitening": "off"}),
        ("whitening=on", {"whitening": "on"}),
        ("whitening=auto", {"whitening": "auto"}),
        ("loop.compile=off", {"loop": {"compile": "off"}}),
        ("loop.learning_rate=1e-3", {"loop": {"learning_rate": 0.001}}),
        ("loop.device=cuda:1", {"loop": {"device": "cuda:1"}}),
        ("loop.device=null", {"loop": {"device": None}}),
        ("start=/data/run 1/descriptor.safetensors", {"start": "/data/run 1/descriptor.safetensors"}),
    ],
)
def test_values_are_what_one_means_by_them_on_the_command_line(override: str, expected: dict[str, Any]) -> None:
    found = load_settings(DescriptorTraining, "cpu", overrides=[override]).model_dump()
    for name, value in expected.items():
        assert ({key: found[name][key] for key in value} if isinstance(value, dict) else found[name]) == value


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loop.epoch=3"], r"there is no setting loop\.epoch; see configs/images\.py, videos\.py and training\.py"),
        (["loop.epochs=0"], r"loop\.epochs=0: input should be greater than or equal to 1"),
        (["loop.seed=-1"], r"loop\.seed=-1: input should be greater than or equal to 0"),
        (["whitening=maybe"], r"whitening='maybe': input should be 'auto', 'on' or 'off'"),
        (["loop=3"], r"loop=3: input should be a valid dictionary"),
        (["loop.epochs.x=3"], r"loop\.epochs="),
        (["epochs"], "'epochs' is not a setting; write name=value"),
        (["=3"], "'=3' is not a setting; write name=value"),
        (["start=[1"], r"the value in 'start=\[1' is not valid YAML"),
        (["loop.epochs=0", "loop.seed=-1"], r"loop\.epochs=0: .*; loop\.seed=-1: "),
    ],
)
def test_what_is_wrong_with_a_setting_is_told_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as told:
        load_settings(DescriptorTraining, "cpu", overrides=overrides)
    assert "\n" not in str(told.value)


def test_an_unknown_preset_is_told_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="unknown preset 'gpu'; give one of: a100, cpu"):
        load_settings(DescriptorTraining, "gpu")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "cannot read the settings file"),
        ("- 1", "must have names and values"),
        ("#" * 2**20 + "\n", r"cannot read the settings file .*mine.yaml: it has more than 1,048,576 bytes"),
    ],
)
def test_a_file_that_holds_no_settings_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message) as told:
        load_settings(DescriptorTraining, "cpu", tmp_path / "mine.yaml")
    assert "\n" not in str(told.value)
    with pytest.raises(SettingsError, match=r"cannot read the settings file .*absent\.yaml"):
        load_settings(DescriptorTraining, "cpu", tmp_path / "absent.yaml")
