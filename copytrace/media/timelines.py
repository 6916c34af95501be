"""Timelines of videos from their packets, without decoding: when each picture is shown, and which are needed."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from enum import IntEnum
from fractions import Fraction
from typing import IO, Any, TypeAlias

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from copytrace.errors import MediaError
from copytrace.media.containers import CONTAINERS, no_video
from copytrace.media.formats import PREFIX_BYTES, no_medium
from copytrace.media.webp_animation import convert_animated_webp, is_animated_webp

Times = npt.NDArray[np.float64]
VideoPacket: TypeAlias = "Packet[VideoStream]"  # PyAV's own class takes no parameters when it runs

TOLERANCE = 1e-6  # seconds; sums of floating-point times are not exact
LONGEST_PICTURE = 3600.0  # seconds; a longer gap means that the clock jumped
SHORTEST_PICTURE = 1e-4  # seconds; bare streams of Dirac count their pictures in ticks of less than a microsecond
CUT_SHORT = 1.0  # seconds; a video that ends earlier than its header says, by more than this, counts as cut short
DEEPEST_REORDERING = 64  # packets; codecs move a picture by 16 at most between decoding and display
# Bytes of all packets: at most this multiple of the file's, and this many more.
MOST_REPEATED, MOST_OF_SMALL = 2, 1 << 20
FALLBACK_RATE = 25.0  # pictures per second, for videos that state no rate
LACK_OF_MEMORY = (MemoryError, BlockingIOError)  # FFmpeg says EAGAIN if there is none for a thread

# Decoders that, with skip_frame NONREF, skip exactly the pictures that no other refers to (shown by tests).
_SKIP_EXACTLY = frozenset({"h264", "hevc", "mpeg4", "mpeg2video"})
# NAL units of random access pictures: no later picture refers to one before them (ITU-T H.264 and H.265, 7.4).
_RANDOM_ACCESS_UNITS = {"h264": frozenset({5}), "hevc": frozenset({16, 17, 18, 19, 20})}
_LENGTH_SIZE_AT = {"h264": 4, "hevc": 21}  # byte offset in the decoder configuration (ISO/IEC 14496-15)
_ANNEX_B = re.compile(rb"\x00\x00\x01(.)", re.DOTALL)
# Containers whose headers state the length of each stream; others estimate it, for instance from bit rates.
_STATE_LENGTHS = frozenset({"mov", "avi"})
_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_UNKNOWN = int(np.iinfo(np.int64).min)


class Step(IntEnum):
    """Treatment of a packet."""

    DECODE = 0
    SKIP_IF_DISPOSABLE = 1  # the decoder skips it if no other picture refers to it
    LEAVE_OUT = 2


@dataclass(frozen=True, slots=True)
class Timeline:
    """Display times of a video's pictures, by its N packets in decoding order.

    Times are seconds since the first picture shown. `keeps_time` is False if the timestamps are missing, jump, or are
    mostly equal; then the k-th picture is shown at k / `rate`.
    """

    packet_times: Times  # [N]; NaN without a timestamp, or if the file's edit list hides the picture
    random_access: npt.NDArray[np.bool_]  # [N]; True where decoding can start
    tick: float  # seconds per unit of the timestamps
    start: float  # seconds on the container's clock when the first picture is shown
    duration: float  # seconds to the end of the last picture
    stated_duration: float  # seconds according to the header; 0 if it states nothing reliable
    rate: float  # pictures per second, nominal
    keeps_time: bool
    can_leave_out: bool  # every packet has a timestamp
    can_skip: bool  # every packet has one, and the decoder skips exactly the disposable pictures

    def to_parts(self) -> tuple[Times, npt.NDArray[np.bool_], dict[str, float]]:
        """Return the two arrays, and the other fields by name."""
        facts = {field.name: getattr(self, field.name) for field in fields(self)[2:]}
        return self.packet_times, self.random_access, facts

    @classmethod
    def of_parts(cls, packet_times: Times, random_access: npt.NDArray[np.bool_], facts: dict[str, Any]) -> Timeline:
        """Return the timeline that `to_parts` took apart."""
        return cls(packet_times, random_access, **facts)

    @property
    def is_cut_short(self) -> bool:
        """Whether the pictures end well before the end that the header states."""
        return self.duration < self.stated_duration - CUT_SHORT

    def picture_starts(self, moments: Times) -> Times:
        """Return for each moment [M] the time from which the picture shown then is shown; all in seconds."""
        times = np.sort(self.packet_times[~np.isnan(self.packet_times)])
        return times[np.maximum(np.searchsorted(times, moments + TOLERANCE, side="right") - 1, 0)]

    def plan(self, moments: Times) -> npt.NDArray[np.uint8]:
        """Return a `Step` for each packet [N] with which the pictures shown at `moments` (seconds) decode unaltered."""
        steps = np.full(len(self.packet_times), Step.DECODE, np.uint8)
        if not self.can_leave_out:
            return steps
        wanted = np.isin(self.packet_times, self.picture_starts(moments))
        if self.can_skip:
            steps[~wanted] = Step.SKIP_IF_DISPOSABLE
        # After the last wanted picture between two random access points, no packet is needed up to the next point.
        run = np.cumsum(self.random_access)
        last_wanted = np.full(run[-1] + 1, -1)
        np.maximum.at(last_wanted, run[wanted], np.flatnonzero(wanted))
        steps[(np.arange(len(run)) > last_wanted[run]) & (run > 0)] = Step.LEAVE_OUT
        return steps


@contextmanager
def open_stream(file: IO[bytes], name: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file with its video stream: the largest that is not a cover picture. `name` is the path of the file.

    Raises `NotMediumError` if the file is no video by its content and has no video's name, and `MediaError` with a
    one-line reason for other errors of FFmpeg while it is open.
    """
    with _decoding_errors(), _convert(file, name) as readable:
        # A file object without a name, because FFmpeg reads some names as protocols or patterns, and guesses formats by
        # names. No protocol is allowed, so that a playlist cannot make this machine open other files or addresses.
        options = {"protocol_whitelist": "none", "format_whitelist": ",".join(CONTAINERS)}
        try:
            opened = av.open(_Nameless(readable), "r", options=options, metadata_errors="replace", buffer_size=1 << 18)
        except LACK_OF_MEMORY:
            raise
        except FFmpegError as error:
            raise no_video(file, name, _reason(error)) from error
        with opened as container:
            stream = _choose_stream(container, name)
            for other in container.streams:
                if other is not stream:
                    other.discard = Discard.all
            yield container, stream


