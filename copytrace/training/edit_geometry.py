"""Edits that move the photo: crops, flips, turns, stretches, frames."""

from __future__ import annotations

import math

import cv2
import numpy as np
from PIL import Image, ImageFilter

from copytrace.training.edit_tracking import MIN_SIDE, Draw, Edited, FloatArray, PixelBox, map_points

_QUARTER_TURNS = {
    90: (Image.Transpose.ROTATE_90, [[0, 1, 0], [-1, 0, 1], [0, 0, 1]]),
    180: (Image.Transpose.ROTATE_180, [[-1, 0, 1], [0, -1, 1], [0, 0, 1]]),
    270: (Image.Transpose.ROTATE_270, [[0, -1, 1], [1, 0, 0], [0, 0, 1]]),
}


def crop(edited: Edited, draw: Draw) -> Edited:
    """Keep 25-85 % of each side. Of three windows the one with most to see is kept, as people do."""
    grey = np.asarray(edited.image.convert("L"))
    windows = [_window(edited.image.size, draw) for _ in range(3)]
    return edited.cropped(max(windows, key=lambda box: float(grey[box[1] : box[3], box[0] : box[2]].std())))


def _window(size: tuple[int, int], draw: Draw) -> PixelBox:
    width, height = (min(side, max(MIN_SIDE, round(side * draw.amount(0.85, 0.25)))) for side in size)
    left, top = draw.integer(0, size[0] - width), draw.integer(0, size[1] - height)
    return left, top, left + width, top + height


def hflip(edited: Edited, draw: Draw) -> Edited:
    """Exchange left and right."""
    image = edited.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return edited.moved(image, np.array([[-1.0, 0, 1], [0, 1, 0], [0, 0, 1]]))


def vflip(edited: Edited, draw: Draw) -> Edited:
    """Exchange top and bottom."""
    image = edited.image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return edited.moved(image, np.array([[1.0, 0, 0], [0, -1, 1], [0, 0, 1]]))


def rotate90(edited: Edited, draw: Draw) -> Edited:
    """Turn by 90, 180 or 270 degrees."""
    transpose, matrix = _QUARTER_TURNS[draw.choice((90, 180, 270))]
    return edited.moved(edited.image.transpose(transpose), np.array(matrix, dtype=np.float64))


def rotate(edited: Edited, draw: Draw) -> Edited:
    """Turn by 3-90 degrees either way: on a larger canvas, in the old frame, or cropped until no corner is empty."""
    angle = math.radians(draw.amount(3, 90)) * draw.sign()
    turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    frame = draw.choice(("expanded", "same", "inside"))
    if frame == "expanded":
        return _on_fitting_canvas(edited, turn, draw)
    size = edited.image.size if frame == "same" else _largest_upright_inside(edited.image.size, angle)
    to_centre = _translation(-edited.image.width / 2, -edited.image.height / 2)
    return edited.warped(_translation(size[0] / 2, size[1] / 2) @ turn @ to_centre, size, draw.colour())


def _largest_upright_inside(size: tuple[int, int], angle: float) -> tuple[int, int]:
    """The largest upright box inside a turned one: its corners touch two sides, or all four."""
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


def aspect(edited: Edited, draw: Draw) -> Edited:
    """Stretch to an aspect ratio 1.2-2.2 times wider or narrower, keeping the area."""
    stretch = math.sqrt(draw.amount(1.2, 2.2)) ** draw.sign()
    size = max(1, round(edited.image.width * stretch)), max(1, round(edited.image.height / stretch))
    return edited.repainted(edited.image.resize(size, Image.Resampling.BICUBIC))


def pad(edited: Edited, draw: Draw) -> Edited:
    """Put margins of 3-35 % of a side round it: plain, or filled with the blurred photo as phone apps do."""
    width, height = edited.image.size
    if draw.chance(0.5):
        left = right = top = bottom = round(min(width, height) * draw.amount(0.03, 0.35))
    else:
        left, right = (round(width * draw.amount(0.03, 0.35)) for _ in range(2))
        top, bottom = (round(height * draw.amount(0.03, 0.35)) for _ in range(2))
    size = (width + left + right, height + top + bottom)
    if draw.chance(0.25):
        tiny = edited.image.resize((24, 24)).filter(ImageFilter.GaussianBlur(2))
        canvas = tiny.resize(size, Image.Resampling.BICUBIC)
    else:
        canvas = Image.new("RGB", size, draw.colour())
    return edited.placed(canvas, (left, top, left + width, top + height))


def perspective(edited: Edited, draw: Draw) -> Edited:
    """Move each corner inwards by up to 6-32 % of the sides, as in a photo of a screen taken from aside."""
    size = np.array(edited.image.size, dtype=np.float64)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float64)
    inwards = (0.5 - corners) * 2 * draw.rng.uniform(0.2, 1.0, (4, 2)) * draw.amount(0.06, 0.32)
    source, target = (corners * size).astype(np.float32), ((corners + inwards) * size).astype(np.float32)
    matrix = cv2.getPerspectiveTransform(source, target).astype(np.float64)
    return edited.warped(matrix, edited.image.size, draw.colour())


def skew(edited: Edited, draw: Draw) -> Edited:
    """Shear along one side by 0.1-0.6 of the other, on a canvas that holds all of it."""
    shear = np.eye(3)
    shear[draw.choice(((0, 1), (1, 0)))] = draw.amount(0.1, 0.6) * draw.sign()
    return _on_fitting_canvas(edited, shear, draw)


def _on_fitting_canvas(edited: Edited, matrix: FloatArray, draw: Draw) -> Edited:
    width, height = edited.image.size
    corners = map_points(matrix, np.array([[0.0, 0], [width, 0], [width, height], [0, height]]))
    low, high = corners.min(axis=0), corners.max(axis=0)
    columns, rows = (math.ceil(side) for side in high - low)
    return edited.warped(_translation(-low[0], -low[1]) @ matrix, (columns, rows), draw.colour())


def _translation(x: float, y: float) -> FloatArray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])
