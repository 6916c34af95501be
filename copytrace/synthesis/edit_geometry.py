"""Edits of a photo's geometry: crops, flips, rotations, stretches, margins.

Flips, quarter turns, stretches and margins are torchvision's `transforms.v2`. Other rotations, shears and perspectives
are OpenCV's warp, which applies an exact homography to a given canvas: torchvision's rotate and affine choose canvas
and center by their own rules, to whole pixels, and its perspective takes three times as long.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from copytrace.arrays import Doubles
from copytrace.synthesis.edit_tracking import MIN_SIDE, Draw, EditedPicture, PixelBox, map_points

_QUARTER_TURNS = {
    90: [[0.0, 1, 0], [-1, 0, 1], [0, 0, 1]],
    180: [[-1.0, 0, 1], [0, -1, 1], [0, 0, 1]],
    270: [[0.0, -1, 1], [1, 0, 0], [0, 0, 1]],
}


def crop(edited: EditedPicture, draw: Draw) -> EditedPicture:
    """Keep 25-85 % of each side: of three random windows the one with the highest contrast, as people do."""
    gray = np.asarray(edited.image.convert("L"))
    windows = [_window(edited.image.size, draw) for _ in range(3)]
    return edited.crop(max(windows, key=lambda box: _contrast(gray[box[1] : box[3], box[0] : box[2]])))


def _contrast(gray: NDArray[np.uint8]) -> float:
    return float(cv2.meanStdDev(gray)[1][0, 0])


def _window(size: tuple[int, int], draw: Draw) -> PixelBox:
    width, height = (min(side, max(MIN_SIDE, round(side * draw.amount(0.85, 0.25)))) for side in size)
    left, top = draw.integer(0, size[0] - width), draw.integer(0, size[1] - height)
    return left, top, left + width, top + height


def hflip(edited: EditedPicture, draw: Draw) -> EditedPicture:
    """Exchange left and right."""
    return edited.transform_to(v2.horizontal_flip(edited.image), np.array([[-1.0, 0, 1], [0, 1, 0], [0, 0, 1]]))


def vflip(edited: EditedPicture, draw: Draw) -> EditedPicture:
    """Exchange top and bottom."""
    return edited.transform_to(v2.vertical_flip(edited.image), np.array([[1.0, 0, 0], [0, -1, 1], [0, 0, 1]]))


def rotate90(edited: EditedPicture, draw: Draw) -> EditedPicture:
    """Rotate by 90, 180 or 270 degrees."""
    angle = draw.choice((90, 180, 270))
    return edited.transform_to(v2.rotate(edited.image, angle, expand=True), np.array(_QUARTER_TURNS[angle]))


def rotate(edited: EditedPicture, draw: Draw) -> EditedPicture:
    """Rotate by 3-90 degrees either way: on a larger canvas, on the same one, or cropped so that no corner is empty."""
    angle = math.radians(draw.amount(3, 90)) * draw.sign()
    turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    frame = draw.choice(("expanded", "same", "inside"))
    if frame == "expanded":
        return _on_fitting_canvas(edited, turn, draw)
    size = edited.image.size if frame == "same" else _largest_upright_inside(edited.image.size, angle)
    to_center = _translation(-edited.image.width / 2, -edited.image.height / 2)
    return edited.warp(_translation(size[0] / 2, size[1] / 2) @ turn @ to_center, size, draw.color())


def _largest_upright_inside(size: tuple[int, int], angle: float) -> tuple[int, int]:
    """Return the largest upright box inside a rotated one: its corners touch two sides, or all four."""
    long, short = max(size), min(size)
    sine, cosine = abs(math.sin(angle)), abs(math.cos(angle))
    if short <= 2 * sine * cosine * long or abs(sine - cosine) < 1e-9:
        a, b = short / 2 / max(sine, 1e-9), short / 2 / max(cosine, 1e-9)
        width, height = (a, b) if size[0] >= size[1] else (b, a)
    else:
        double_cosine = cosine**2 - sine**2
        width = (size[0] * cosine - size[1] * sine) / double_cosine
        height = (size[1] * cosine - size[0] * sine) / double_cosine
    return max(MIN_SIDE, int(width)), max(MIN_SIDE, int(height))


def aspect(edited: EditedPicture, draw: Draw) -> EditedPicture:
    """Stretch to an aspect ratio 1.2-2.2 times wider or narrower, keeping the area."""
    stretch = math.sqrt(draw.amount(1.2, 2.2)) ** draw.sign()
    width, height = max(1, round(edited.image.width * stretch)), max(1, round(edited.image.height / stretch))
    return edited.replace_pixels(v2.resize(edited.image, [height, width], InterpolationMode.BICUBIC))


def pad(edited: EditedPicture, draw: Draw) -> EditedPicture:
    """Add margins of 3-35 % of a side: plain, or filled with the blurred photo as in phone apps."""
    width, height = edited.image.size
    if draw.chance(0.5):
        left = right = top = bottom = round(min(width, height) * draw.amount(0.03, 0.35))
    else:
        left, right = (round(width * draw.amount(0.03, 0.35)) for _ in range(2))
        top, bottom = (round(height * draw.amount(0.03, 0.35)) for _ in range(2))
    columns, rows = width + left + right, height + top + bottom
    if draw.chance(0.25):
        tiny = edited.image.resize((24, 24)).filter(ImageFilter.GaussianBlur(2))
        framed = tiny.resize((columns, rows), Image.Resampling.BICUBIC)
        framed.paste(edited.image, (left, top))
    else:
        framed = v2.pad(edited.image, [left, top, right, bottom], fill=draw.color())
    matrix = np.array([[width / columns, 0, left / columns], [0, height / rows, top / rows], [0, 0, 1]])
    return edited.transform_to(framed, matrix)


def perspective(edited: EditedPicture, draw: Draw) -> EditedPicture:
    """Move each corner inwards by up to 6-32 % of the sides, as in a photo of a screen from one side."""
    size = np.array(edited.image.size, dtype=np.float64)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float64)
    inwards = (0.5 - corners) * 2 * draw.rng.uniform(0.2, 1.0, (4, 2)) * draw.amount(0.06, 0.32)
    source, target = (corners * size).astype(np.float32), ((corners + inwards) * size).astype(np.float32)
    matrix = cv2.getPerspectiveTransform(source, target).astype(np.float64)
    return edited.warp(matrix, edited.image.size, draw.color())


def skew(edited: EditedPicture, draw: Draw) -> EditedPicture:
    """Shear along one side by 0.1-0.6 of the other, on a canvas that holds the whole picture."""
    shear = np.eye(3)
    shear[draw.choice(((0, 1), (1, 0)))] = draw.amount(0.1, 0.6) * draw.sign()
    return _on_fitting_canvas(edited, shear, draw)


def _on_fitting_canvas(edited: EditedPicture, matrix: Doubles, draw: Draw) -> EditedPicture:
    width, height = edited.image.size
    corners = map_points(matrix, np.array([[0.0, 0], [width, 0], [width, height], [0, height]]))
    low, high = corners.min(axis=0), corners.max(axis=0)
    columns, rows = (math.ceil(side) for side in high - low)
    return edited.warp(_translation(-low[0], -low[1]) @ matrix, (columns, rows), draw.color())


def _translation(x: float, y: float) -> Doubles:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])
