"""Media that no camera makes: odd but whole ones, which must be read, and bombs that hide where few look."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.faults.hostile_media import HostileFile, encode_clip, encode_picture

Pixels = NDArray[np.uint8]
READ = ""  # in the place of the reason why a file cannot be used


def _image(pixels: Any, kind: str, mode: str | None = None, **options: Any) -> bytes:
    content, image = io.BytesIO(), pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(content, kind, **options)
    return content.getvalue()


def odd_pictures(photo: Pixels) -> Iterator[HostileFile]:
    """Yield pictures that are whole, in forms that are seldom seen."""
    gray = photo[..., 0].astype(np.uint16)
    for name, content in {
        "cmyk.jpg": _image(photo, "JPEG", "CMYK"),
        "palette.png": _image(photo, "PNG", "P", transparency=3),
        "palette-alpha.png": _image(photo, "PNG", "P", transparency=bytes(range(256))),
        "gray-alpha.png": _image(photo, "PNG", "LA"),
        "bits.png": _image(photo, "PNG", "1"),
        "gray16.png": _image(gray * 257, "PNG"),
        "gray16.tif": _image(gray * 16, "TIFF"),
        "floats.tif": _image(gray.astype(np.float32) / 255, "TIFF"),
        "group4.tif": _image(photo, "TIFF", "1", compression="group4"),
        "jpeg.tif": _image(photo, "TIFF", compression="jpeg"),
        "turned.jpg": _image(photo, "JPEG", exif=_orientation(6)),
        "no-turn.jpg": _image(photo, "JPEG", exif=_orientation(99)),
        "comments.png": _png_with(photo, [(b"tEXt", b"a\0" + b"x" * 60)] * 20_000),
        "parts.png": _split_png(photo, 3),
        "behind.png": encode_picture(photo, "png") + b"PK\3\4" + bytes(1 << 20),
        "applications.jpg": _jpeg_with(photo, [(0xE1 + number % 12, b"x" * 60_000) for number in range(100)]),
        "icc.jpg": _jpeg_with(photo, [(0xE2, b"ICC_PROFILE\0\1\xff" + b"x" * 65_000)] * 255),
        "pages.tif": _image(photo, "TIFF", save_all=True, append_images=[Image.fromarray(photo[:9, :9])] * 2000),
        "loop.tif": _tiff_loop(photo),
        "frames.gif": _animation(photo, "GIF", 500),
        "frames.webp": _animation(photo, "WEBP", 100),
        "frames.png": _animation(photo, "PNG", 200),
        "comment.ppm": b"P6\n#" + b"x" * 100_000 + b"\n300 200 255\n" + np.resize(photo, (200, 300, 3)).tobytes(),
        "upside.bmp": _turn_bmp(photo),
    }.items():
        yield HostileFile(name, content)


def hidden_picture_bombs(photo: Pixels) -> Iterator[tuple[HostileFile, str]]:
    """Yield pictures with a bomb beside their pixels, or that claim what they lack, and what is said of them."""
    zeros = zlib.compress(bytes(1 << 27), 9)
    for name, content, reason in (
        ("iccp.png", _png_with(photo, [(b"iCCP", b"a\0\0" + zeros)]), READ),
        ("text.png", _png_with(photo, [(b"zTXt", b"a\0\0" + zeros)] * 8), READ),
        ("itext.png", _png_with(photo, [(b"iTXt", b"a\0\1\0\0\0" + zeros)] * 8), READ),
        ("more.png", _png_more(photo, zeros), READ),
        ("exif-loop.jpg", _jpeg_with(photo, [(0xE1, b"Exif\0\0" + _exif_loop())]), READ),
        ("exif-count.jpg", _jpeg_with(photo, [(0xE1, b"Exif\0\0" + _exif_count())]), READ),
        ("frames-lie.png", _apng_lie(photo), READ),
        ("solid.gif", _solid_animation("GIF", (1500, 1500), 40), READ),
        ("solid.webp", _solid_animation("WEBP", (1500, 1500), 30), READ),
        ("narrow.png", _image(np.resize(photo, (1, 100_000, 3)), "PNG"), "100000x1 pixels is too small"),
        ("tall.png", _image(np.resize(photo, (100_000, 1, 3)), "PNG"), "1x100000 pixels is too small"),
        ("long.jpg", _image(np.resize(photo, (1, 65_000, 3)), "JPEG"), "65000x1 pixels is too small"),
        ("one.png", _image(photo[:1, :1], "PNG"), "1x1 pixels is too small"),
        ("tiles.tif", _tiff_tiles(1 << 16, 16), "4.3 gigapixels is above the limit"),
        ("samples.tif", _tiff_with(photo, 277, 65_535), "corrupt TIFF"),
        ("bits.tif", _tiff_with(photo, 258, 64), "corrupt TIFF"),
        ("strip.tif", _tiff_with(photo, 279, 0xFFFFFFFF), READ),
        ("rows.tif", _tiff_with(photo, 278, 0xFFFFFFFF), READ),
        ("outside.tif", _tiff_with(photo, 273, 0x7FFFFFFF), "truncated TIFF"),
        ("minus.ppm", b"P6 -300 -200 255\n" + photo.tobytes(), "corrupt PPM"),
        ("digits.ppm", b"P6 " + b"9" * 100_000 + b" 200 255\n", "corrupt PPM"),
        ("nothing.ppm", b"P6 300 200 0\n" + photo.tobytes(), "corrupt PPM"),
        (
            "run.eps",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/x) (w) file closefile showpage\n",
            "no image",
        ),
        ("out.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/hostname"/></svg>', "no image"),
        ("page.pdf", b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<</Root 1 0 R>>\n", "no image"),
    ):
        yield HostileFile(name, content), reason


def _orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length


def _png_with(photo: Pixels, added: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a PNG with chunks before its pixels."""
    first, *others = _chunks(encode_picture(photo, "png"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*each) for each in (first, *added, *others))


