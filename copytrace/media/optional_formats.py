"""HEIF (HEIC) and JPEG XL, which Pillow cannot read: by packages that are installed as extras of this one."""

from __future__ import annotations

from importlib import import_module
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ImageFile import ImageFile

from copytrace.errors import MediaError

_SIGNATURE = b"\xff\x0a"  # of a JPEG XL codestream
_HEIF_THREADS = 4  # of pi-heif, if nothing else is said
_RATIOS = (None, (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height, ISO/IEC 18181-1


def open_heif(stream: IO[bytes], threads: int = 0) -> ImageFile:
    """Return the main picture of a HEIF file. Raises `MediaError` if pi-heif is missing."""
    pi_heif = _require("pi_heif", "HEIF", "heif")
    if "HEIF" not in Image.OPEN:
        pi_heif.register_heif_opener()
    pi_heif.options.DECODE_THREADS = threads or _HEIF_THREADS
    opened: ImageFile = Image.OPEN["HEIF"][0](stream, "")
    return opened


def open_jpeg_xl(stream: IO[bytes]) -> ImageFile:
    """Return a JPEG XL picture. Raises `MediaError` if imagecodecs is missing."""
    _require("imagecodecs", "JPEG XL", "jxl")
    return JpegXlFile(stream, "")


class JpegXlFile(ImageFile):
    """A JPEG XL picture for Pillow; of an animation the first frame. The decoder turns it upright."""

    format = "JXL"
    format_description = "JPEG XL"

    def _open(self) -> None:
        self._data = self.fp.read() if self.fp else b""
        self._size = read_jpeg_xl_size(self._data)
        self._mode = "RGB"

    def load(self) -> Any:
        """Decode the picture; see `ImageFile.load`."""
        if self._im is None:
            decoded = np.asarray(import_module("imagecodecs").jpegxl_decode(self._data, index=0))
            picture = Image.fromarray(_to_bytes(decoded[..., 0] if decoded.shape[-1:] == (1,) else decoded))
            self.im, self._mode, self._size = picture.im, picture.mode, picture.size
        return Image.Image.load(self)


def read_jpeg_xl_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a JPEG XL file, as shown, from its header (ISO/IEC 18181-1, D.2).

    Raises `SyntaxError`, as Pillow's readers do, if there is no header.
    """
    bits = _Bits(_codestream(data))
    small = bits.read(1)
    height = _read_side(bits, small)
    ratio = _RATIOS[bits.read(3)]
    width = height * ratio[0] // ratio[1] if ratio else _read_side(bits, small)
    is_default, has_extra = bits.read(1), bits.read(1)
    orientation = 1 + bits.read(3) if not is_default and has_extra else 1
    return (height, width) if orientation > 4 else (width, height)


def _require(module: str, kind: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MediaError(
            f"{kind} needs a package that is missing; install it: pip install 'copytrace[{extra}]'"
        ) from error


def _to_bytes(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return (values >> 8).astype(np.uint8)
    return np.rint(np.clip(np.nan_to_num(values.astype(np.float32)), 0, 1) * 255).astype(np.uint8)


def _codestream(data: bytes) -> bytes:
    """Return the start of the codestream, which stands alone or in a box of a container."""
    at = 0
    while not data.startswith(_SIGNATURE, at):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind in {b"jxlc", b"jxlp"}:
            at += 8 if kind == b"jxlc" else 12
        elif length < 8 or at + length >= len(data):
            raise SyntaxError("no JPEG XL codestream")
        else:
            at += length
    return data[at + len(_SIGNATURE) : at + 32]


class _Bits:
    """Bits of a codestream, the least significant of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._bits, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def read(self, count: int) -> int:
        if count > self._left:
            raise SyntaxError("the JPEG XL header is cut short")
        value = self._bits & ((1 << count) - 1)
        self._bits >>= count
        self._left -= count
        return value


def _read_side(bits: _Bits, small: int) -> int:
    if small:
        return 8 * (1 + bits.read(5))
    return 1 + bits.read((9, 13, 18, 30)[bits.read(2)])