def read_packets(
    container: InputContainer, stream: VideoStream, ended_by: list[FFmpegError] | None = None
) -> Iterator[VideoPacket]:
    """Yield a stream's packets in decoding order, up to the file's end or an error, which goes to `ended_by`.

    Raises `MediaError` if they have many more bytes than the file, because its tables name the same ones many times.
    """
    held: VideoPacket | None = None
    left = MOST_REPEATED * max(container.size, 0) + MOST_OF_SMALL
    try:
        for packet in container.demux(stream):
            if packet.size:  # the last packet is empty and makes decoders flush
                left -= packet.size
                if left < 0:
                    raise MediaError("has packets that together are larger than the file")
                if held is not None:
                    yield held
                held = packet
    except FFmpegError as error:
        if ended_by is not None:
            ended_by.append(error)
    # The last packet of a truncated file may have only half of its picture.
    if held is not None and not held.is_corrupt:
        yield held


def read_timeline(stream: VideoStream, packets: Iterator[VideoPacket]) -> Timeline:
    """Read all packets of a stream, with 17 bytes of memory for each, and return its timeline.

    Raises `MediaError` if no packet has a picture that is shown.
    """
    pts, random_access = array("q"), array("b")
    without = last_duration = 0
    is_random_access = _random_access_test(stream)
    for packet in packets:
        without += packet.pts is None
        pts.append(_UNKNOWN if packet.is_discard or packet.pts is None else packet.pts)
        random_access.append(is_random_access(packet))
        if not packet.is_discard:
            # The last packet decoded is shown last, or nearly. In MP4, a duration is the time until the next packet is
            # decoded; for other packets that is not the display time if pictures are reordered.
            last_duration = packet.duration or 0
    ticks, tick = np.array(pts, np.int64), float(stream.time_base or Fraction(1, 1000))
    timed = ticks != _UNKNOWN
    rate = float(stream.average_rate or stream.guessed_rate or FALLBACK_RATE)
    keeps_time = 2 * without <= len(ticks) and _is_sound(ticks[timed], tick) and not _are_of_decoding(stream, ticks)
    if not len(ticks) or (keeps_time and not timed.any()):
        raise MediaError("has no picture that can be decoded")
    if keeps_time:
        start = float(ticks[timed].min()) * tick
        times = np.where(timed, ticks * tick - start, np.nan)
        duration = float(np.nanmax(times)) + (last_duration * tick or 1 / rate)
    else:
        start, times, duration = 0.0, np.arange(len(ticks)) / rate, len(ticks) / rate
    can_leave_out = keeps_time and not without
    return Timeline(
        times,
        np.array(random_access, np.bool_),
        tick,
        start,
        duration,
        _stated_duration(stream, start),
        rate,
        keeps_time,
        can_leave_out,
        can_skip=can_leave_out and stream.codec_context.codec.name in _SKIP_EXACTLY,
    )


