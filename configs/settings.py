"""Settings that images and videos share, and the base class of all settings."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

KnownBy = Literal["status", "time", "content"]


class Settings(BaseModel):
    """The base class of all settings: unknown names are refused, and values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MediaSettings(Settings):
    """Reading of files, and the shards in which they are processed."""

    include: tuple[str, ...] = Field(
        (),
        description="globs of the files to take from a folder, glob or bucket, such as *.jpg or 2024/**; default: all",
    )
    exclude: tuple[str, ...] = Field(
        (), description="globs of the files and folders to leave out of a folder, glob or bucket, such as thumbnails"
    )
    roots: tuple[str, ...] = Field(
        (),
        description="folders or beginnings of URIs in which media must lie, after all links; default: anywhere. Set "
        "them if strangers write manifests or folders",
    )
    known_by: KnownBy = Field(
        "status",
        description="by what an indexed file is known to be unchanged. status: by size, times and inode or, if one of "
        "them differs, by content; time: the same by size and time of modification alone, for file systems that number "
        "files anew; content: by content, so that every file is read",
    )
    max_failure_rate: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of the images or videos that may be unreadable; if it is more, and more than one, the run "
        "stops. Files that are no media do not count",
    )
    max_pixels: int = Field(
        200_000_000,
        ge=64,
        description="most pixels of an image or frame; larger ones, such as decompression bombs, are refused",
    )
    max_seconds: float = Field(
        30.0,
        gt=0,
        description="most processor time that decoding a file may take, in seconds, besides 10 s per MiB of its size "
        "and 2 s per second of a video; a file that takes more is given up",
    )
    max_memory: int = Field(
        4096, ge=64, description="most memory that decoding a file may take, in MiB; a file that needs more is given up"
    )
    threads: int = Field(
        0, ge=0, le=1024, description="threads that decode, find points, verify and align; 0: one per core"
    )
    shard_size: int = Field(
        256,
        ge=1,
        description="images or videos per shard; memory holds a shard of images, and a killed run repeats a shard",
    )


class DescriptorSettings(Settings):
    """The global descriptor."""

    model: str = Field(
        "shipped",
        description="network. shipped: the trained one; imagenet: one that was not trained on copies; or a path "
        "(safetensors, TorchScript, or a .yaml that says how pictures are made for published weights), s3://…, or "
        "models:/copytrace-descriptor@champion; #sha256=DIGEST at its end pins it, as https://… needs",
    )
    trust_torchscript: bool = Field(
        False,
        description="load TorchScript files. Such a file is a program that can read and write files of this machine, "
        "so it must come from somebody you trust",
    )
    input_size: int | None = Field(
        None, ge=32, le=1024, description="side of the network's square input, in pixels; default: stated by the model"
    )
    batch_size: int = Field(16, ge=1, le=4096, description="pictures that the network describes at a time")
    backend: Literal["auto", "onnx", "torch"] = Field(
        "auto", description="what runs the networks. auto: torch if there is CUDA, otherwise ONNX Runtime"
    )
    device: str | None = Field(None, description="torch device, such as cuda:1; default: CUDA if there is any")
