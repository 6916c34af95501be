"""Formats of images and videos: what a file's first bytes say, and which suffixes promise a medium.

The content decides what is read, whatever a file is called. Its name decides only what happens to a file that is no
medium: a text called `photo.jpg` is a failure, and any other text is passed over.
"""

from __future__ import annotations

from typing import IO, Literal

from PIL import AvifImagePlugin, Image
from PIL.ImageFile import ImageFile

from copytrace.errors import MediaError, NotMediumError
from copytrace.media.optional_formats import open_heif, open_jpeg_xl

MediumKind = Literal["image", "video"]

PREFIX_BYTES = 64
"""Bytes at the start of a file that tell its format."""

MIN_SIDE = 8
"""Pixels; a picture with a shorter side is too small to describe."""

# Formats that Pillow reads. It reads more, but some of them start other programs (EPS) or have no signature (TGA), so
# that any bytes may pass for one.
PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")

# Brands in the first box of a file (ISO/IEC 14496-12 and 23008-12), which name the codec of its pictures.
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_JPEG_XL_MARKS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")

# Formats of images that are not read, by how their files begin.
_UNREAD_FORMATS = {
    **{b"8BPS": "Photoshop", b"\x76\x2f\x31\x01": "OpenEXR", b"#?RADIANCE": "Radiance HDR", b"qoif": "QOI"},
    **{b"DDS ": "DDS", b"icns": "ICNS", b"P7\n": "PAM", b"\x8aMNG": "MNG", b"gimp xcf": "GIMP"},
}

_IMAGE_SUFFIXES = """
    .jpg .jpeg .jpe .jfif .png .apng .webp .gif .bmp .dib .tif .tiff .avif .avifs .jp2 .j2k .jpx .ppm .pgm .pbm .pnm
    .heic .heif .hif .jxl
"""
# Without .ts and .mts, which are also programs.
_VIDEO_SUFFIXES = """
    .mp4 .m4v .mov .qt .mkv .webm .avi .divx .wmv .asf .flv .f4v .mpg .mpeg .m2v .vob .m2ts .3gp .3g2 .ogv .mxf .rm
    .rmvb .ivf .y4m
"""
_SUFFIXES: dict[MediumKind, frozenset[str]] = {
    "image": frozenset(_IMAGE_SUFFIXES.split()),
    "video": frozenset(_VIDEO_SUFFIXES.split()),
}
# Of the raw data of cameras. Many are TIFF files with a preview, which is read if it can be.
_RAW = ".cr2 .cr3 .nef .nrw .arw .srf .sr2 .dng .orf .rw2 .pef .srw .raf .3fr .iiq .erf .kdc"
_RAW_SUFFIXES = frozenset(_RAW.split())
# Of what lies beside media: notes, data, subtitles, lists.
_SIDECARS = """
    .aae .ass .bak .csv .db .doc .docx .edl .exif .gpx .htm .html .idx .ini .json .log .lrc .m3u .m3u8 .md .md5 .nfo
    .pdf .pp3 .rtf .sfv .sha1 .sha256 .srt .ssa .sub .tsv .txt .url .vtt .xml .xmp .yaml .yml .zip
"""
_SIDECAR_SUFFIXES = frozenset(_SIDECARS.split())


def no_medium(path: str, kind: MediumKind, reason: str = "") -> MediaError:
    """Return the error for a file that is no `kind` by its content: `NotMediumError`, unless its name promises one."""
    if suffix_of(path) not in _SUFFIXES[kind]:
        return NotMediumError(reason or f"no {kind}")
    return MediaError(reason or f"no {kind}, though its name ends in {suffix_of(path)}")


def promises_medium(path: str, kind: MediumKind | None = None) -> int:
    """Return what a file's name says of whether it is a medium of a kind (None: of any): 2 yes, 1 perhaps, 0 no.

    For images, a video is none; for videos, a picture is one. A file without a suffix is taken for a medium.
    """
    suffix = suffix_of(path)
    if not suffix or suffix in _SUFFIXES["image"] or (suffix in _SUFFIXES["video"] and kind != "image"):
        return 2
    return 0 if suffix in _SIDECAR_SUFFIXES or suffix in _SUFFIXES["video"] else 1


def suffix_of(path: str) -> str:
    """Return the suffix of a path or URI in lower case, with its dot."""
    stem, _, suffix = path.rpartition("/")[2].rpartition(".")
    return f".{suffix.lower()}" if stem and suffix else ""


def image_format(prefix: bytes) -> str | None:
    """Return the format of an image with these first bytes, such as JPEG or HEIF; None if it is none that is read."""
    brands = _brands(prefix)
    if brands & _HEIF_BRANDS and not brands & _AVIF_BRANDS:
        return "HEIF"
    if prefix.startswith(_JPEG_XL_MARKS):
        return "JPEG XL"
    Image.init()
    for name in PILLOW_FORMATS:
        accept = Image.OPEN[name][1]
        # `accept` returns a text if Pillow was built without the format.
        if accept is not None and accept(prefix) is True:
            return name
    return None


def unread_format(prefix: bytes) -> str:
    """Return the reason why an image that begins like this is not read, if it is of a known format; else ""."""
    name = next((name for mark, name in _UNREAD_FORMATS.items() if prefix.startswith(mark)), "")
    return name and f"an image of the format {name}, which is not read; save it as PNG or JPEG"


def is_raw(path: str) -> bool:
    """Return whether a file is named as the raw data of a camera."""
    return suffix_of(path) in _RAW_SUFFIXES


def open_picture(kind: str, stream: IO[bytes], threads: int = 0) -> ImageFile:
    """Do what `Image.open` does, except for its pixel limit, a global that threads would share.

    At most `threads` threads decode AVIF and HEIF, and one the others; 0 means one per core for AVIF, four for HEIF.
    Raises `MediaError` if the format needs a package that is not installed.
    """
    stream.seek(0)
    if kind == "HEIF":
        return open_heif(stream, threads)
    if kind == "JPEG XL":
        return open_jpeg_xl(stream)
    if kind == "AVIF":
        AvifImagePlugin.DEFAULT_MAX_THREADS = threads
    Image.init()  # Pillow's readers of some formats, unless that was done: a process may begin with any file
    return Image.OPEN[kind][0](stream, "")


def _brands(prefix: bytes) -> frozenset[bytes]:
    """Return the brands in an `ftyp` box at the start of a file."""
    if prefix[4:8] != b"ftyp":
        return frozenset()
    end = min(int.from_bytes(prefix[:4], "big"), len(prefix))
    return frozenset({prefix[8:12], *(prefix[at : at + 4] for at in range(16, end - 3, 4))})
