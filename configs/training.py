"""Settings of the trainings, with defaults for a machine without a GPU; the folders `train_…/` have presets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from configs.settings import Settings


def _as_word(value: Any) -> Any:
    # YAML reads a bare `on` or `off` as a boolean.
    return ("on" if value else "off") if isinstance(value, bool) else value


Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_as_word)]


class LoopSettings(Settings):
    """Settings of the training loop of every network."""

    epochs: int = Field(30, ge=1, description="passes over the photos, or over examples_per_epoch examples")
    batch_size: int = Field(64, ge=2, description="examples per step and device")
    accumulate: int = Field(1, ge=1, description="steps whose gradients are summed before the weights are updated")
    learning_rate: float = Field(5e-4, gt=0, description="peak learning rate of new layers (AdamW)")
    backbone_rate: float = Field(
        0.3, ge=0, description="learning rate of pretrained layers, as a share of learning_rate"
    )
    weight_decay: float = Field(0.01, ge=0, description="weight decay of AdamW")
    warmup_epochs: float = Field(1.0, ge=0, description="epochs of linear warm-up, before a cosine to zero")
    clip_norm: float = Field(5.0, gt=0, description="largest norm of the gradient")
    ema_decay: float = Field(
        0.998, ge=0, lt=1, description="decay of the averaged weights, which are the result; 0: no average"
    )
    validate_every: int = Field(1, ge=1, description="epochs between validations")
    checkpoint_minutes: float = Field(
        5.0, ge=0, description="minutes between checkpoints, the most that a killed run loses"
    )
    workers: int = Field(1, ge=0, description="processes that make the examples; 0: the training process does")
    devices: int = Field(1, ge=1, description="GPUs of this machine that train together")
    device: str | None = Field(None, description="a torch device; by default CUDA if there is some, else the CPU")
    compile: Switch = Field("auto", description="torch.compile; auto: on CUDA, if there is a C compiler")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 if CUDA supports it, else float16; float32 on the CPU"
    )
    threads: int = Field(0, ge=0, description="CPU cores that the network uses; 0: all")
    seed: int = Field(0, ge=0, description="seed of all random draws")


class PhotoSettings(Settings):
    """Settings of the split into photos for training and for validation."""

    validation_share: float = Field(0.15, gt=0, lt=1, description="share of the photos for validation")
    validation_limit: int = Field(500, ge=2, description="most photos for validation")
    validation_copies: int = Field(4, ge=1, description="edited copies of each validation photo")
    grouped: Literal["none", "folder"] = Field(
        "none", description="folder: pictures of one subfolder may show the same scene, such as stills of a video"
    )
    long_side: int = Field(
        448, ge=64, description="pixels to which the long side of photos is reduced before they are edited"
    )


class ViewSettings(Settings):
    """Settings of the edited views of a photo."""

    views: int = Field(2, ge=2, description="edited views of each photo in a batch")
    reference_share: float = Field(0.4, ge=0, le=1, description="share of first views that are the unedited photo")
    mixup: float = Field(0.1, ge=0, le=1, description="share of views that are pasted onto another photo of the batch")
    negatives: int = Field(
        0,
        ge=0,
        description="further pictures of each example, which are negatives: look-alikes in the labeled pairs, then "
        "photos drawn at random; imgFp: 16",
    )
    labeled_share: float = Field(
        0.5, gt=0, le=1, description="share of the examples that are labeled pairs, if there are any; imgFp: half"
    )


class DescriptorTraining(Settings):
    """Settings of `train-descriptor`."""

    architecture: str = Field("tf_efficientnet_lite0", description="a timm model, such as swin_base_patch4_window7_224")
    start: str = Field(
        "imagenet",
        description="initial weights: imagenet, random, a descriptor or timm checkpoint (safetensors), or a spec of "
        "published weights (YAML)",
    )
    pooling: Literal["gem", "all_tokens", "last_blocks"] = Field(
        "gem",
        description="gem: of the feature map; all_tokens: with the class token; last_blocks: mean tokens of the last "
        "four blocks of a Swin (imgFp)",
    )
    interpolation: Literal["area", "bicubic"] = Field(
        "area", description="filter by which pictures are resized; bicubic is Pillow's, as most published networks had"
    )
    dimensions: int = Field(256, ge=8, le=4096, description="length of the vectors")
    input_size: int = Field(160, ge=32, le=1024, description="side in pixels of the pictures in training")
    described_size: int = Field(
        256, ge=32, le=1024, description="side in pixels of the pictures that the result describes"
    )
    frozen_blocks: int = Field(2, ge=0, description="first blocks of the backbone that are not trained")
    pairs: str | None = Field(
        None,
        description="CSV or Parquet of labeled pairs to learn from, too: query,reference (paths), and perhaps same: 1, "
        "or 0 for pictures that only look alike",
    )
    loss: Literal["info_nce", "margin"] = Field(
        "info_nce", description="info_nce (SSCD), or margin: of triplets (FaceNet), as imgFp's file name suggests"
    )
    margin: float = Field(
        1.0, gt=0, le=4, description="margin: by how much a negative must be farther than a copy, in squared distance"
    )
    temperature: float = Field(0.05, gt=0, description="temperature of InfoNCE (SSCD)")
    entropy_weight: float = Field(
        10.0, ge=0, description="weight of the KoLeo term; SSCD: 30, and 10 for other backbones"
    )
    memory: int = Field(1024, ge=0, description="vectors of earlier batches that are negatives too; 0: none")
    whitening: Switch = Field("auto", description="PCA whitening at the end; auto: if it validates better")
    photos: PhotoSettings = PhotoSettings()
    views: ViewSettings = ViewSettings()
    loop: LoopSettings = LoopSettings()


class OverlayTraining(Settings):
    """Settings of `train-overlay-detector`."""

    architecture: str = Field("tf_efficientnet_lite0", description="a timm model with feature maps")
    start: str = Field(
        "imagenet", description="initial weights: imagenet, random, or an overlay detector (safetensors)"
    )
    input_size: int = Field(192, ge=64, le=1024, description="side in pixels of the square pictures in training")
    detected_size: int = Field(224, ge=64, le=1024, description="side in pixels of the square pictures in matching")
    frozen_blocks: int = Field(2, ge=0, description="first blocks of the backbone that are not trained")
    overlay_share: float = Field(0.7, gt=0, le=1, description="share of the composites with a pasted picture")
    examples_per_epoch: int = Field(2000, ge=1, description="composites that are made for an epoch")
    validation_composites: int = Field(400, ge=2, description="composites of the validation photos")
    photos: PhotoSettings = PhotoSettings()
    loop: LoopSettings = LoopSettings(batch_size=32)


class CodebookTraining(Settings):
    """Settings of `train-codebook`."""

    cells: int = Field(64, ge=2, le=1024, description="cells into which the space of points is divided")
    lists: int = Field(64, ge=2, le=1024, description="inverted lists of each cell")
    fine: int = Field(16, ge=2, le=256, description="lists into which each list is divided for large indexes")
    sample: int = Field(
        1 << 14, ge=256, description="points of photos, a sample by which the distances of unrelated points are known"
    )
    photos: int = Field(
        2000,
        ge=1,
        description="most photos that are read, drawn at random if there are more; each takes 2 MB",
    )


class MatrixTraining(Settings):
    """Settings of all trainings on similarity matrices."""

    start: str = Field("random", description="initial weights: random, or a file (safetensors) of the same network")
    folds: int = Field(5, ge=2, description="parts into which the queries are divided by their ids")
    fold: int = Field(0, ge=0, description="the part for validation, counted from 0")
    examples_per_epoch: int = Field(2000, ge=1, description="matrices, drawn or synthetic, of an epoch")
    synthetic_share: float = Field(0.5, ge=0, le=1, description="share of the examples that are synthetic")
    true_share: float = Field(0.6, ge=0, le=1, description="share of true pairs among the other examples")

    @model_validator(mode="after")
    def _fold_exists(self) -> MatrixTraining:
        if self.fold >= self.folds:
            raise ValueError(f"fold={self.fold} does not exist among folds={self.folds}; they are counted from 0")
        return self


class AlignerTraining(MatrixTraining):
    """Settings of `train-aligner`."""

    backbone: Literal["light", "hrnet_w18"] = Field(
        "light", description="light: the small network of Copytrace; hrnet_w18: the published one"
    )
    side: int = Field(96, ge=16, le=1024, description="rows and columns of the canvas in training")
    positive_weight: float = Field(
        3.0, gt=0, description="weight of cells on the line of a copy, relative to other cells"
    )
    dice_weight: float = Field(0.5, ge=0, description="weight of the Dice term of the loss; 0: cross-entropy alone")
    validation_pairs: int = Field(
        2000, ge=2, description="most candidate pairs for validation; it always includes the true ones"
    )
    loop: LoopSettings = LoopSettings(batch_size=16, learning_rate=2e-3)


class PairTraining(MatrixTraining):
    """Settings of `train-pair-classifier`."""

    architecture: str = Field(
        "light", description="light, the small network of Copytrace, or a timm model; published: mobilenetv3_small_100"
    )
    side: int = Field(64, ge=16, le=1024, description="rows and columns of the light network's canvas in training")
    cell_weight: float = Field(
        3.0, ge=0, description="weight of the loss of single cells, for the light network; 0: only that of the pair"
    )
    cross_validated: bool = Field(
        False, description="train a classifier for each fold, so that all pairs decide the threshold"
    )
    threshold_runs: int = Field(
        0,
        ge=0,
        description="number of first runs that decide the threshold, such as real ones before edited ones; 0: all",
    )
    true_share: float = Field(0.4, ge=0, le=1, description="share of true pairs among the other examples")
    loop: LoopSettings = LoopSettings(batch_size=32, learning_rate=2e-3)
