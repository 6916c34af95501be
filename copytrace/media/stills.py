"""Stills of videos, as training data for networks that describe images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from PIL import Image

from copytrace.errors import MediaError
from copytrace.media.files import MediaItem
from copytrace.media.frames import read_frames
from copytrace.step import Progress, SilentProgress
from copytrace.storage import atomic_path

QUALITY = 90  # of JPEG, 1 to 100


def write_stills(
    videos: Sequence[MediaItem], out: Path, *, every: float, progress: Progress | None = None
) -> tuple[int, list[tuple[str, str]]]:
    """Write a JPEG for every `every` seconds of each video, as `out/VIDEO/SECONDS.jpg`.

    Each video has its own folder, so that training knows which stills show the same scenes. Return the number of
    stills, and the id and reason of each video that could not be read to its end; stills before the damage are kept.
    """
    written, failures = 0, []
    with (progress or SilentProgress()).step("write stills", len(videos), "videos") as step:
        for video in videos:
            if not _is_within(video.id):
                failures.append((video.id, "its id leads out of the folder; give it another one"))
                continue
            try:
                for seconds, image in read_stills(video.path, every=every):
                    with atomic_path(out / video.id / f"{seconds:09.3f}.jpg") as temporary:
                        image.save(temporary, "JPEG", quality=QUALITY)
                    written += 1
            except MediaError as error:
                failures.append((video.id, str(error)))
            step.advance()
    return written, failures


def _is_within(identity: str) -> bool:
    """Return whether an id, as a relative path, stays in the folder that it is joined to."""
    path = PurePath(identity)
    return not path.is_absolute() and ".." not in path.parts


def read_stills(path: str, *, every: float) -> Iterator[tuple[float, Image.Image]]:
    """Yield the start of each interval of `every` seconds, and the RGB picture shown in its middle; no picture twice.

    Raises `MediaError` with a one-line reason after the last readable picture; see `read_frames`.
    """
    last = None
    for frame in read_frames(path, per_second=1 / every):
        if frame.pixels is not last:
            last = frame.pixels
            yield frame.start, Image.fromarray(frame.pixels)
