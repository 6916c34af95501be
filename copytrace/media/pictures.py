"""Decoding of an opened image file into RGB pixels, in a worker; any error becomes a one-line reason."""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import cv2
import numpy as np
from PIL import ExifTags, Image, PngImagePlugin
from PIL.ImageFile import ImageFile

from copytrace.errors import MediaError, NotMediumError
from copytrace.media.formats import MIN_SIDE, PREFIX_BYTES, image_format, is_raw, no_medium, open_picture, unread_format
from copytrace.media.rgb import Pixels, to_rgb
from copytrace.media.salvage import salvage

_ANIMATED = {"GIF", "WEBP", "PNG", "AVIF"}
_MOST_FRAMES = 24  # of an animation that begins with a plain frame
_PLAIN = 4.0  # standard deviation, of 255 levels, under which a frame is plain
_BYTES_OF_A_SAMPLE = 4  # of OpenJPEG; of most decoders it is 1

_NO_MEMORY = re.compile(r"out of memory|cannot allocate|insufficient memory", re.IGNORECASE)
_TRUNCATED = re.compile(r"truncated|EOF|Expected to read", re.IGNORECASE)
_UNSUPPORTED = re.compile(r"unsupported|cannot handle|unknown (pixel mode|data)|image mode$", re.IGNORECASE)
# Where a format's header gives the least length of the file: byte order and type, offset, bytes to add.
_LENGTH_FIELDS = {b"RIFF": ("<I", 4, 8), b"BM": ("<I", 2, 0), b"II*\0": ("<I", 4, 0), b"MM\0*": (">I", 4, 0)}
_HEADER_BYTES = 16
_METADATA = {b"iCCP", b"tEXt", b"zTXt", b"iTXt"}  # chunks of a PNG
_PILLOW = r"PIL\."  # modules of Pillow, as a filter of warnings takes them

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


class _DamageError(MediaError):
    """A picture whose file is cut short or corrupt."""


def read_picture(
    stream: IO[bytes], name: str, settings: dict[str, Any], _: object = ()
) -> Iterator[tuple[dict[str, Any], list[Pixels]]]:
    """Decode an image as `decode_image` says; yield `width`, `height` and `damage`, and the pixels.

    `settings` are `short_side`, `max_pixels` and `threads`; `name` is the path of the file. Raises `MediaError` as
    `decode_image` does, and `MemoryError` if there is too little memory.
    """
    short_side, max_pixels = settings["short_side"], settings["max_pixels"]
    _quiet_pillow()
    kind = _format_of(stream, name)
    try:
        with _damage_errors(kind, stream):
            image = open_picture(kind, stream, settings["threads"])
        width, height = image.size
        _check_size(width, height, max_pixels)
        image, damage, rows = _load(kind, stream, image, short_side)
    except _DamageError as error:
        if is_raw(name):
            raise NotMediumError("the raw file of a camera, which is not read") from error
        raise
    with _damage_errors(kind, stream):
        orientation = _orientation(image)
        pixels = to_rgb(image) if kind not in _ANIMATED else _most_telling(image)
    image.close()
    if damage:
        height = round(height * (rows.stop - rows.start) / image.height)
        pixels = pixels[rows]
    if short_side is not None:
        pixels = _reduce(pixels, short_side)
    if orientation in _UPRIGHT:
        pixels = _UPRIGHT[orientation](pixels)
    if orientation in _QUARTER_TURNS:
        width, height = height, width
    yield {"width": width, "height": height, "damage": damage}, [pixels]


def _load(
    kind: str, stream: IO[bytes], image: ImageFile, short_side: int | None
) -> tuple[ImageFile, str | None, slice]:
    """Decode a picture, if need be as far as possible; return it, the damage, and the rows that were decoded."""
    try:
        with _damage_errors(kind, stream):
            if short_side is not None:
                image.draft(None, (short_side, short_side))  # JPEG decodes at 1/2, 1/4 or 1/8, never below this
            image.load()
    except _DamageError as error:
        # Some decoders report a lack of memory as damage: this raises `MemoryError` if there is none for one plane.
        bytearray(image.width * image.height * _BYTES_OF_A_SAMPLE)
        with _damage_errors(kind, stream):
            salvaged, rows = salvage(kind, stream, image)
        if rows.stop - rows.start < MIN_SIDE:
            raise
        return salvaged, str(error), rows
    return image, None, slice(None)


