"""A labeled set of edited videos: the seconds of each query, and those of the reference that they show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from copytrace.alignment.segments import Segment
from copytrace.errors import InputError, MediaError
from copytrace.media.encode import write_video
from copytrace.media.files import MediaItem
from copytrace.media.frames import Video, open_video
from copytrace.step import Progress, SilentProgress
from copytrace.storage import write_text
from copytrace.synthesis.edited_set import (
    Difficulty,
    EditedSetPlan,
    PlannedQuery,
    csv_text,
    plan_queries,
    require_only,
)
from copytrace.synthesis.footage import PANES, RATE, Look, Scene, Stretch
from copytrace.synthesis.synthetic_matrices import LENGTHS, draw_segments

COLUMNS = ("query_id", "ref_id", "query_start", "query_end", "ref_start", "ref_end")

_SIZES = ((320, 240), (426, 240), (240, 320), (288, 288))
_QUANTIZERS = (3, 14)
_MEDIAN_SECONDS, _SECONDS_SPREAD, _SECONDS = 28.0, 0.45, (8.0, 75.0)
_LATER_SECONDS = (8.0, 20.0)  # added for a second reference
_SHORTEST_SOURCE = 5.0  # seconds that the shortest copy needs at twice the speed, with a margin
# Probabilities. Of the 1,929 queries of VSC2022's training set that copy anything, 18 % copy several references.
_SECOND_REFERENCE, _COPIED_PANE = 0.18, 0.2
_COMMON_LOOK, _UNEDITED, _CROPPED, _SPLIT, _FOUR = 0.4, 0.1, 0.25, 0.25, 0.35
_LEAST_KEPT = 0.45  # of each side in a crop


@dataclass(frozen=True, slots=True)
class CopiedSegment:
    """A row of the ground truth: seconds of a query, and of the reference that they show."""

    reference: str
    query: tuple[float, float]
    seconds: tuple[float, float]


@dataclass(frozen=True)
class Query:
    """Content of a query: scenes one after the other, of pictures `width` by `height`."""

    id: str
    width: int
    height: int
    quantizer: int
    scenes: tuple[Scene, ...]
    copies: tuple[CopiedSegment, ...]
    edits: set[str] = field(default_factory=set)  # filled by the scenes while they are written

    def write(self, folder: Path) -> None:
        """Write `folder/ID.mp4`."""
        write_video(self._pictures(), folder / f"{self.id}.mp4", rate=RATE, quantizer=self.quantizer)

    def _pictures(self) -> Iterator[np.ndarray]:
        for scene in self.scenes:
            yield from scene.pictures(self.width, self.height, self.edits.update)


def write_edited_videos(
    videos: Sequence[MediaItem],
    donors: Sequence[MediaItem],
    out: Path,
    plan: EditedSetPlan,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Write videos that show stretches of `videos`, and others that show none, and return `out`.

    A copy shows one to three stretches of one video, or of two, within footage of `donors`. They are as long and as
    fast as the copies in the training set of the Video Similarity Challenge 2022, and are cropped, edited like photos
    in `write_edited_set`, put on a split screen, or shown as a picture in a picture. The files are
    `queries/Q00000.mp4`…, `edits.csv` (`query_id,edits`), and last `ground_truth.csv` (`COLUMNS`, seconds). On the same
    machine and versions, the same arguments give the same bytes, whatever the number of `workers` (threads). Memory
    does not grow with the length of the videos.

    Raises `InputError` when there are no videos or donors, they share an id, `out` holds queries of another set, or no
    video is long enough to copy from; `ConfigError` for an unknown difficulty or impossible numbers; and `MediaError`
    for a video that cannot be read.
    """
    difficulties = [exclude_crops(difficulty) for difficulty in plan.difficulties()]
    plan_queries(videos, donors, plan, kind="video")  # raises its errors before anything is read
    show = progress or SilentProgress()
    with show.step("read videos", len(videos) + len(donors), "videos") as step:
        opened = _open_all([*videos, *donors], workers, step.advance)
    usable = [video for video in videos if opened[video.id].info.duration >= _SHORTEST_SOURCE]
    if not usable:
        raise InputError(f"no video has the {_SHORTEST_SOURCE:g} seconds that a copy needs; give longer ones")
    planned = plan_queries(usable, donors, plan)
    folder = out / "queries"
    folder.mkdir(parents=True, exist_ok=True)
    require_only(folder, {f"{query.query_id}.mp4" for query in planned})
    director = _Director({video.id: opened[video.id] for video in usable}, [opened[d.id] for d in donors], difficulties)

    def write(planned_query: PlannedQuery) -> Query:
        query = director.direct(planned_query)
        query.write(folder)
        return query

    with show.step("edit videos", len(planned), "videos") as step, ThreadPoolExecutor(max(1, workers)) as pool:
        written = []
        for query in pool.map(write, planned):
            written.append(query)
            step.advance()
    edits = [[query.id, " ".join(sorted(query.edits))] for query in written]
    write_text(out / "edits.csv", csv_text(["query_id", "edits"], edits))
    write_text(out / "ground_truth.csv", csv_text(list(COLUMNS), list(truth_rows(written))))
    return out