def _split_png(photo: Pixels, size: int) -> bytes:
    parts: list[tuple[bytes, bytes]] = []
    for kind, content in _chunks(encode_picture(photo, "png")):
        step = size if kind == b"IDAT" else max(1, len(content))
        parts += [(kind, content[at : at + step]) for at in range(0, max(1, len(content)), step)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*each) for each in parts)


def _png_more(photo: Pixels, zeros: bytes) -> bytes:
    """Return a PNG whose stream of pixels goes on behind the last row."""
    head, *_, end = _chunks(encode_picture(photo, "png"))
    rows = b"".join(b"\0" + row.tobytes() for row in photo)
    pixels = zlib.compress(rows + bytes(1 << 27))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*each) for each in (head, (b"IDAT", pixels), end))


def _apng_lie(photo: Pixels) -> bytes:
    control = struct.pack(">IIIIIHHBB", 0, photo.shape[1], photo.shape[0], 0, 0, 1, 10, 0, 0)
    return _png_with(photo, [(b"acTL", struct.pack(">II", 0x7FFFFFFF, 0)), (b"fcTL", control)])


def _jpeg_with(photo: Pixels, segments: Sequence[tuple[int, bytes]]) -> bytes:
    jpeg = encode_picture(photo, "jpg")
    added = b"".join(
        bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content for marker, content in segments
    )
    return jpeg[:2] + added + jpeg[2:]


