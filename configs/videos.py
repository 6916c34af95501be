"""Settings of video matching, with defaults for a machine without a GPU; presets are in `match_videos/`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from configs.settings import DescriptorSettings, MediaSettings, Settings


class FrameSettings(Settings):
    """Sampling of frames from videos."""

    per_second: float = Field(1.0, gt=0, le=60, description="frames sampled per second of video")
    query_side: int = Field(480, ge=64, le=4096, description="short side in pixels of reduced query frames")
    reference_side: int = Field(320, ge=32, le=4096, description="short side in pixels of reduced reference frames")
    window: int = Field(64, ge=8, le=1024, description="frames of a video that are in memory at a time")


class PaneSettings(Settings):
    """Search for panes: parts of a query's picture that are described separately."""

    detector: str = Field(
        "network",
        description="detector of pictures in pictures; values as for overlay.detector of images",
    )
    min_strength: float = Field(0.3, gt=0, le=1, description="least share of lasting edge on a pane's weakest side")
    min_side: float = Field(0.15, gt=0, lt=1, description="shortest side of a pane, as a share of the frame's")
    max_aspect: float = Field(6.0, ge=1, description="largest ratio of a pane's sides")
    looks: int = Field(12, ge=1, le=256, description="frames of a window that the detector searches")
    min_confidence: float = Field(0.3, ge=0, le=1, description="least confidence of the detector's boxes")
    min_share: float = Field(0.1, gt=0, le=1, description="share of those frames in which an inset must be found")
    max_panes: int = Field(10, ge=0, description="most panes of a window besides the whole frame")


class EditingSettings(Settings):
    """Editing detection: a query that was surely not edited copies nothing (descriptor track of VSC2022's winners)."""

    detector: str | None = Field(
        None,
        description="CSV of id,probability, by any detector; or a spec (YAML) of two networks of TorchScript "
        "(docs/published.md); default: all queries are searched",
    )
    threshold: float = Field(
        0.001, ge=0, le=1, description="probability of having been edited below which a query is not searched"
    )


class FrameDescriptorSettings(DescriptorSettings):
    """The descriptor of frames: one model, as for images, or an ensemble."""

    also: tuple[str, ...] = Field(
        (), description="further models, given as `model` is; the unit vectors of all models are concatenated"
    )
    pca: str | None = Field(None, description="file of `copytrace fit-pca` that reduces the ensemble's vectors")


class FrameSearchSettings(Settings):
    """Search for the references that are compared with a query frame by frame."""

    index: Literal["exact", "approximate"] = Field(
        "exact", description="exact; or approximate: inverted lists, for hundreds of hours of references"
    )
    lists_searched: int = Field(32, ge=1, description="approximate: inverted lists searched for each frame")
    hits_per_frame: int = Field(256, ge=1, le=2048, description="nearest reference frames of each query frame")
    normalization_weight: float = Field(
        1.0, ge=0, description="weight of a frame's mean similarity to noise; 0: off; the winner of VSC2022 used 1.5"
    )
    normalization_neighbours: int = Field(10, ge=1, description="nearest noise frames in that mean")
    typical_noise: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="that mean in a large collection, used for small ones; default: stated by the model",
    )
    noise: str | None = Field(
        None, description="index of unrelated videos; default: the references, except the nearest, serve as noise"
    )
    aggregate: Literal["best", "robust"] = Field(
        "robust", description="score of a pair. best: of its best frame; robust: mean of its best frames"
    )
    robust_frames: int = Field(3, ge=1, le=100, description="frames that the robust score averages")
    references_per_query: int = Field(
        25,
        ge=0,
        description="references kept per query, 0: all; the pair classifier drops most of them before alignment",
    )
    min_score: float | None = Field(
        None,
        ge=-4,
        le=1,
        description="range search: references with a frame above this score are all found, however many they are, and "
        "no others; the winners of VSC2022 used -0.1. It needs index=exact",
    )
    drop_least_variance: bool = Field(
        False,
        description="leave out the number of the vectors that varies least among the noise, or the references if there "
        "is none, as the winners of VSC2022 do. It needs index=exact",
    )
    list_copies: bool = Field(
        True, description="beyond that number, also references that show the same as one of these, up to 64"
    )
    duplicate_likeness: float | None = Field(
        None,
        gt=0,
        le=1,
        description="query frames with a higher cosine to another one of their video are not searched; the descriptor "
        "track of the winners of VSC2022 used 0.975",
    )

    @model_validator(mode="after")
    def _exact_only(self) -> Self:
        if self.index != "exact" and (self.min_score is not None or self.drop_least_variance):
            raise ValueError("search.min_score and search.drop_least_variance need search.index=exact; set it")
        return self


