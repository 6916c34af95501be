"""Containers of videos: those that FFmpeg may open, and how a file's first bytes tell them from other files."""

from __future__ import annotations

import io
from typing import IO

from copytrace.errors import MediaError
from copytrace.media.formats import no_medium

# FFmpeg's names. It would open some three hundred formats, among them playlists that name other files, subtitles, and
# any text as the output of a terminal. A picture is a video of one frame.
CONTAINERS = (
    *("mov", "mp4", "matroska", "webm", "avi", "flv", "live_flv", "mpegts", "mpeg", "mpegvideo", "m4v", "ogg", "asf"),
    *("mxf", "mxf_opatom", "dv", "nut", "ivf", "rm", "wtv", "nsv", "yuv4mpegpipe", "gif", "apng"),
    *("h264", "hevc", "vvc", "av1", "obu", "vc1", "vc1test", "dirac", "h263"),
    *("jpeg_pipe", "png_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe"),
)

_PREFIX_BYTES = 1024
_MARKS = (
    b"\x1a\x45\xdf\xa3",  # Matroska and WebM
    b"FLV\x01",
    b"OggS",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF and WMV
    b"\x06\x0e\x2b\x34\x02\x05\x01\x01",  # MXF
    b"\x1f\x07\x00",  # DV
    b"nut/multimedia container\0",
    b"DKIF",  # IVF
    b".RMF",
    b"\xb7\xd8\x00\x20\x37\x49\xda\x11",  # WTV
    b"YUV4MPEG2 ",
    b"GIF8",
    b"\0\0\x01\xb3",  # MPEG video
    b"\0\0\x01\xba",  # MPEG program stream
)
_MP4_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"moof", b"styp"})
# Of photos in the container that MP4 uses: AVIF, HEIC and raw files. FFmpeg can read some of them.
_STILL_BRANDS = frozenset({b"avif", b"heic", b"heix", b"heim", b"heis", b"mif1", b"crx "})
_PACKET = 188  # bytes of a packet of an MPEG transport stream; in M2TS, four more stand before each
_SYNC = 0x47
_MOST_BOXES = 1000  # of an MP4 that are looked at


def no_video(stream: IO[bytes], name: str, reason: str) -> MediaError:
    """Return the error for a file of which FFmpeg says `reason`: a failure, unless it is no video by its first bytes.

    Raises `OSError` if the file can no longer be read.
    """
    stream.seek(0)
    prefix = stream.read(_PREFIX_BYTES)
    if not is_container(prefix):
        return no_medium(name, "video")
    if prefix[4:8] in _MP4_BOXES and _lacks_box(stream, b"moov"):
        reason = "cannot be decoded: its table of contents (moov) is missing, as if it was cut short or never finished"
    return MediaError(reason)


def _lacks_box(stream: IO[bytes], kind: bytes) -> bool:
    """Return whether an MP4 has no box of this kind at its outermost level (ISO/IEC 14496-12, 4.2)."""
    length, at = stream.seek(0, io.SEEK_END), 0
    for _ in range(_MOST_BOXES):
        if at + 8 > length:
            return True
        stream.seek(at)
        head = stream.read(16)
        size = int.from_bytes(head[:4], "big")
        if head[4:8] == kind:
            return False
        if size == 0:  # up to the end of the file
            return True
        size = int.from_bytes(head[8:16], "big") if size == 1 else size
        if size < 8:
            return False
        at += size
    return False


def is_container(prefix: bytes) -> bool:
    """Return whether a file begins as a container of videos, such as MP4, or as one of the commoner bare streams."""
    return (
        prefix.startswith(_MARKS)
        or (prefix[4:8] in _MP4_BOXES and prefix[8:12] not in _STILL_BRANDS)
        or (prefix.startswith(b"RIFF") and prefix[8:12] in {b"AVI ", b"AVIX"})
        or any(_has_packets(prefix[start:], length) for start, length in ((0, _PACKET), (4, _PACKET + 4)))
    )


def _has_packets(prefix: bytes, length: int) -> bool:
    return len(prefix) > 2 * length and all(prefix[at] == _SYNC for at in (0, length, 2 * length))
