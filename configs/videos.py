"""Settings of video matching, with defaults for a machine without a GPU; presets lie in `match_videos/`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from configs.settings import DescriptorSettings, MediaSettings, Settings


class FrameSettings(Settings):
    """Which frames of a video are looked at."""

    per_second: float = Field(1.0, gt=0, le=60, description="frames looked at per second of video")
    query_side: int = Field(480, ge=64, le=4096, description="short side in pixels to which queries are reduced")
    reference_side: int = Field(320, ge=32, le=4096, description="the same of references")
    window: int = Field(64, ge=8, le=1024, description="frames that memory holds of a video at a time")


class PaneSettings(Settings):
    """Which parts of a query's picture are looked at on their own."""

    detector: str = Field(
        "network",
        description="of pictures in pictures: what overlay.detector is for images",
    )
    min_strength: float = Field(0.3, gt=0, le=1, description="how much of a pane's weakest side must be a lasting edge")
    min_side: float = Field(0.15, gt=0, lt=1, description="shortest side of a pane, as a share of the frame's")
    max_aspect: float = Field(6.0, ge=1, description="largest ratio of a pane's sides")
    looks: int = Field(12, ge=1, le=256, description="frames of a window in which the detector looks")
    min_confidence: float = Field(0.3, ge=0, le=1, description="of the detector's boxes")
    min_share: float = Field(0.1, gt=0, le=1, description="share of those frames in which a pane must be seen")
    max_panes: int = Field(10, ge=0, description="panes of a window besides the whole frame")


class FrameDescriptorSettings(DescriptorSettings):
    """The descriptor of frames: that of images, or an ensemble of several."""

    also: tuple[str, ...] = Field(
        (), description="further models, named as `model` is; their unit vectors are put behind one another"
    )
    pca: str | None = Field(None, description="file of `copytrace fit-pca` that shortens the ensemble's vectors")


class FrameSearchSettings(Settings):
    """Which references are compared with a query frame by frame."""

    index: Literal["exact", "approximate"] = Field(
        "exact", description="approximate: inverted lists, for hundreds of hours of references"
    )
    lists_searched: int = Field(32, ge=1, description="approximate: inverted lists that each frame looks into")
    hits_per_frame: int = Field(256, ge=1, le=2048, description="nearest reference frames of each query frame")
    normalization_weight: float = Field(
        1.0, ge=0, description="weight of a frame's mean similarity to noise; 0: off; VSC2022's first place: 1.5"
    )
    normalization_neighbours: int = Field(10, ge=1, description="noise frames averaged")
    typical_noise: float | None = Field(
        None, ge=-1, le=1, description="that mean in a large collection, for small ones; by default what the model says"
    )
    noise: str | None = Field(
        None, description="index of unrelated videos; by default the references but the nearest serve as noise"
    )
    aggregate: Literal["best", "robust"] = Field(
        "robust", description="a pair's score: its best frame's, or the mean of its best few"
    )
    robust_frames: int = Field(3, ge=1, le=100, description="frames that the robust score averages")
    references_per_query: int = Field(
        25, ge=1, description="references kept per query; the pair classifier drops most of them before alignment"
    )


class AlignmentSettings(Settings):
    """How copied segments are read off a similarity matrix."""

    aligner: Literal["network", "hough", "dynamic_programming"] = Field(
        "network",
        description="network: trained; hough: straight lines; dynamic_programming: paths that follow a changing speed",
    )
    model: str = Field(
        "shipped", description="of the trained aligner: shipped, a path, s3://…, or models:/copytrace-aligner@champion"
    )
    reading: Literal["joint", "vsc22"] = Field(
        "joint",
        description="of the trained aligner: lines in its heat and the similarity, or as published",
    )
    pair_filter: str = Field(
        "shipped",
        description="classifier that drops candidate pairs before they are aligned: shipped, none, a path, s3://…, or "
        "models:/copytrace-pair-classifier@champion",
    )
    noise_weight: float = Field(
        1.0, ge=0, le=1, description="share of a frame's similarity to noise that counts as none; 0: plain cosines"
    )
    backwards: bool = Field(True, description="look for references played backwards too")
    min_evidence: float = Field(0.5, gt=0, description="seconds of full similarity that a segment must add up to")
    max_segments: int = Field(16, ge=1, description="segments kept of a pair")
    half_evidence: float | None = Field(
        None, gt=0, description="such seconds at which half are copies; by default what was fitted for the aligner"
    )
    sharpness: float | None = Field(None, gt=0, description="how quickly that share grows with them; likewise")
    min_score: float = Field(0.001, ge=0, le=1, description="segments below it are left out of segments.csv")
    threshold: float = Field(0.5, ge=0, le=1, description="segments at or above it are called copies")


class VideoReportSettings(Settings):
    """The HTML page."""

    max_matches: int = Field(300, ge=0, description="best-scoring pairs shown; 0: no page")


class VideoSettings(Settings):
    """Everything that `match-videos` and `index-videos` can be told."""

    media: MediaSettings = MediaSettings(shard_size=16)
    frames: FrameSettings = FrameSettings()
    panes: PaneSettings = PaneSettings()
    descriptor: FrameDescriptorSettings = FrameDescriptorSettings()
    search: FrameSearchSettings = FrameSearchSettings()
    alignment: AlignmentSettings = AlignmentSettings()
    report: VideoReportSettings = VideoReportSettings()