def _most_telling(image: ImageFile) -> Pixels:
    """Return the first frame of an animation or, if that is plain, the one with most contrast among the first ones."""
    best = to_rgb(image)
    if _contrast(best) >= _PLAIN or not getattr(image, "is_animated", False):
        return best
    contrast = _PLAIN
    for number in range(1, min(getattr(image, "n_frames", 1), _MOST_FRAMES)):
        try:
            image.seek(number)
            frame = to_rgb(image)
        except (EOFError, OSError, SyntaxError, ValueError):
            break  # what comes after damage is left out
        if frame.shape == best.shape and _contrast(frame) > contrast:
            best, contrast = frame, _contrast(frame)
    return best


def _contrast(pixels: Pixels) -> float:
    step = max(1, max(pixels.shape[:2]) // 256)
    return float(pixels[::step, ::step].std(axis=(0, 1)).max())


class _PngStream(PngImagePlugin.PngStream):
    """A PNG of which texts and color profiles that Pillow refuses, as too large or damaged, are left out."""

    def call(self, cid: bytes, pos: int, length: int) -> bytes:
        """Read a chunk, and return its content."""
        if cid not in _METADATA or self.fp is None:
            return super().call(cid, pos, length)
        content = self.fp.read(length)
        stream, self.fp = self.fp, io.BytesIO(content)
        try:
            with suppress(ValueError, SyntaxError):
                super().call(cid, pos, length)
        finally:
            self.fp = stream
        return content


def _quiet_pillow() -> None:
    """Keep Pillow from refusing pictures, or warning without their names, for metadata that do not change them."""
    PngImagePlugin.PngStream = _PngStream  # type: ignore[misc]
    # The standard library has no filter per thread, and images are decoded in many.
    if not any(getattr(module, "pattern", None) == _PILLOW for *_, module, _ in warnings.filters):
        warnings.filterwarnings("ignore", module=_PILLOW)


def _format_of(stream: IO[bytes], name: str) -> str:
    prefix = stream.read(PREFIX_BYTES)
    if not prefix:
        raise no_medium(name, "image", "empty file")
    kind = image_format(prefix)
    if kind is None:
        raise no_medium(name, "image", unread_format(prefix))
    return kind


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
    except (MediaError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise MediaError(f"cannot be read: {error.strerror}") from error
        if _NO_MEMORY.search(str(error)):
            raise MemoryError from error
        damage = "truncated" if _TRUNCATED.search(str(error)) or _is_cut_short(stream) else "corrupt"
        is_foreign = _UNSUPPORTED.search(str(error)) is not None
        cure = ", or of a kind that is not read; save it as PNG or JPEG" if is_foreign else ""
        raise _DamageError(f"{damage} {kind}{cure}") from error


def _is_cut_short(stream: IO[bytes]) -> bool:
    if stream.closed:
        return False
    position = stream.tell()
    length = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    prefix = stream.read(_HEADER_BYTES)
    stream.seek(position)
    for mark, (field, offset, more) in _LENGTH_FIELDS.items():
        if prefix.startswith(mark) and len(prefix) == _HEADER_BYTES:
            return bool(struct.unpack_from(field, prefix, offset)[0] + more > length)
    return length < _HEADER_BYTES


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, LookupError, TypeError, OSError, struct.error):
        return 1  # Viewers show a picture whose EXIF data are damaged; so does Copytrace.


def _reduce(pixels: Pixels, short_side: int) -> Pixels:
    height, width = pixels.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1:
        return pixels
    size = (max(round(width * scale), short_side), max(round(height * scale), short_side))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
