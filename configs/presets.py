"""What presets of published systems lack unless the user gives it, in a line for people."""

from __future__ import annotations

from configs.images import ImageSettings
from configs.settings import Settings
from configs.videos import VideoSettings

PARTS_OF_VSC22 = 4  # descriptors of the winners


def missing_parts(preset: str, settings: Settings) -> str | None:
    """Return the line that says what a run with a published preset lacks of the published system; None for others."""
    if preset == "imgfp" and isinstance(settings, ImageSettings):
        lacking, never = _missing_of_imgfp(settings), "VLFeat's SIFT (OpenCV's is used)"
    elif preset == "vsc22" and isinstance(settings, VideoSettings):
        lacking, never = _missing_of_vsc22(settings), "the winners' finder of panes (Copytrace's is used)"
    else:
        return None
    given = f"{', '.join(lacking)} (Copytrace's own or nothing instead); and in any case " if lacking else ""
    return f"--preset {preset} runs without {given}{never}; see docs/published.md"


def _missing_of_imgfp(settings: ImageSettings) -> list[str]:
    parts = {
        "its EsViT (descriptor.model)": settings.descriptor.model in {"shipped", "imagenet"},
        "the boxes of its YOLOv5 (overlay.detector=FILE.csv)": not settings.overlay.detector.lower().endswith(".csv"),
    }
    return [part for part, is_missing in parts.items() if is_missing]


def _missing_of_vsc22(settings: VideoSettings) -> list[str]:
    descriptor, alignment = settings.descriptor, settings.alignment
    models = (descriptor.model, *descriptor.also)
    parts = {
        "their four descriptors (descriptor.model, also)": len(models) < PARTS_OF_VSC22 or "shipped" in models,
        "their PCA (descriptor.pca)": descriptor.pca is None,
        "noise videos (search.noise)": settings.search.noise is None,
        "their two pair classifiers (alignment.pair_filter, pair_filter_folds)": alignment.pair_filter == "shipped"
        or not alignment.pair_filter_folds,
        "their two aligners (alignment.model, model_folds)": alignment.model == "shipped" or not alignment.model_folds,
    }
    return [part for part, is_missing in parts.items() if is_missing]