def truth_rows(queries: Sequence[Query]) -> Iterator[list[str]]:
    """Yield the rows of the ground truth, with the columns `COLUMNS`."""
    for query in queries:
        for copy in query.copies:
            yield [query.id, copy.reference, *(f"{second:.3f}" for second in (*copy.query, *copy.seconds))]


def _open_all(items: Sequence[MediaItem], workers: int, advance: Callable[[], None]) -> dict[str, Video]:
    def open_one(item: MediaItem) -> Video:
        try:
            return open_video(item.path)
        except MediaError as error:
            raise MediaError(f"unreadable video {item.path}: {error}; leave it out") from error

    videos = {}
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for item, video in zip(items, pool.map(open_one, items), strict=True):
            videos[item.id] = video
            advance()
    return videos


def exclude_crops(difficulty: Difficulty) -> Difficulty:
    """Return a difficulty without crops of photos, whose place depends on the picture; `Look` crops all alike."""
    return replace(difficulty, kinds={kind: weight for kind, weight in difficulty.kinds.items() if kind != "crop"})


@dataclass(frozen=True)
class _Director:
    """Draws the content of queries from their seeds."""

    videos: Mapping[str, Video]
    donors: Sequence[Video]
    difficulties: Sequence[Difficulty]

    def direct(self, plan: PlannedQuery) -> Query:
        rng = np.random.default_rng(plan.seed)
        width, height = _SIZES[int(rng.integers(len(_SIZES)))]
        quantizer = int(rng.integers(_QUANTIZERS[0], _QUANTIZERS[1] + 1))
        seconds = float(np.clip(_MEDIAN_SECONDS * np.exp(rng.normal(0, _SECONDS_SPREAD)), *_SECONDS))
        takes = self._draw_takes(rng, plan.reference_id, seconds) if plan.reference_id else []
        if takes and rng.random() < _SECOND_REFERENCE:
            other = self._draw_reference(rng, {plan.reference_id})
            later = self._draw_takes(rng, other, float(rng.uniform(*_LATER_SECONDS))) if other else []
            takes += [replace(take, at=take.at + round(seconds * RATE)) for take in later]
            seconds = max(seconds, takes[-1].end / RATE)
        common_look = self._draw_look(rng, (*plan.seed, 0)) if rng.random() < _COMMON_LOOK or not takes else None
        scenes: list[Scene] = []
        copies: list[CopiedSegment] = []
        end = 0
        for number, take in enumerate([*takes, _Take("", round(seconds * RATE), None)]):
            for stretch in self._draw_filler(rng, take.at - end):
                scenes.append(self._draw_scene(rng, stretch, common_look or Look(plan.seed)))
            if take.stretch is not None:
                scene = self._draw_scene(
                    rng, take.stretch, common_look or self._draw_look(rng, (*plan.seed, number + 1))
                )
                copies.append(CopiedSegment(take.reference, (take.at / RATE, take.end / RATE), take.stretch.seconds))
                scene, more = self._add_copied_pane(rng, scene, take, {copy.reference for copy in copies})
                scenes.append(scene)
                copies += more
            end = take.end
        return Query(plan.query_id, width, height, quantizer, tuple(scenes), tuple(copies))

    def _draw_takes(self, rng: np.random.Generator, reference: str, seconds: float) -> list[_Take]:
        """Draw the stretches of a reference to copy, and the positions in the query that show them."""
        video = self.videos[reference]
        duration = video.info.duration
        segments: list[Segment] = []
        while not segments:
            segments = draw_segments(rng, seconds, duration)
        takes: list[_Take] = []
        for segment in segments:
            at, end = round(segment.query_start * RATE), round(segment.query_end * RATE)
            at = max(at, takes[-1].end) if takes else at
            speed = (segment.reference_end - segment.reference_start) / (segment.query_end - segment.query_start)
            last = int(duration * RATE / speed)
            first = min(round(segment.reference_start * RATE / speed), last)
            count = min(end - at, last - first)
            if count >= LENGTHS[0] * RATE or (count > 0 and not takes):
                takes.append(_Take(reference, at, Stretch(video, first, count, speed)))
        return takes

    def _draw_look(self, rng: np.random.Generator, seed: tuple[int, ...]) -> Look:
        difficulty = None if rng.random() < _UNEDITED else self.difficulties[int(rng.integers(len(self.difficulties)))]
        crop = None
        if rng.random() < _CROPPED:
            kept = rng.uniform(_LEAST_KEPT, 0.9, 2)
            left, top = rng.uniform(0, 1 - kept)
            crop = (float(left), float(top), float(left + kept[0]), float(top + kept[1]))
        if rng.random() < _SPLIT:
            layout = "stack4" if rng.random() < _FOUR else "stack2"
            return Look(seed, difficulty, crop, layout, int(rng.integers(PANES[layout])), bool(rng.random() < 0.5))
        return Look(seed, difficulty, crop, "barred" if rng.random() < 0.5 else "filling")

    def _draw_scene(self, rng: np.random.Generator, stretch: Stretch, look: Look) -> Scene:
        donor, *beside = (self._draw_donor(rng, stretch.count) for _ in range(1 + look.others))
        return Scene(stretch, look, donor, tuple(beside))

    def _add_copied_pane(
        self, rng: np.random.Generator, scene: Scene, take: _Take, used: set[str]
    ) -> tuple[Scene, list[CopiedSegment]]:
        """Sometimes show another reference in a second pane."""
        if not scene.beside or rng.random() >= _COPIED_PANE:
            return scene, []
        other = self._draw_reference(rng, used, scene.stretch.count)
        if not other:
            return scene, []
        video = self.videos[other]
        first = int(rng.integers(int(video.info.duration * RATE) - scene.stretch.count + 1))
        shown = Stretch(video, first, scene.stretch.count)
        copy = CopiedSegment(other, (take.at / RATE, take.end / RATE), shown.seconds)
        return replace(scene, beside=(shown, *scene.beside[1:])), [copy]

    def _draw_reference(self, rng: np.random.Generator, used: set[str], count: int = 0) -> str:
        """Draw an unused reference of at least `count` pictures; "" if there is none."""
        others = [
            name for name, video in self.videos.items() if name not in used and int(video.info.duration * RATE) >= count
        ]
        return others[int(rng.integers(len(others)))] if others else ""

    def _draw_filler(self, rng: np.random.Generator, count: int) -> Iterator[Stretch]:
        """Yield stretches of donors that last `count` pictures."""
        while count > 0:
            stretch = self._draw_donor(rng, count)
            yield stretch
            count -= stretch.count

    def _draw_donor(self, rng: np.random.Generator, count: int) -> Stretch:
        """Draw a stretch of a donor, of `count` pictures or as many as it has."""
        video = self.donors[int(rng.integers(len(self.donors)))]
        available = max(1, int(video.info.duration * RATE))
        return Stretch(video, int(rng.integers(max(1, available - count + 1))), min(count, available))


@dataclass(frozen=True, slots=True)
class _Take:
    """A stretch of a reference, shown from picture `at` of a query; without a stretch, the end of the query."""

    reference: str
    at: int
    stretch: Stretch | None

    @property
    def end(self) -> int:
        return self.at + (self.stretch.count if self.stretch else 0)
