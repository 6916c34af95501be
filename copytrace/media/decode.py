"""Decoding of one image file, local or remote, into RGB pixels; any error becomes a one-line reason."""

from __future__ import annotations

import io
import re
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile

from copytrace.errors import MediaError
from copytrace.media.files import media_errors
from copytrace.storage import is_uri, open_file

Pixels = npt.NDArray[np.uint8]

MIN_SIDE = 8  # pixels; a picture with a shorter side is too small to describe
# Formats of photographs, recognized by their first bytes, never by the file's name. Pillow reads more formats, but some
# of them start other programs (EPS) or have no signature (TGA), so that any bytes may pass for one.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
_PREFIX_BYTES = 16

_TRUNCATED = re.compile(r"truncated|EOF|Expected to read", re.IGNORECASE)
# Where a format's header gives the least length of the file: byte order and type, offset, bytes to add.
_LENGTH_FIELDS = {b"RIFF": ("<I", 4, 8), b"BM": ("<I", 2, 0), b"II*\0": ("<I", 4, 0), b"MM\0*": (">I", 4, 0)}

_WHITE = (255, 255, 255)
# Upper ends of the ranges that files with 32 bits per value use in practice; the format itself defines none.
_RANGE_TOPS = (1.0, 255.0, 65535.0)

# EXIF orientation (TIFF 6.0, tag 274), and the operation that makes the picture upright.
_UPRIGHT: dict[object, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}
_QUARTER_TURNS = {5, 6, 7, 8}


@dataclass(frozen=True)
class DecodedImage:
    """Pixels of an image, uint8 RGB [H, W, 3], possibly reduced, and the size of the original in pixels.

    Both are upright: the EXIF orientation has been applied.
    """

    pixels: Pixels
    width: int
    height: int


def decode_image(path: str, *, short_side: int | None = None, max_pixels: int = 200_000_000) -> DecodedImage:
    """Decode a local file or a URI that fsspec opens; of several frames or pages, decode the first.

    Transparent pixels are blended with white. 16 bits per channel keep their high byte. 32-bit integers and floats are
    scaled from the smallest of 0..1, 0..255 and 0..65535 that contains them, or else from their own extremes; NaN and
    infinity count as 0. Color profiles are not applied. With `short_side` (pixels), an image whose shorter side
    is longer is reduced to exactly that by area averaging; no image is enlarged.

    Raises `MediaError` with a one-line reason, without the path, if the file is missing, unreadable, not an image,
    damaged or truncated, has a side under 8 pixels, or has more than `max_pixels` pixels. The last is read in its
    header, before anything is decoded.
    """
    with _open(path) as stream:
        kind = _format_of(stream)
        with _damage_errors(kind, stream):
            image = _open_header(kind, stream)
        width, height = image.size
        _check_size(width, height, max_pixels)
        with _damage_errors(kind, stream):
            if short_side is not None:
                image.draft(None, (short_side, short_side))  # JPEG decodes at 1/2, 1/4 or 1/8, never below this
            image.load()
            orientation = _orientation(image)
            pixels = _rgb_pixels(image)
    image.close()
    if short_side is not None:
        pixels = _reduce(pixels, short_side)
    if orientation in _UPRIGHT:
        pixels = _UPRIGHT[orientation](pixels)
    if orientation in _QUARTER_TURNS:
        width, height = height, width
    return DecodedImage(np.require(pixels, requirements=["C", "W"]), width, height)


def _open(path: str) -> IO[bytes]:
    if is_uri(path):
        return io.BytesIO(_download(path))
    with media_errors(path):
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode):
            raise MediaError("a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file")
        return Path(path).open("rb")


def _download(uri: str) -> bytes:
    """Return all bytes of an image, or only the first bytes of another file, such as a large video."""
    with media_errors(uri), open_file(uri) as stream:
        prefix: bytes = stream.read(_PREFIX_BYTES)
        return prefix + stream.read() if _match_format(prefix) else prefix


