"""Edits of the pixels that move nothing. Each takes an RGB picture and returns an RGB picture.

Sizes in pixels are for a short side of 400 and grow with the picture.

Edits of torchvision's `transforms.v2` are applied by its functions, on Pillow's pictures: its transform classes would
draw from torch's global generator, which threads share, and not from that of `Draw`.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageChops, ImageFilter
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from copytrace.synthesis.edit_tracking import MIN_SIDE, Draw

_COLOR_MAPS = (
    cv2.COLORMAP_JET,
    cv2.COLORMAP_HOT,
    cv2.COLORMAP_OCEAN,
    cv2.COLORMAP_PINK,
    cv2.COLORMAP_BONE,
    cv2.COLORMAP_SUMMER,
    cv2.COLORMAP_TWILIGHT,
    cv2.COLORMAP_VIRIDIS,
)


def downscale(image: Image.Image, draw: Draw) -> Image.Image:
    """Save at 25-75 % of the sides."""
    scale = draw.amount(0.75, 0.25)
    width, height = (max(MIN_SIDE, round(side * scale)) for side in image.size)
    smaller: Image.Image = v2.resize(image, [height, width], InterpolationMode.BICUBIC)
    return smaller


def brightness(image: Image.Image, draw: Draw) -> Image.Image:
    """Darken to 30-80 % or brighten to 125-220 %."""
    changed: Image.Image = v2.adjust_brightness(image, _change_factor(draw, (0.8, 0.3), (1.25, 2.2)))
    return changed


def contrast(image: Image.Image, draw: Draw) -> Image.Image:
    """Flatten to 25-75 % or raise to 130-300 %."""
    changed: Image.Image = v2.adjust_contrast(image, _change_factor(draw, (0.75, 0.25), (1.3, 3.0)))
    return changed


def saturation(image: Image.Image, draw: Draw) -> Image.Image:
    """Reduce saturation to 5-60 % or raise it to 150-450 %."""
    changed: Image.Image = v2.adjust_saturation(image, _change_factor(draw, (0.6, 0.05), (1.5, 4.5)))
    return changed


def _change_factor(draw: Draw, less: tuple[float, float], more: tuple[float, float]) -> float:
    return draw.amount(*draw.choice((less, more)))


def color_jitter(image: Image.Image, draw: Draw) -> Image.Image:
    """Change brightness, contrast, saturation and hue together, like a filter of a photo app."""
    for adjust, harshest in ((v2.adjust_brightness, 0.45), (v2.adjust_contrast, 0.5), (v2.adjust_saturation, 0.8)):
        image = adjust(image, 1 + draw.sign() * draw.amount(0.1, harshest))
    changed: Image.Image = v2.adjust_hue(image, draw.amount(0.02, 0.3) * draw.sign())
    return changed


def grayscale(image: Image.Image, draw: Draw) -> Image.Image:
    """Remove the colors."""
    gray: Image.Image = v2.rgb_to_grayscale(image, num_output_channels=3)
    return gray


def invert(image: Image.Image, draw: Draw) -> Image.Image:
    """Turn the picture into its negative."""
    negative: Image.Image = v2.invert(image)
    return negative


def colormap(image: Image.Image, draw: Draw) -> Image.Image:
    """Show the lightness in false colors, blended in at 60-100 %."""
    false_colors = cv2.applyColorMap(np.asarray(image.convert("L")), draw.choice(_COLOR_MAPS))
    shown = Image.fromarray(cv2.cvtColor(false_colors, cv2.COLOR_BGR2RGB))
    return Image.blend(image, shown, draw.amount(0.6, 1.0))


def blur(image: Image.Image, draw: Draw) -> Image.Image:
    """Blur by a radius of 1-7 pixels."""
    # v2.gaussian_blur, a convolution by the square of the kernel, takes three to twenty-five times as long.
    method = draw.choice((ImageFilter.GaussianBlur, ImageFilter.BoxBlur))
    return image.filter(method(draw.amount(1, 7) * _relative_size(image)))


def sharpen(image: Image.Image, draw: Draw) -> Image.Image:
    """Sharpen excessively, by an unsharp mask of 150-700 %."""
    # v2.adjust_sharpness enhances only the finest detail and leaves no halo around edges.
    amount, pixels = draw.amount(1.5, 7), np.asarray(image)
    blurred = cv2.GaussianBlur(pixels, (0, 0), sigmaX=2)
    return Image.fromarray(cv2.addWeighted(pixels, 1 + amount, blurred, -amount, 0))


def noise(image: Image.Image, draw: Draw) -> Image.Image:
    """Add Gaussian noise of 8-55 gray levels, or turn 1-12 % of the pixels black or white."""
    # v2.gaussian_noise draws from torch's global generator.
    pixels = np.asarray(image)
    if draw.chance(0.7):
        grain = draw.rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(draw.amount(8, 55))
        return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))
    lot = draw.rng.random(pixels.shape[:2], dtype=np.float32)
    share = draw.amount(0.01, 0.12)
    return Image.fromarray(
        np.where((lot < share)[..., None], np.where(lot < share / 2, 0, 255)[..., None], pixels).astype(np.uint8)
    )


def jpeg(image: Image.Image, draw: Draw) -> Image.Image:
    """Save as JPEG of quality 5-45."""
    reopened: Image.Image = v2.jpeg(image, quality=round(draw.amount(45, 5)))
    return reopened


def pixelate(image: Image.Image, draw: Draw) -> Image.Image:
    """Show the picture in squares of 2-9 pixels."""
    cell = max(2.0, draw.amount(2, 9) * _relative_size(image))
    width, height = (max(4, round(side / cell)) for side in image.size)
    small = image.resize((width, height), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.NEAREST)


def shuffle(image: Image.Image, draw: Draw) -> Image.Image:
    """Permute 8-50 % of the pixels."""
    pixels = np.array(image).reshape(-1, 3)
    taken = np.flatnonzero(draw.rng.random(len(pixels), dtype=np.float32) < draw.amount(0.08, 0.5))
    pixels[taken] = pixels[draw.rng.permutation(taken)]
    return Image.fromarray(pixels.reshape(image.height, image.width, 3))


def opacity(image: Image.Image, draw: Draw) -> Image.Image:
    """Blend in a plain color by 15-65 %."""
    return ImageChops.blend(image, Image.new("RGB", image.size, draw.color()), draw.amount(0.15, 0.65))


def _relative_size(image: Image.Image) -> float:
    return min(image.size) / 400