def _is_sound(ticks: npt.NDArray[np.int64], tick: float) -> bool:
    """Return whether timestamps in decoding order can be display times.

    They are nearly sorted and mostly distinct, do not jump, and most pictures are shown long enough to be seen.
    """
    order = np.argsort(ticks, kind="stable")
    moved = np.abs(order - np.arange(len(order))).max(initial=0)
    gaps = np.diff(ticks[order]) * tick
    fast = (gaps < SHORTEST_PICTURE).sum()  # also pictures at the same time
    return bool(moved <= DEEPEST_REORDERING and gaps.max(initial=0) <= LONGEST_PICTURE and 2 * fast <= len(gaps))


def _are_of_decoding(stream: VideoStream, ticks: npt.NDArray[np.int64]) -> bool:
    """Return whether timestamps are those of decoding, though pictures are shown in another order.

    AVI has no others. FFmpeg derives those of display for some codecs, but not for H.264.
    """
    is_reordered = stream.container.format.name == "avi" and stream.codec_context.has_b_frames
    return bool(is_reordered and (np.diff(ticks) > 0).all())


def _stated_duration(stream: VideoStream, start: float) -> float:
    name = stream.container.format.name.partition(",")[0]
    if name == "matroska" and (clock := _CLOCK.match(stream.metadata.get("DURATION", ""))):
        return int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3]) - start  # it states the end, not the length
    if name in _STATE_LENGTHS and stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return 0.0


def _random_access_test(stream: VideoStream) -> Callable[[VideoPacket], bool]:
    """Return a test of whether decoding can start at a packet; many files flag all their packets as such."""
    codec = stream.codec_context.codec
    if codec.intra_only:
        return lambda packet: True
    if codec.name not in _RANDOM_ACCESS_UNITS:
        return lambda packet: False
    extra = stream.codec_context.extradata or b""
    at = _LENGTH_SIZE_AT[codec.name]
    length_size = (extra[at] & 3) + 1 if extra[:1] == b"\1" and len(extra) > at else 0
    wanted = _RANDOM_ACCESS_UNITS[codec.name]
    mask, shift = (0x1F, 0) if codec.name == "h264" else (0x3F, 1)

    def is_random_access(packet: VideoPacket) -> bool:
        return packet.is_keyframe and any(
            (first >> shift) & mask in wanted for first in _unit_heads(bytes(packet), length_size)
        )

    return is_random_access


def _unit_heads(data: bytes, length_size: int) -> Iterator[int]:
    """Yield the first byte of each NAL unit; units have lengths of `length_size` bytes or, if it is 0, start codes."""
    if not length_size:
        yield from (found[1][0] for found in _ANNEX_B.finditer(data))
        return
    at = 0
    while at + length_size < len(data):
        yield data[at + length_size]
        at += length_size + int.from_bytes(data[at : at + length_size], "big")


def _choose_stream(container: InputContainer, name: str) -> VideoStream:
    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    found = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not found:
        reason = "has no video stream" + (", only a cover picture" if container.streams.video else "")
        raise no_medium(name, "video", reason)
    stream = max(found, key=lambda each: (_area(each), each.frames))  # an animated AVIF also has its first as a still
    if stream.codec_context is None:
        raise MediaError("is encoded in a format for which there is no decoder")
    return stream


def _area(stream: VideoStream) -> int:
    return stream.codec_context.width * stream.codec_context.height if stream.codec_context else 0


class _Nameless:
    """A file that only has the methods by which PyAV reads."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


@contextmanager
def _convert(file: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    """Yield the file itself or, of an animated WebP, a file with the same pictures that FFmpeg can read."""
    prefix = file.read(PREFIX_BYTES)
    if not prefix:
        raise no_medium(name, "video", "empty file")
    file.seek(0)
    if is_animated_webp(prefix):
        with convert_animated_webp(file) as converted:
            yield converted
    else:
        yield file


@contextmanager
def _decoding_errors() -> Iterator[None]:
    try:
        yield
    except LACK_OF_MEMORY:
        raise
    except FFmpegError as error:
        raise MediaError(_reason(error)) from error


def _reason(error: FFmpegError) -> str:
    if isinstance(error, OSError):  # FFmpeg takes numbers of the system for other faults; the file itself was read
        return "cannot be decoded: it is damaged, or not of the format as which it begins"
    return f"cannot be decoded: {error.strerror or type(error).__name__}"
