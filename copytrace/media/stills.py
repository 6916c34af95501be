"""Stills of videos: what a network for images can learn from footage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
from av.error import FFmpegError
from av.video.stream import VideoStream
from PIL import Image

from copytrace.errors import MediaError
from copytrace.media.ingest import MediaItem
from copytrace.progress import Progress, SilentProgress
from copytrace.storage import atomic_path

QUALITY = 90
LONGEST_FRAME = 1.0  # seconds; a video whose pictures end by more than this before it does is taken for cut short
TOLERANCE = 1e-3  # seconds; containers round their times, and sums of seconds are not exact


def write_stills(
    videos: Sequence[MediaItem], out: Path, *, every: float, progress: Progress | None = None
) -> tuple[int, list[tuple[str, str]]]:
    """Write a JPEG of each video every `every` seconds, as `out/VIDEO/SECONDS.jpg`.

    A folder per video, so that training knows which stills show the same scenes. Returns how many stills there are,
    and the id and reason of each video that could not be read to its end; what came before the damage is kept.
    """
    written, failures = 0, []
    with (progress or SilentProgress()).stage("write stills", len(videos), "videos") as stage:
        for video in videos:
            try:
                for seconds, image in stills(video.path, every=every):
                    with atomic_path(out / video.id / f"{seconds:09.3f}.jpg") as temporary:
                        image.save(temporary, "JPEG", quality=QUALITY)
                    written += 1
            except MediaError as error:
                failures.append((video.id, str(error)))
            stage.advance()
    return written, failures


def stills(path: str, *, every: float) -> Iterator[tuple[float, Image.Image]]:
    """Yield seconds and RGB picture of a video's first frame, and of the first frame `every` seconds after the last.

    Raises `MediaError` with a one-line reason if there is no video stream, or the file is damaged; if it ends before
    its header says, then after what there is.
    """
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise MediaError("has no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            due = float("-inf")
            for frame in container.decode(stream):
                if frame.time is not None and frame.time >= due - TOLERANCE:
                    due = frame.time + every
                    yield frame.time, frame.to_image()  # type: ignore[no-untyped-call]
            if due == float("-inf"):
                raise MediaError("has no frame that can be decoded")
            if due < _end_of(stream) - LONGEST_FRAME:
                raise MediaError(f"stops before {due:.1f} s of {_end_of(stream):.1f} s, as if cut short")
    except (FFmpegError, OSError) as error:
        raise MediaError(f"cannot be decoded: {getattr(error, 'strerror', None) or error}") from error


def _end_of(stream: VideoStream) -> float:
    """Where the header says that the stream ends, in seconds; 0 if it does not say."""
    if stream.duration is None or stream.time_base is None:
        return 0.0
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