def _exif_loop() -> bytes:
    """Return a directory whose sub-directories and successor are itself."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, 8) for tag in (0x8769, 0x8825, 0xA005))
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 3) + entries + struct.pack("<I", 8)


def _exif_count() -> bytes:
    entry = struct.pack("<HHII", 0x927C, 12, 0xFFFFFFFF, 8)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + entry + struct.pack("<I", 0)


def _turn_bmp(photo: Pixels) -> bytes:
    content = bytearray(_image(photo, "BMP"))
    content[22:26] = struct.pack("<i", -photo.shape[0])
    return bytes(content)


def _animation(photo: Pixels, kind: str, frames: int) -> bytes:
    moved = [Image.fromarray(np.roll(photo[:64, :96], number, axis=1)) for number in range(frames)]
    return _image(moved[0], kind, save_all=True, append_images=moved[1:])


def _solid_animation(kind: str, size: tuple[int, int], frames: int) -> bytes:
    """Return an animation whose frames are all of one color, so that it takes a look at many of them."""
    pictures = [Image.new("P" if kind == "GIF" else "RGB", size, number % 2) for number in range(frames)]
    return _image(pictures[0], kind, save_all=True, append_images=pictures[1:])


def _tiff_entries(content: bytearray) -> Iterator[tuple[int, int]]:
    """Yield each tag of the first directory of a TIFF, little endian, and the place of its entry."""
    start = struct.unpack_from("<I", content, 4)[0]
    for number in range(struct.unpack_from("<H", content, start)[0]):
        place = start + 2 + 12 * number
        yield struct.unpack_from("<H", content, place)[0], place


def _tiff_with(photo: Pixels, tag: int, value: int) -> bytes:
    content = bytearray(_image(photo, "TIFF"))
    for found, place in list(_tiff_entries(content)):
        if found == tag:
            content[place + 2 : place + 12] = struct.pack("<HII", 4, 1, value)
    return bytes(content)


def _tiff_loop(photo: Pixels) -> bytes:
    content = bytearray(_image(photo, "TIFF"))
    *_, (_, place) = _tiff_entries(content)
    content[place + 12 : place + 16] = content[4:8]
    return bytes(content)


def _tiff_tiles(side: int, tile: int) -> bytes:
    """Return a TIFF that claims a tile for every few pixels of a large image, and has the bytes of none."""
    tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


Alter = Callable[[bytearray], None]


def odd_clips(photo: Pixels) -> Iterator[HostileFile]:
    """Yield videos that are whole, in forms that are seldom seen."""
    for name, content in {
        "one.mp4": encode_clip(photo, "mp4", pictures=1),
        "ten-bits.mkv": _clip(photo, "matroska", "libx264", pix_fmt="yuv420p10le"),
        "ten-bits.mp4": _clip(
            photo, "mp4", "libx265", pix_fmt="yuv420p10le", options={"x265-params": "log-level=none"}
        ),
        "lossless.mkv": _clip(photo, "matroska", "ffv1", pix_fmt="yuv444p16le"),
        "interlaced.ts": _clip(photo, "mpegts", "mpeg2video", options={"flags": "+ilme+ildct"}, rate=25),
        "two-sizes.ts": encode_clip(photo, "ts") + encode_clip(photo, "ts", size=(64, 96)),
        "turned.mp4": _altered(encode_clip(photo, "mp4"), _turn),
        "fields.mkv": _clip(photo, "matroska", "mpeg4", metadata=True),
        "late.mkv": _clip(photo, "matroska", "mpeg4", first=3600 * 8),
        "early.ts": _clip(photo, "mpegts", "mpeg2video", first=-80, rate=25),
        "slow.mkv": _clip(photo, "matroska", "mpeg4", step=80),
        "fast.mkv": _clip(photo, "matroska", "mpeg4", rate=1000),
        "same.nut": _clip(photo, "nut", "mpeg4", rate=8),
        "unknown-size.webm": _unknown_sizes(encode_clip(photo, "webm")),
        "fragments.mp4": _clip(photo, "mp4", "libx264", flags={"movflags": "frag_every_frame+empty_moov"}),
        "sound-first.mkv": _with_sound(photo),
    }.items():
        yield HostileFile(name, content)


def hidden_clip_bombs(photo: Pixels) -> Iterator[tuple[HostileFile, str]]:
    """Yield videos whose tables mislead, and files that name other files, and what is said of them."""
    mp4, mkv = encode_clip(photo, "mp4"), encode_clip(photo, "mkv")
    for name, content, reason in (
        ("loop.mp4", _altered(mp4, _loop_chunks), "no picture that can be decoded"),
        ("edits.mp4", _altered(mp4, _set_edit(0x7FFFFFFF, 0x7FFFFFFF)), "no picture that can be decoded"),
        ("edit-before.mp4", _altered(mp4, _set_edit(1000, -1)), "no picture that can be decoded"),
        ("scale.mp4", _altered(mp4, _set_scale(0)), "are credible"),
        ("scale-one.mp4", _altered(mp4, _set_scale(1)), "are credible"),
        ("boxes.mp4", mp4[:32] + struct.pack(">I", 8).join([b""] + [b"moov"] * 5) * 20_000, "no video stream"),
        ("deep.mp4", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + _nested(b"moov", 50_000), "cannot be decoded"),
        ("empty.mp4", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + struct.pack(">I", 8) + b"moov", "no video stream"),
        ("head.mkv", mkv[: mkv.index(b"\x1f\x43\xb6\x75")], "cannot be decoded"),
        ("void.mkv", mkv[:40] + b"\xec\x80" * 2_000_000 + mkv[40:], READ),
        (
            "list.mp4",
            b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
            "no video",
        ),
        ("list.mkv", b"ffconcat version 1.0\nfile /etc/hostname\n", "no video"),
        ("session.mp4", b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n", "no video"),
        ("titles.mkv", _subtitles(), "no video"),
    ):
        yield HostileFile(name, content), reason


def _clip(
    photo: Pixels,
    container: str,
    codec: str,
    *,
    pix_fmt: str = "yuv420p",
    rate: int = 8,
    first: int = 0,
    step: int = 1,
    options: dict[str, str] | None = None,
    **more: Any,
) -> bytes:
    """Return sixteen pictures whose times begin at picture `first`, and are `step` pictures apart."""
    written = io.BytesIO()
    with av.open(written, "w", format=container, options=more.get("flags", {})) as output:
        stream = output.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
        if more.get("metadata"):
            output.metadata.update({f"field{number}": "x" * 1000 for number in range(2000)})
        for number in range(16):
            part = np.ascontiguousarray(photo[number : number + 64, number : number + 96])
            frame = av.VideoFrame.from_ndarray(part, "rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = first + step * number, Fraction(1, rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return written.getvalue()


def _with_sound(photo: Pixels) -> bytes:
    written = io.BytesIO()
    with av.open(written, "w", format="matroska") as output:
        sound, stream = output.add_stream("aac", rate=8000), output.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(400):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 8000, 1024 * number
            output.mux(sound.encode(frame))
        for number in range(16):
            part = np.ascontiguousarray(photo[number : number + 64, :96])
            output.mux(stream.encode(av.VideoFrame.from_ndarray(part, "rgb24")))
        for each in (sound, stream):
            output.mux(each.encode())
    return written.getvalue()


def _subtitles() -> bytes:
    return b"1\n00:00:00,000 --> 00:00:02,000\nHello\n\n2\n00:00:02,000 --> 99:59:59,000\nthere\n"


def _altered(content: bytes, alter: Alter) -> bytes:
    altered = bytearray(content)
    alter(altered)
    return bytes(altered)


def _turn(content: bytearray) -> None:
    """Give the track a matrix that turns it by a quarter."""
    at = content.index(b"tkhd") + 4 + 40
    content[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)


def _loop_chunks(content: bytearray) -> None:
    """Let all chunks of samples lie where the table of chunks itself lies."""
    at = content.index(b"stco")
    count = struct.unpack_from(">I", content, at + 8)[0]
    content[at + 12 : at + 12 + 4 * count] = struct.pack(">I", at) * count


def _set_edit(duration: int, start: int) -> Alter:
    def alter(content: bytearray) -> None:
        at = content.index(b"elst") + 12
        content[at : at + 8] = struct.pack(">Ii", duration, start)

    return alter


def _set_scale(value: int) -> Alter:
    def alter(content: bytearray) -> None:
        for box in (b"mvhd", b"mdhd"):
            at = content.index(box) + 16
            content[at : at + 4] = struct.pack(">I", value)

    return alter


def _nested(name: bytes, depth: int) -> bytes:
    return b"".join(struct.pack(">I", 8 * (depth - level)) + name for level in range(depth))


def _unknown_sizes(webm: bytes) -> bytes:
    """Say of the segment and its clusters that their size is not known, as live streams do."""
    content = bytearray(webm)
    for mark in (b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"):
        at = content.find(mark)
        while at >= 0:
            length = 9 - content[at + 4].bit_length()
            content[at + 4 : at + 4 + length] = bytes([(1 << (9 - length)) - 1]) + b"\xff" * (length - 1)
            at = content.find(mark, at + 4)
    return bytes(content)
