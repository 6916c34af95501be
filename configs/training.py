"""Settings of the training flows, with defaults for a machine without a GPU; presets lie in `train_…/`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from configs.settings import Settings


def _as_word(value: Any) -> Any:
    """YAML takes a bare `on` and `off` for booleans."""
    return ("on" if value else "off") if isinstance(value, bool) else value


Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_as_word)]


class LoopSettings(Settings):
    """How a network is trained, whatever it learns."""

    epochs: int = Field(30, ge=1)
    batch_size: int = Field(64, ge=2, description="examples per step and device")
    accumulate: int = Field(1, ge=1, description="steps whose gradients are summed before the weights move")
    learning_rate: float = Field(5e-4, gt=0, description="of new layers, at its peak (AdamW)")
    backbone_rate: float = Field(0.3, ge=0, description="learning rate of pretrained layers, as a share of that")
    weight_decay: float = Field(0.01, ge=0)
    warmup_epochs: float = Field(1.0, ge=0, description="epochs of linear warm-up; a cosine to zero follows")
    clip_norm: float = Field(5.0, gt=0, description="largest norm of the gradient")
    ema_decay: float = Field(0.998, ge=0, lt=1, description="of the averaged weights, which are what is kept; 0: off")
    validate_every: int = Field(1, ge=1, description="epochs between validations")
    checkpoint_minutes: float = Field(5.0, ge=0, description="longest time that a killed run loses")
    workers: int = Field(1, ge=0, description="processes that edit pictures; 0: the training process itself")
    devices: int = Field(1, ge=1, description="GPUs of this machine that train together")
    device: str | None = Field(None, description="a torch device; by default CUDA where there is some")
    compile: Switch = Field("auto", description="torch.compile; auto: on CUDA")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 on CUDA where it has it, else float16; float32 on the CPU"
    )
    threads: int = Field(0, ge=0, description="cores that the network uses on the CPU; 0: all")
    seed: int = Field(0, ge=0, description="what all draws follow from")


class PhotoSettings(Settings):
    """Which photos are learned from, and which are kept out to validate on."""

    validation_share: float = Field(0.15, gt=0, lt=1, description="share of the photos that validate")
    validation_limit: int = Field(500, ge=2, description="most photos that validate")
    validation_copies: int = Field(4, ge=1, description="edited copies of each of them")
    grouped: Literal["none", "folder"] = Field(
        "none", description="folder: pictures in one subfolder may show the same scene, as stills of a video do"
    )
    long_side: int = Field(448, ge=64, description="photos are reduced to it before they are edited")


class ViewSettings(Settings):
    """How strongly the views of a photo are edited."""

    views: int = Field(2, ge=2, description="edited views of each photo in a batch")
    reference_share: float = Field(0.4, ge=0, le=1, description="share of first views that are the plain photo")
    mixup: float = Field(0.1, ge=0, le=1, description="share of views pasted onto another photo of the batch")


class DescriptorTraining(Settings):
    """Everything that `train-descriptor` can be told."""

    architecture: str = Field("tf_efficientnet_lite0", description="a timm model, such as swin_base_patch4_window7_224")
    start: str = Field(
        "imagenet", description="imagenet, a descriptor or timm checkpoint (safetensors), or random: where it starts"
    )
    dimensions: int = Field(256, ge=8, le=4096, description="length of the vectors")
    input_size: int = Field(160, ge=32, le=1024, description="side in pixels while it is trained")
    described_size: int = Field(256, ge=32, le=1024, description="side in pixels when it describes")
    frozen_blocks: int = Field(2, ge=0, description="first blocks of the backbone that stay as they are")
    temperature: float = Field(0.05, gt=0, description="of InfoNCE (SSCD)")
    entropy_weight: float = Field(10.0, ge=0, description="of the KoLeo term; SSCD: 30, and 10 for other backbones")
    memory: int = Field(1024, ge=0, description="vectors of earlier batches that serve as negatives; 0: none")
    whitening: Switch = Field("auto", description="PCA at the end; auto: where it validates better")
    photos: PhotoSettings = PhotoSettings()
    views: ViewSettings = ViewSettings()
    loop: LoopSettings = LoopSettings()


class OverlayTraining(Settings):
    """Everything that `train-overlay-detector` can be told."""

    architecture: str = Field("tf_efficientnet_lite0", description="a timm model with feature maps")
    start: str = Field("imagenet", description="imagenet, an overlay detector (safetensors), or random")
    input_size: int = Field(192, ge=64, le=1024, description="side in pixels of the square while it is trained")
    detected_size: int = Field(224, ge=64, le=1024, description="side in pixels of the square that it looks at later")
    frozen_blocks: int = Field(2, ge=0, description="first blocks of the backbone that stay as they are")
    overlay_share: float = Field(0.7, gt=0, le=1, description="share of the composites that hold a pasted picture")
    examples_per_epoch: int = Field(2000, ge=1)
    validation_composites: int = Field(400, ge=2, description="composites of the photos that validate")
    photos: PhotoSettings = PhotoSettings()
    loop: LoopSettings = LoopSettings(batch_size=32)


class MatrixTraining(Settings):
    """What the networks that learn from similarity matrices are told alike."""

    start: str = Field("random", description="random, or a file (safetensors) of the same network to go on from")
    folds: int = Field(5, ge=2, description="parts that the queries fall into by their ids")
    fold: int = Field(0, ge=0, description="the part whose queries validate, counted from 0")
    examples_per_epoch: int = Field(2000, ge=1)
    synthetic_share: float = Field(0.5, ge=0, le=1, description="share of the examples that are synthetic")
    true_share: float = Field(0.6, ge=0, le=1, description="share of the others that are true pairs")

    @model_validator(mode="after")
    def _fold_exists(self) -> MatrixTraining:
        if self.fold >= self.folds:
            raise ValueError(f"fold={self.fold} does not exist among folds={self.folds}; they are counted from 0")
        return self


class AlignerTraining(MatrixTraining):
    """Everything that `train-aligner` can be told."""

    backbone: Literal["light", "hrnet_w18"] = Field("light", description="light: ours; hrnet_w18: as published")
    side: int = Field(96, ge=16, le=1024, description="rows and columns of the canvas while it is trained")
    positive_weight: float = Field(3.0, gt=0, description="of cells on a copy's line, against those off it")
    dice_weight: float = Field(0.5, ge=0, description="of the Dice term of the loss; 0: cross-entropy alone")
    validation_pairs: int = Field(2000, ge=2, description="most candidate pairs that validate; true ones always do")
    loop: LoopSettings = LoopSettings(batch_size=16, learning_rate=2e-3)


class PairTraining(MatrixTraining):
    """Everything that `train-pair-classifier` can be told."""

    architecture: str = Field(
        "light", description="light: ours; or a timm model that takes one channel, mobilenetv3_small_100 as published"
    )
    side: int = Field(64, ge=16, le=1024, description="rows and columns of the light one's canvas while it is trained")
    cell_weight: float = Field(
        3.0, ge=0, description="of the light one's loss that tells which cells are copied; 0: only whether any is"
    )
    cross_validated: bool = Field(
        False, description="train one for each fold: the threshold then rests on all pairs, not on those of one fold"
    )
    threshold_runs: int = Field(
        0,
        ge=0,
        description="the first so many runs alone choose the threshold, such as real ones before edited ones; 0: all",
    )
    true_share: float = Field(0.4, ge=0, le=1, description="share of the others that are true pairs")
    loop: LoopSettings = LoopSettings(batch_size=32, learning_rate=2e-3)
