import pytest

from configs.images import ImageSettings
from configs.load import load_settings
from configs.presets import missing_parts
from configs.videos import VideoSettings

ALL_OF_VSC22 = [
    "descriptor.model=a.yaml",
    "descriptor.also=[b.yaml, c.yaml, d.yaml]",
    "descriptor.pca=pca.safetensors",
    "search.noise=noise.index",
    "alignment.pair_filter=cls1.pth",
    "alignment.pair_filter_folds=[cls2.pth]",
    "alignment.model=match1.pth",
    "alignment.model_folds=[match2.pth]",
]


def test_a_published_preset_says_what_it_lacks_until_it_is_given():
    line = missing_parts("vsc22", load_settings(VideoSettings, "vsc22"))
    for part in ("four descriptors", "PCA", "noise videos", "two pair classifiers", "two aligners", "finder of panes"):
        assert part in (line or "")
    whole = missing_parts("vsc22", load_settings(VideoSettings, "vsc22", overrides=ALL_OF_VSC22))
    assert whole == (
        "--preset vsc22 runs without the winners' finder of panes (Copytrace's is used); see docs/published.md"
    )


@pytest.mark.parametrize("number", range(len(ALL_OF_VSC22)))
def test_each_part_that_is_missing_is_named(number: int):
    given = [part for place, part in enumerate(ALL_OF_VSC22) if place != number]
    line = missing_parts("vsc22", load_settings(VideoSettings, "vsc22", overrides=given))
    name = ALL_OF_VSC22[number].partition("=")[0].partition(".")[2]
    assert f"{name}" in (line or "").partition("; and in any case")[0]


def test_imgfps_preset_wants_its_network_and_its_boxes():
    line = missing_parts("imgfp", load_settings(ImageSettings, "imgfp"))
    assert line == (
        "--preset imgfp runs without its EsViT (descriptor.model), the boxes of its YOLOv5 (overlay.detector=FILE.csv) "
        "(Copytrace's own or nothing instead); and in any case VLFeat's SIFT (OpenCV's is used); see docs/published.md"
    )
    given = ["descriptor.model=esvit.yaml", "overlay.detector=boxes.csv"]
    line = missing_parts("imgfp", load_settings(ImageSettings, "imgfp", overrides=given))
    assert line == "--preset imgfp runs without VLFeat's SIFT (OpenCV's is used); see docs/published.md"


def test_our_presets_lack_nothing():
    for preset in ("cpu", "a100"):
        assert missing_parts(preset, load_settings(ImageSettings, preset)) is None
        assert missing_parts(preset, load_settings(VideoSettings, preset)) is None
