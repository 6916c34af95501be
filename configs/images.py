"""Settings of image matching, with defaults for a machine without a GPU; presets are in `match_images/`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from configs.settings import DescriptorSettings, MediaSettings, Settings


class OverlaySettings(Settings):
    """Search for pictures that are pasted into a query, and are cut out as crops (as in imgFp)."""

    detector: str = Field(
        "network",
        description="detector of pasted pictures. network: the trained one that ships; edges: it looks for straight "
        "borders; none; or a path, s3://…, or models:/copytrace-overlay@champion. A .csv has the boxes of another "
        "detector: id,x_center,y_center,width,height,confidence (YOLO) or id,x0,y0,x1,y1,confidence",
    )
    max_area: float = Field(0.85, gt=0, le=1, description="largest box, as a share of the query's area")
    max_aspect: float = Field(4.0, ge=1, description="largest ratio of a box's sides, each as a share of the query's")
    global_confidence: float = Field(
        0.1,
        ge=0,
        le=1,
        description="confidence above which a crop feeds the global branch; a needless crop costs only time",
    )
    local_confidence: float = Field(
        0.1, ge=0, le=1, description="confidence above which a crop feeds the crop-local branch"
    )
    max_crops: int = Field(2, ge=1, le=8, description="most crops of a query")


class PointSettings(Settings):
    """SIFT points of one kind of view: references, queries, crops, or stretched queries."""

    short_side: int = Field(
        300, ge=32, le=4096, description="short side to which a view is reduced before points are found, in pixels"
    )
    enlarge: bool = Field(True, description="also enlarge smaller views to that side; imgFp does not")
    max_points: int = Field(600, ge=0, description="most points of a view; 0: all")
    selection: Literal["mixed", "strongest"] = Field(
        "mixed", description="which points are kept. mixed: the strongest and the largest, in turn; strongest (imgFp)"
    )
    levels: int = Field(3, ge=1, le=16, description="OpenCV's nOctaveLayers: scales per octave")
    contrast: float = Field(0.02, ge=0, description="OpenCV's contrastThreshold: weaker points are dropped")
    edge: float = Field(
        10.0, gt=0, description="OpenCV's edgeThreshold: points on edges are dropped; larger: fewer are dropped"
    )
    first_octave: Literal[-1, 0] = Field(
        -1, description="first octave. -1: at twice the size, which finds smaller points; 0: at the size itself (imgFp)"
    )
    interpolation: Literal["area", "bicubic"] = Field(
        "area", description="filter by which a view is reduced: area, or bicubic (imgFp)"
    )
    min_points: int = Field(0, ge=0, description="views with fewer points get none; imgFp: 10")

    def deciding_values(self) -> dict[str, Any]:
        """Return the values that decide which points are found, without newer ones that are as they were before."""
        return {n: v for n, v in self.model_dump().items() if n not in UNSET_POINTS or v != UNSET_POINTS[n]}


UNSET_POINTS = {"interpolation": "area", "min_points": 0, "selection": "strongest"}
"""Newer settings of points, as they are in an index that does not name them."""


class LocalSettings(Settings):
    """Points, and recall by the votes of points: the local and the crop-local branch."""

    reference_points: PointSettings = PointSettings()
    query_points: PointSettings = PointSettings(short_side=400, max_points=1000, contrast=0.01)
    crop_points: PointSettings = PointSettings(max_points=500, contrast=0.01)
    stretched_points: PointSettings = PointSettings(short_side=400, max_points=600, contrast=0.01)
    stretches: tuple[Annotated[float, Field(ge=0.1, le=10)], ...] = Field(
        (2.0, 0.5), description="further views of a query are widened by these factors"
    )
    mirrored: bool = Field(True, description="also find mirrored copies")
    negative: bool = Field(True, description="also find copies with inverted colors")
    rule: Literal["hough", "vote"] = Field(
        "hough", description="hough: count votes that agree in position, scale and rotation; vote: all votes (imgFp)"
    )
    neighbours: int = Field(
        32,
        ge=1,
        le=256,
        description="reference points that each query point votes for, the nearest ones; with fewer than there are "
        "copies of a reference, some of them are missed",
    )
    exact: bool = Field(
        False, description="compare with all reference points, not only with the nearest inverted lists"
    )
    half_precision: bool = Field(
        False, description="with exact: GPUs compare points in float16, as imgFp does, in half the memory"
    )
    lists_searched: int = Field(
        16,
        ge=1,
        description="inverted lists searched for each query point; of an index with more than 16 million points, whose "
        "lists are finer, from twice to half as many",
    )
    codebook: str = Field(
        "shipped",
        description="codebook by which points are put into inverted lists and coded. shipped: one of photographs; or a "
        "file of `copytrace train-codebook`",
    )
    references_per_query: int = Field(10, ge=1, description="most references of a query and branch")
    min_votes: float = Field(
        3, ge=0, description="vote rule: a reference needs more votes than this and than the second one"
    )
    min_votes_alone: float = Field(
        5, ge=0, description="vote rule: votes that it must exceed if it is the only one with votes"
    )
    max_mean_distance: float = Field(
        8000, gt=0, description="vote rule: largest mean squared distance of its votes, of uint8 SIFT descriptors"
    )


class GlobalSettings(Settings):
    """Recall by descriptors of whole pictures and crops: the global branch."""

    crop_replaces_whole: bool = Field(False, description="search by a query's best crop instead of the whole (imgFp)")
    references_per_query: int = Field(8, ge=1, description="most references of a query")
    list_copies: bool = Field(
        True,
        description="beyond that number, also references that show the same picture as the nearest one, up to 64; of "
        "other pictures that the references have several times, one is listed",
    )
    thumbnails: bool = Field(
        True, description="beyond that number, also references whose thumbnails are the same but for their encoding"
    )
    normalization_weight: float = Field(1.0, ge=0, description="weight of a query's mean similarity to noise; 0: off")
    normalization_neighbours: int = Field(10, ge=1, description="nearest noise images in that mean")
    typical_noise: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="that mean in a large collection, used for small ones; default: stated by the model",
    )
    noise: str | None = Field(
        None, description="index of unrelated images; default: the references, except the nearest, serve as noise"
    )


class VerificationSettings(Settings):
    """Verification of each candidate pair: matches of points by the ratio test, and their geometry."""

    rule: Literal["geometry", "imgfp"] = Field(
        "geometry", description="geometry: fit a transform to the matches; imgfp: count matches with 1.8·d1² < d2²"
    )
    ratio: float = Field(
        0.85, gt=0, le=1, description="largest ratio of the distances to the nearest and the second point"
    )
    tolerance: float = Field(
        0.02, gt=0, le=1, description="largest error of an inlier, as a share of the query's short side"
    )
    max_stretch: float = Field(5.0, ge=1, description="largest ratio of a transform's two scales")
    compared_pictures: int = Field(
        12,
        ge=0,
        description="pairs of a query, those with most inliers, whose pictures are opened and compared block by block "
        "if they look drawn: pages and windows of one template share most of their points; 0: none",
    )
    max_scale: float = Field(25.0, ge=1, description="largest factor by which a transform enlarges or reduces")


class MergeSettings(Settings):
    """Score of a pair from its evidence."""

    rule: Literal["calibrated", "sum"] = Field(
        "calibrated", description="calibrated: a probability; sum: imgFp's sum of matches"
    )
    calibration: str = Field("shipped", description="calibration: shipped, or a file of `copytrace calibrate`")
    threshold: float = Field(0.5, ge=0, description="pairs with at least this score count as copies")
    min_score: float = Field(0.001, ge=0, description="pairs with a lower score are left out of matches.csv")


class ReportSettings(Settings):
    """The HTML report."""

    max_matches: int = Field(1000, ge=0, description="pairs on the page, the best ones; 0: no page")
    picture_side: int = Field(320, ge=64, le=2048, description="longer side of a picture on the page, in pixels")


class ImageSettings(Settings):
    """All settings of `match-images` and `index-images`."""

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
