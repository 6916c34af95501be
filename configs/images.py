"""Settings of image matching, with defaults for a machine without a GPU; presets are in `match_images/`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from configs.settings import DescriptorSettings, MediaSettings, Settings


class OverlaySettings(Settings):
    """Which pictures pasted into a query are cut out (imgFp, image-copy rules)."""

    detector: str = Field(
        "network",
        description="network: the trained one that ships; edges: straight borders; none; or a path, s3://…, or "
        "models:/copytrace-overlay@champion",
    )
    max_area: float = Field(0.85, gt=0, le=1, description="largest share of the query that a box may cover")
    max_aspect: float = Field(4.0, ge=1, description="largest ratio of a box's normalised sides")
    global_confidence: float = Field(
        0.1, ge=0, le=1, description="boxes above it feed the global branch; a needless crop costs only time"
    )
    local_confidence: float = Field(0.1, ge=0, le=1, description="boxes above it feed the crop-local branch")
    max_crops: int = Field(2, ge=1, le=8, description="boxes kept per query and branch")


class PointSettings(Settings):
    """SIFT points of one kind of view."""

    short_side: int = Field(300, ge=32, le=4096, description="short side in pixels at which points are found")
    enlarge: bool = Field(True, description="enlarge smaller images to that side; imgFp never does")
    max_points: int = Field(600, ge=0, description="strongest points kept; 0 keeps all")
    levels: int = Field(3, ge=1, le=16, description="levels per octave")
    contrast: float = Field(0.02, ge=0, description="OpenCV's contrast threshold")
    edge: float = Field(10.0, gt=0, description="OpenCV's edge threshold")
    first_octave: Literal[-1, 0] = Field(-1, description="-1 starts at twice the size; 0 at the size itself (imgFp)")


class LocalSettings(Settings):
    """Points and recall of the local branches."""

    reference_points: PointSettings = PointSettings()
    query_points: PointSettings = PointSettings(short_side=400, max_points=1000, contrast=0.01)
    crop_points: PointSettings = PointSettings(max_points=500, contrast=0.01)
    stretched_points: PointSettings = PointSettings(short_side=400, max_points=600, contrast=0.01)
    stretches: tuple[float, ...] = Field((2.0, 0.5), description="extra query views, widened by these factors")
    mirrored: bool = Field(True, description="look for mirrored copies too")
    negative: bool = Field(True, description="look for colour-inverted copies too")
    rule: Literal["hough", "vote"] = Field("hough", description="hough: votes that agree in position, scale, rotation")
    neighbours: int = Field(4, ge=1, le=256, description="nearest reference points that each query point votes for")
    exact: bool = Field(False, description="search every reference point instead of the nearest lists of an index")
    lists_searched: int = Field(4, ge=1, description="inverted lists that each query point looks into")
    references_per_query: int = Field(10, ge=1, description="references kept per query and branch")
    min_votes: float = Field(3, ge=0, description="vote rule: accept above this many, and above the second's")
    min_votes_alone: float = Field(5, ge=0, description="vote rule: accept above this many when only one was hit")
    max_mean_distance: float = Field(8000, gt=0, description="vote rule: mean squared distance on imgFp's scale")


class GlobalSettings(Settings):
    """Recall of the global branch."""

    crop_replaces_whole: bool = Field(False, description="search a query's best crop instead of the whole, like imgFp")
    references_per_query: int = Field(8, ge=1, description="references kept per query")
    normalization_weight: float = Field(1.0, ge=0, description="weight of the mean similarity to the noise set; 0: off")
    normalization_neighbours: int = Field(10, ge=1, description="noise neighbours averaged")
    typical_noise: float | None = Field(
        None, ge=-1, le=1, description="that mean in a large collection, for small ones; by default what the model says"
    )
    noise: str | None = Field(None, description="index of unrelated images; by default the references' own neighbours")


class VerificationSettings(Settings):
    """Ratio-test matches and geometry of each candidate pair."""

    rule: Literal["geometry", "imgfp"] = Field("geometry", description="imgfp: 1.8·d1² < d2², positions counted once")
    ratio: float = Field(0.85, gt=0, le=1, description="largest first-to-second distance ratio of a match")
    tolerance: float = Field(0.02, gt=0, le=1, description="inlier distance as a share of the query's short side")
    max_stretch: float = Field(5.0, ge=1, description="largest ratio of the two scales of a plausible transform")
    max_scale: float = Field(25.0, ge=1, description="largest enlargement or reduction of a plausible transform")


class MergeSettings(Settings):
    """How a pair's evidence becomes its score."""

    rule: Literal["calibrated", "sum"] = Field("calibrated", description="calibrated: a probability; sum: imgFp's")
    calibration: str = Field("shipped", description="shipped, or the path of a calibration file")
    threshold: float = Field(0.5, ge=0, description="pairs at or above it are called copies in the report")
    min_score: float = Field(0.001, ge=0, description="pairs below it are left out of matches.csv")


class ReportSettings(Settings):
    """The HTML page."""

    max_matches: int = Field(1000, ge=0, description="best-scoring pairs shown; 0: no page")
    picture_side: int = Field(320, ge=64, le=2048)


class ImageSettings(Settings):
    """Everything that `match-images` and `index-images` can be told."""

    media: MediaSettings = MediaSettings()
    overlay: OverlaySettings = OverlaySettings()
    descriptor: DescriptorSettings = DescriptorSettings()
    local: LocalSettings = LocalSettings()
    global_: GlobalSettings = Field(GlobalSettings(), alias="global")
    verification: VerificationSettings = VerificationSettings()
    merge: MergeSettings = MergeSettings()
    report: ReportSettings = ReportSettings()

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True)

    @model_validator(mode="after")
    def _sum_needs_imgfp_counts(self) -> Self:
        if (self.merge.rule == "sum") != (self.verification.rule == "imgfp"):
            raise ValueError(
                "merge.rule=sum adds up imgFp's counts and needs verification.rule=imgfp, which in turn needs the sum; "
                "give both or neither, or --preset imgfp"
            )
        return self
