"""Settings that images and videos share, and the base class of all settings."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Base of all settings: unknown names are refused, values cannot change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MediaSettings(Settings):
    """How files are found and decoded."""

    max_failure_rate: float = Field(0.5, ge=0, le=1, description="stop when more than this share cannot be read")
    max_pixels: int = Field(200_000_000, ge=64, description="refuse larger images: a guard against bombs")
    threads: int = Field(0, ge=0, le=1024, description="threads that decode, find points and verify; 0: one per core")
    shard_size: int = Field(256, ge=1, description="images per shard: what a killed run loses, and what memory holds")


class DescriptorSettings(Settings):
    """The global descriptor."""

    model: str = Field(
        "shipped",
        description="shipped; imagenet: not trained on copies; or a path (safetensors, TorchScript), s3://…, or "
        "models:/copytrace-descriptor@champion",
    )
    input_size: int | None = Field(
        None, ge=32, le=1024, description="side in pixels of the network's square input; by default what the model says"
    )
    batch_size: int = Field(16, ge=1, le=4096)
    backend: Literal["auto", "onnx", "torch"] = Field("auto", description="auto: torch on CUDA, else ONNX Runtime")
    device: str | None = Field(None, description="a torch device such as cuda:1; by default CUDA where there is some")