class AlignmentSettings(Settings):
    """Alignment: the search for copied segments in a similarity matrix."""

    aligner: Literal["network", "hough", "dynamic_programming"] = Field(
        "network",
        description="network: trained; hough: straight lines; dynamic_programming: paths that follow a changing speed",
    )
    model: str = Field(
        "shipped",
        description="trained aligner: shipped, a path, s3://…, or models:/copytrace-aligner@champion",
    )
    model_folds: tuple[str, ...] = Field(
        (), description="further trained aligners, such as those of other folds; the mean of all heat maps counts"
    )
    reading: Literal["joint", "vsc22"] = Field(
        "joint",
        description="of the trained aligner. joint: lines in the sum of heat and similarity; vsc22: the published rule",
    )
    pair_filter: str = Field(
        "shipped",
        description="classifier that drops candidate pairs before alignment: shipped, none, a path, s3://…, or "
        "models:/copytrace-pair-classifier@champion",
    )
    pair_filter_folds: tuple[str, ...] = Field(
        (), description="further classifiers, such as those of other folds; the mean of their probabilities counts"
    )
    pair_threshold: float | None = Field(
        None, ge=0, le=1, description="probability below which pairs are dropped; default: stated by the classifier"
    )
    panes: Literal["moment", "block"] = Field(
        "moment",
        description="which panes of a query are compared. moment: at each moment the best one; block: only the one "
        "with the ten best moments (VSC2022's winners)",
    )
    noise_weight: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of a frame's similarity to noise that counts as zero similarity; 0: plain cosines",
    )
    backwards: bool = Field(True, description="also find references played backwards")
    min_evidence: float = Field(0.5, gt=0, description="least evidence of a segment, in seconds of full similarity")
    max_segments: int = Field(16, ge=1, description="most segments of a pair")
    half_evidence: float | None = Field(
        None,
        gt=0,
        description="evidence in such seconds at which the score is 0.5; default: fitted to the aligner",
    )
    sharpness: float | None = Field(
        None, gt=0, description="exponent of the evidence in the score; default: fitted to the aligner"
    )
    verified_segments: int = Field(
        8,
        ge=0,
        description="segments of each query, the best ones, whose pictures are compared by their points, which needs "
        "both videos; 0: none",
    )
    exact_ends: bool = Field(
        True,
        description="find the ends of these segments to an eighth of a second, for which frames of the query around "
        "them are described too",
    )
    signatures: bool = Field(
        True,
        description="find the seconds of references that these segments show to about a tenth of a second, by the "
        "temporal signatures of both videos: how they move, and how bright and colored they are; both are read again",
    )
    min_score: float = Field(
        0.001,
        ge=-10,
        le=1,
        description="segments with a lower score are left out of segments.csv; the published rule has negative ones",
    )
    threshold: float = Field(0.5, ge=0, le=1, description="segments with at least this score count as copies")


class VideoReportSettings(Settings):
    """The HTML report."""

    max_matches: int = Field(300, ge=0, description="pairs on the page, the best ones; 0: no page")


class VideoSettings(Settings):
    """All settings of `match-videos` and `index-videos`."""

    media: MediaSettings = MediaSettings(shard_size=16)
    frames: FrameSettings = FrameSettings()
    panes: PaneSettings = PaneSettings()
    descriptor: FrameDescriptorSettings = FrameDescriptorSettings()
    editing: EditingSettings = EditingSettings()
    search: FrameSearchSettings = FrameSearchSettings()
    alignment: AlignmentSettings = AlignmentSettings()
    report: VideoReportSettings = VideoReportSettings()