def _format_of(stream: IO[bytes]) -> str:
    prefix = stream.read(_PREFIX_BYTES)
    if not prefix:
        raise MediaError("empty file")
    kind = _match_format(prefix)
    if kind is None:
        raise MediaError(f"not an image (or none of {', '.join(FORMATS)})")
    return kind


def _match_format(prefix: bytes) -> str | None:
    Image.init()
    for kind in FORMATS:
        accept = Image.OPEN[kind][1]
        # `accept` returns a text if Pillow was built without the format.
        if accept is not None and accept(prefix) is True:
            return kind
    return None


def _open_header(kind: str, stream: IO[bytes]) -> ImageFile:
    """Do what `Image.open` does, except for its pixel limit, a global that threads would share."""
    stream.seek(0)
    return Image.OPEN[kind][0](stream, "")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise MediaError(f"{width}x{height} pixels is too small; the shorter side must be at least {MIN_SIDE}")
    if width * height > max_pixels:
        raise MediaError(
            f"{_format_gigapixels(width * height)} gigapixels is above the limit of {_format_gigapixels(max_pixels)} "
            f"(media.max_pixels)"
        )


def _format_gigapixels(pixels: int) -> str:
    return f"{pixels / 1e9:.2g}" if pixels < 1e9 else f"{pixels / 1e9:,.1f}"


@contextmanager
def _damage_errors(kind: str, stream: IO[bytes]) -> Iterator[None]:
    """Raise `MediaError` for what Pillow raises on a damaged file, which may be nearly any exception."""
    try:
        yield
    except MediaError:
        raise
    except MemoryError as error:
        raise MediaError(f"{kind} needs more memory than is available") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise MediaError(f"cannot be read: {error.strerror}") from error
        damage = "truncated" if _TRUNCATED.search(str(error)) or _is_cut_short(stream) else "corrupt"
        raise MediaError(f"{damage} {kind}") from error


def _is_cut_short(stream: IO[bytes]) -> bool:
    if stream.closed:
        return False
    length = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    prefix = stream.read(_PREFIX_BYTES)
    for mark, (field, offset, more) in _LENGTH_FIELDS.items():
        if prefix.startswith(mark) and len(prefix) == _PREFIX_BYTES:
            return bool(struct.unpack_from(field, prefix, offset)[0] + more > length)
    return length < _PREFIX_BYTES


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, LookupError, TypeError, OSError, struct.error):
        return 1  # Viewers show a picture whose EXIF data are damaged; so does Copytrace.


def _rgb_pixels(image: Image.Image) -> Pixels:
    if image.mode.startswith("I;16"):
        return _gray_to_rgb((np.asarray(image) >> _spare_bits(image)).astype(np.uint8))
    if image.mode in {"I", "F"}:
        return _gray_to_rgb(_scale_to_bytes(np.asarray(image)))
    if image.mode == "LAB":
        raise MediaError("LAB colors are not supported; convert the file to RGB")
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        backdrop = Image.new("RGB", image.size, _WHITE)
        backdrop.paste(image, mask=image.getchannel("A"))
        image = backdrop
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _gray_to_rgb(gray: Pixels) -> Pixels:
    return np.repeat(gray[..., np.newaxis], 3, axis=2)


def _spare_bits(image: Image.Image) -> int:
    """Return by how many bits to shift a 16-bit gray value to leave 8; a TIFF may use only 12 of the 16."""
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(ExifTags.Base.BitsPerSample, (16,))
    return 4 if bits == (12,) else 8


def _scale_to_bytes(values: npt.NDArray[Any]) -> Pixels:
    values = np.nan_to_num(values.astype(np.float64), copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    top = next((top for top in _RANGE_TOPS if low >= 0 and high <= top), None)
    if top is None:
        values, top = values - low, (high - low) or 1.0
    return np.rint(values * 255.0 / top).astype(np.uint8)


def _reduce(pixels: Pixels, short_side: int) -> Pixels:
    height, width = pixels.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1:
        return pixels
    size = (max(round(width * scale), short_side), max(round(height * scale), short_side))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
