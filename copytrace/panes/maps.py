"""Maps of what keeps its place while a video plays: straight edges of each frame, and how much each pixel changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from copytrace.errors import InputError

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

SHORT_SIDE = 200  # pixels, about; frames are reduced by a whole divisor, which keeps a seam between two pixels sharp
ALONG = 7  # pixels along the line over which signed gradients are averaged; an uneven edge cancels out
ACROSS = 17  # pixels across the line within which it must stand out
FLOOR = 2.0  # gray levels of gradient that count as none
FLAT = 3.0  # gray levels; a pixel that differs less from its neighbors is plain surface
FULL = 255  # stored value of evidence 1
CHANGED = 16.0  # mean gray levels of difference from the frame before at which a frame is all new
REPEATED = 0.05  # weight of a frame that shows nothing new


@dataclass(frozen=True, slots=True)
class PaneMaps:
    """Reduced frames of one window and their measurements: N frames of H rows and W columns."""

    frames: Bytes  # [N, H, W, 3] RGB
    level: Bytes  # [N, H + 1, W] evidence 0..255 of a straight edge between rows y - 1 and y; 0 on the borders
    upright: Bytes  # [N, W + 1, H] likewise between columns x - 1 and x, columns first
    news: Floats  # [N] 0..1, difference of each frame from the one before; a still shot counts about once
    plain: Floats  # [H, W] share of frames in which a pixel is plain surface
    variance: Floats  # [H, W] of the gray levels over time, mean of the three channels

    def mean_edges(self, start: int, stop: int) -> tuple[Floats, Floats, float]:
        """Return the mean evidence 0..1 of frames start..stop, [H + 1, W] and [W + 1, H], and the sum of their news."""
        news = self.news[start:stop].copy()
        news[0] = 1.0  # the first frame of a window is all new
        weights = news / (news.sum() * FULL)
        level, upright = (_weighted_sum(edges[start:stop], weights) for edges in (self.level, self.upright))
        return level, upright, float(news.sum())


def measure_maps(frames: Iterable[Bytes]) -> PaneMaps:
    """Reduce frames, uint8 [H, W, 3] of one size, one by one and measure them.

    Memory holds one full frame at a time, so a generator of large frames costs little. Raises `InputError` if there are
    no frames, or if a frame has another shape, type or size.
    """
    reduced: list[Bytes] = []
    level: list[Bytes] = []
    upright: list[Bytes] = []
    news: list[float] = []
    size: tuple[int, ...] = ()
    total = squares = plain = np.zeros(0, np.float32)
    for frame in frames:
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
            raise InputError(
                f"a frame must be uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}; convert it to RGB"
            )
        if size and frame.shape != size:
            raise InputError(
                f"frame {len(reduced)} is {list(frame.shape)}, but those before it are {list(size)}; "
                "give frames of one size"
            )
        small = _reduce(frame)
        picture = small.astype(np.float32)
        if not reduced:
            size, total, squares = frame.shape, np.zeros_like(picture), np.zeros_like(picture)
            plain = np.zeros(picture.shape[:2], np.float32)
        total += picture
        squares += picture * picture
        plain += _is_plain(small)
        news.append(_difference(small, reduced[-1]) if reduced else 1.0)
        level.append(_straight_edges(picture))
        upright.append(_straight_edges(np.ascontiguousarray(picture.transpose(1, 0, 2))))
        reduced.append(small)
    if not reduced:
        raise InputError("panes cannot be found in a window without frames; give at least one frame")
    mean = total / len(reduced)
    variance = np.maximum(squares / len(reduced) - mean * mean, 0).mean(axis=2)
    return PaneMaps(
        frames=np.stack(reduced),
        level=np.stack(level),
        upright=np.stack(upright),
        news=np.array(news, np.float32),
        plain=np.asarray(plain / len(reduced), np.float32),
        variance=variance,
    )


def _reduce(frame: Bytes) -> Bytes:
    height, width = frame.shape[:2]
    divisor = max(1, round(min(height, width) / SHORT_SIDE))
    if divisor == 1:
        return frame.copy()
    size = (max(1, width // divisor), max(1, height // divisor))
    # The rows and columns that the division leaves over are cut off: less than a pixel of the reduced frame.
    divisible = np.ascontiguousarray(frame[: size[1] * divisor, : size[0] * divisor])
    return np.asarray(cv2.resize(divisible, size, interpolation=cv2.INTER_AREA), np.uint8)


def _difference(frame: Bytes, before: Bytes) -> float:
    return float(np.clip(cv2.absdiff(frame, before).mean() / CHANGED, REPEATED, 1.0))


def _is_plain(frame: Bytes) -> NDArray[np.bool_]:
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    across = cv2.absdiff(gray, cv2.copyMakeBorder(gray[:, :-1], 0, 0, 1, 0, cv2.BORDER_REPLICATE))
    down = cv2.absdiff(gray, cv2.copyMakeBorder(gray[:-1], 1, 0, 0, 0, cv2.BORDER_REPLICATE))
    return np.asarray(cv2.max(across, down) < FLAT, np.bool_)


def _straight_edges(picture: Floats) -> Bytes:
    """Return the evidence of a straight edge between rows a - 1 and a of float32 [A, B, 3]: uint8 [A + 1, B].

    It is 0 on the borders.
    """
    evidence = np.zeros((picture.shape[0] + 1, picture.shape[1]), np.uint8)
    if picture.shape[0] < 2:
        return evidence
    steps = cv2.blur(picture[1:] - picture[:-1], (ALONG, 1), borderType=cv2.BORDER_REPLICATE)
    gradient = np.sqrt(np.einsum("abc,abc->ab", steps, steps))
    around = cv2.blur(gradient, (1, ACROSS), borderType=cv2.BORDER_REPLICATE)
    padded = np.pad(gradient, ((1, 1), (0, 0)))
    ridge = (gradient >= padded[:-2]) & (gradient >= padded[2:])
    standing_out = np.clip(0.5 * gradient / (around + FLOOR) - 0.75, 0.0, 1.0)
    evidence[1:-1] = np.where(ridge, standing_out * FULL, 0)
    return evidence


def _weighted_sum(evidence: Bytes, weights: Floats) -> Floats:
    total = np.zeros(evidence.shape[1:], np.float32)
    for frame, weight in zip(evidence, weights, strict=True):
        total += weight * frame
    return total
