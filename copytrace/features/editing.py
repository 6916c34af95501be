"""Editing detection: the probability that a video was edited at all, as in the descriptor track of VSC2022's winners.

Their copies are edited videos, so a query that was surely not edited copies nothing.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from configs.bounded_files import bounded_lines, read_small_file
from configs.parsing import parse_yaml
from copytrace.arrays import Floats
from copytrace.cells import restore
from copytrace.errors import ConfigError
from copytrace.runtime import torch_device
from copytrace.storage import digest_of, digest_of_file, local_copy, resolve_path
from models.configs import Channels, ModelFileError, PositiveChannels

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FRAMES_PER_RUN = 48  # as the winners' descriptors


class EditingDetector(Protocol):
    """Detector of edited videos."""

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with its answers."""

    @property
    def takes_frames(self) -> bool:
        """Whether `probability` needs the frames of a video; otherwise they need not be decoded."""

    def probability(self, video: str, frames: Iterable[NDArray[np.uint8]]) -> float:
        """Return the probability 0..1 that a video was edited, of its id and its frames uint8 [H, W, 3], in order."""


class EditingSpec(BaseModel):
    """The content of a spec: two networks of TorchScript beside it, and how frames are prepared.

    `frames` takes float32 [N, 3, S, S] and returns tokens [N, L, C], of which the first counts (CLIP's), or [N, C];
    `video` takes those of a video, float32 [1, `most_frames`, C], padded with zeros, and returns a logit [1].
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    frames: str = Field(min_length=1)
    video: str = Field(min_length=1)
    input_size: int = Field(224, ge=32, le=1024)
    most_frames: int = Field(256, ge=1, le=4096)
    mean: Channels = CLIP_MEAN
    std: PositiveChannels = CLIP_STD


def load_editing_detector(source: str, *, device: str | None, trust_torchscript: bool) -> EditingDetector:
    """Return the detector that `source` names: a CSV of probabilities, or a spec (YAML) of `EditingSpec`.

    Raises `ConfigError` for a file that is missing, unreadable or not trusted.
    """
    path = resolve_path(source)
    if path.suffix.lower() == ".csv":
        return EditingFile(path)
    if path.suffix.lower() not in {".yaml", ".yml"}:
        raise ConfigError(f"editing.detector={source} is neither a CSV of id,probability nor a spec (YAML)")
    if not trust_torchscript:
        raise ConfigError(
            f"{path} names TorchScript, a program that can read and write files of this machine; if you trust its "
            "maker, set descriptor.trust_torchscript=true"
        )
    return EditingNetworks(path, device)


class EditingFile:
    """The probabilities of a CSV file with `id` (or `video_id`) and `probability`; videos that it lacks are edited."""

    takes_frames = False

    def __init__(self, path: Path) -> None:
        try:
            self.digest = digest_of_file(path)
            with local_copy(path) as local, local.open(encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(bounded_lines(file))
                names = rows.fieldnames or ()
                key = "id" if "id" in names else "video_id"
                if not {key, "probability"} <= set(names):
                    raise ConfigError(f"{path} needs the columns id,probability; it has {', '.join(names) or 'none'}")
                self._known = {restore(row[key] or ""): _share(row["probability"], path, rows.line_num) for row in rows}
        except (OSError, ValueError, csv.Error) as error:
            raise ConfigError(f"{path} cannot be read: {error}; give CSV with the columns id,probability") from error

    def probability(self, video: str, frames: Iterable[NDArray[np.uint8]]) -> float:
        """See `EditingDetector`."""
        return self._known.get(video, 1.0)


def _share(text: str | None, path: Path, line: int) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ConfigError(f"{path}, row {line}: the probability {text!r} is not between 0 and 1; correct it")
    return value


class EditingNetworks:
    """The two networks of a spec, in float32."""

    takes_frames = True

    def __init__(self, path: Path, device: str | None) -> None:
        from models.torchscript import load_program  # here: it imports torch  # noqa: PLC0415

        self._device = torch_device(device)
        try:
            with local_copy(path) as file:
                self._spec = EditingSpec.model_validate(parse_yaml(read_small_file(file).decode("utf-8")))
            files = [path.parent / name for name in (self._spec.frames, self._spec.video)]
            with local_copy(files[0]) as frames, local_copy(files[1]) as video:
                self._frames, self._video = (load_program(file, self._device) for file in (frames, video))
            self.digest = digest_of(self._spec.model_dump(), *map(digest_of_file, files))
        except (OSError, ValueError, ModelFileError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"editing.detector={path}: {reason}; give frames and video, TorchScript files") from error

    def probability(self, video: str, frames: Iterable[NDArray[np.uint8]]) -> float:
        """See `EditingDetector`."""
        import torch  # noqa: PLC0415

        pictures = [self._prepare(frame) for _, frame in zip(range(self._spec.most_frames), frames, strict=False)]
        with torch.inference_mode():
            parts = [
                self._tokens(np.stack(pictures[start : start + FRAMES_PER_RUN]))
                for start in range(0, len(pictures), FRAMES_PER_RUN)
            ]
            if not parts:
                return 1.0
            tokens = torch.cat(parts)
            padded = torch.nn.functional.pad(tokens, (0, 0, 0, self._spec.most_frames - len(tokens)))
            return float(torch.sigmoid(self._video(padded[None])).reshape(()))

    def _tokens(self, pictures: Floats) -> Any:
        import torch  # noqa: PLC0415

        tokens = self._frames(torch.from_numpy(pictures).to(self._device)).float()
        return tokens[:, 0] if tokens.ndim == 3 else tokens

    def _prepare(self, frame: NDArray[np.uint8]) -> Floats:
        """Return the square in the middle of a frame whose short side is the input's, normalized, [3, S, S]."""
        side, (height, width) = self._spec.input_size, frame.shape[:2]
        scale = side / min(height, width)
        size = max(side, int(width * scale)), max(side, int(height * scale))
        image = Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)
        left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
        square = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
        mean, std = (np.array(values, np.float32) for values in (self._spec.mean, self._spec.std))
        return np.ascontiguousarray(((square - mean) / std).transpose(2, 0, 1))
