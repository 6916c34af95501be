"""The flows of matching, indexing and training that tests kill and stop, with settings that are quick.

Some change an index, which `PREPARED` makes before.

MEDIA has folders `photos` and `videos`, each with `queries` and `references`, `photos/training`, and `matched`, which
`write_matched_videos` makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.images import ImageSettings
from configs.videos import VideoSettings
from copytrace import images, videos
from copytrace.exchange.npz_exchange import import_npz
from copytrace.exchange.npz_files import write_npz
from copytrace.index.compaction import compact_index
from copytrace.lease import hold_lease
from copytrace.verify import delete_damaged, find_damage, folders_of

POINTS = {"short_side": 60, "max_points": 20}
IMAGES: dict[str, Any] = {
    "media": {"shard_size": 2, "threads": 1},
    "overlay": {"detector": "none"},
    "local": {"reference_points": POINTS, "query_points": POINTS, "stretches": []},
    "report": {"max_matches": 2},
}
VIDEOS: dict[str, Any] = {
    "media": {"shard_size": 1, "threads": 1},
    "panes": {"detector": "none"},
    "alignment": {"aligner": "hough", "pair_filter": "none"},
    "report": {"max_matches": 2},
}
SOME = ["c*"]  # a glob of some of the photos and videos
LOOP = {"epochs": 3, "batch_size": 4, "workers": 0, "threads": 1, "device": "cpu"}
NETWORK = {"architecture": "test_efficientnet", "start": "random", "input_size": 32}
PHOTOS = {"validation_share": 0.5, "long_side": 64}
OVERLAY = NETWORK | {"input_size": 64, "detected_size": 64, "examples_per_epoch": 8, "validation_composites": 4}
MATRICES = {"folds": 2, "examples_per_epoch": 24}
DESCRIPTOR = NETWORK | {"described_size": 32, "dimensions": 16, "memory": 8, "whitening": "off"}


def train_descriptor(media: Path, out: Path) -> object:
    """Train a small descriptor; it imports torch here, as the trainings below do."""
    from configs.training import DescriptorTraining  # noqa: PLC0415
    from copytrace.training.descriptor import train_descriptor  # noqa: PLC0415

    values = DESCRIPTOR | {"photos": PHOTOS | {"validation_copies": 1}, "loop": LOOP}
    return train_descriptor(str(media / "photos" / "training"), out, DescriptorTraining.model_validate(values))


def train_overlay_detector(media: Path, out: Path) -> object:
    """Train a small overlay detector."""
    from configs.training import OverlayTraining  # noqa: PLC0415
    from copytrace.training.overlay import train_overlay_detector  # noqa: PLC0415

    values = OVERLAY | {"photos": PHOTOS, "loop": LOOP}
    return train_overlay_detector(str(media / "photos" / "training"), out, OverlayTraining.model_validate(values))


def train_aligner(media: Path, out: Path) -> object:
    """Train a small aligner on a finished run of videos."""
    from configs.training import AlignerTraining  # noqa: PLC0415
    from copytrace.training.aligner import train_aligner  # noqa: PLC0415

    settings = AlignerTraining.model_validate(MATRICES | {"side": 24, "loop": LOOP})
    return train_aligner([matched_videos(media)], out, settings)


def train_pair_classifier(media: Path, out: Path) -> object:
    """Train a small classifier of pairs for each of two folds."""
    from configs.training import PairTraining  # noqa: PLC0415
    from copytrace.training.pair_classifier import train_pair_classifier  # noqa: PLC0415

    values = MATRICES | {"side": 32, "synthetic_share": 0.0, "true_share": 0.5, "cross_validated": True, "loop": LOOP}
    return train_pair_classifier([matched_videos(media)], out, PairTraining.model_validate(values))


def train_codebook(media: Path, out: Path) -> object:
    """Fit a small codebook of points."""
    from configs.training import CodebookTraining  # noqa: PLC0415
    from copytrace.training.point_codebook import train_point_codebook  # noqa: PLC0415

    settings = CodebookTraining(cells=4, lists=8, fine=2, sample=512)
    return train_point_codebook(str(media / "photos" / "training"), out / "codebook.safetensors", settings)


def matched_videos(media: Path) -> tuple[Path, Path]:
    """Return the run that `write_matched_videos` made, and its ground truth."""
    return media / "matched" / "run", media / "matched" / "truth.csv"


def write_matched_videos(root: Path) -> None:
    """Write a finished run of match-videos over descriptors that nobody computed, `run`, and its truth, `truth.csv`.

    Ten queries of 20 s each show seconds 5 to 15 of one of five references of 30 s, from their second 4 on.
    """
    rng = np.random.default_rng(5)
    references = {f"R{number}": rng.normal(size=(30, 32)) for number in range(5)}
    queries, lines = {}, ["query_id,ref_id,query_start,query_end,ref_start,ref_end"]
    for number in range(10):
        query, copied = rng.normal(size=(20, 32)), f"R{number % 5}"
        query[4:14] = references[copied][5:15] + 0.3 * rng.normal(size=(10, 32))
        queries[f"Q{number}"] = query
        lines.append(f"Q{number},{copied},4.0,14.0,5.0,15.0")
    for role, described in (("queries", queries), ("references", references)):
        ids = [name for name, rows in described.items() for _ in rows]
        starts = np.concatenate([np.arange(len(rows), dtype=np.float64) for rows in described.values()])
        vectors = np.concatenate(list(described.values())).astype(np.float32)
        write_npz(root / f"{role}.npz", ids, np.stack([starts, starts + 1], axis=1), vectors)
        import_npz(root / f"{role}.npz", root / "run" / "work" / role, role, model="drawn")
    (root / "truth.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    quick = VideoSettings.model_validate({"report": {"max_matches": 0}, "alignment": {"aligner": "hough"}})
    videos.match_videos(root / "run" / "work" / "queries", root / "run" / "work" / "references", root / "run", quick)


def index_media(medium: str, exclude: Sequence[str] = ()) -> Callable[[Path, Path], object]:
    """Return a function that indexes all photos or videos but those that globs exclude, three in a shard."""
    rules = {"media": {"shard_size": 3, "threads": 1, "exclude": exclude}}
    if medium == "images":
        return lambda media, out: images.index_images(
            str(media / "photos"), out, ImageSettings.model_validate(IMAGES | rules)
        )
    return lambda media, out: videos.index_videos(
        str(media / "videos"), out, VideoSettings.model_validate(VIDEOS | rules)
    )


def index_and_remove(medium: str) -> Callable[[Path, Path], None]:
    """Return a function that makes an index of all photos or videos, and then removes some."""

    def make(media: Path, out: Path) -> None:
        index_media(medium)(media, out)
        index_media(medium, SOME)(media, out)

    return make


def damage_images(media: Path, out: Path) -> None:
    """Make an index of images of which half of the shards, and the segment, are damaged."""
    index_media("images")(media, out)
    for path in [*sorted(out.glob("points/*.parquet"))[::2], *out.glob("segments/*.npy")]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def repair_images(media: Path, out: Path) -> None:
    """Delete what is damaged in an index of images, and make it again."""
    with hold_lease(*folders_of(out)):
        delete_damaged(find_damage(out))
    index_media("images")(media, out)


FLOWS: dict[str, Callable[[Path, Path], object]] = {
    "index-images": lambda media, out: images.index_images(
        str(media / "photos"), out, ImageSettings.model_validate(IMAGES)
    ),
    "match-images": lambda media, out: images.match_images(
        *(str(media / "photos" / side) for side in ("queries", "references")), out, ImageSettings.model_validate(IMAGES)
    ),
    "index-videos": lambda media, out: videos.index_videos(
        str(media / "videos"), out, VideoSettings.model_validate(VIDEOS)
    ),
    "match-videos": lambda media, out: videos.match_videos(
        *(str(media / "videos" / side) for side in ("queries", "references")), out, VideoSettings.model_validate(VIDEOS)
    ),
    "update-images": index_media("images"),
    "update-videos": index_media("videos"),
    "compact-images": lambda media, out: compact_index(out),
    "compact-videos": lambda media, out: compact_index(out),
    "repair-images": repair_images,
    "train-descriptor": train_descriptor,
    "train-overlay-detector": train_overlay_detector,
    "train-aligner": train_aligner,
    "train-pair-classifier": train_pair_classifier,
    "train-codebook": train_codebook,
}
PREPARED: dict[str, Callable[[Path, Path], object]] = {  # what makes the index that a flow changes
    "update-images": index_media("images", SOME),
    "update-videos": index_media("videos", SOME),
    "compact-images": index_and_remove("images"),
    "compact-videos": index_and_remove("videos"),
    "repair-images": damage_images,
}
TRAININGS = {  # modules that import torch, which takes longer than a run
    "train-descriptor": "descriptor",
    "train-overlay-detector": "overlay",
    "train-aligner": "aligner",
    "train-pair-classifier": "pair_classifier",
    "train-codebook": "point_codebook",
}
