"""A look at the pictures of a segment: do both videos show the same, and if not there, then where?

Points and ink tell a page from another page of one layout, where descriptors find all alike. Where they do not support
a segment, thumbnails tell at which moments both videos show the same pictures, also laid over each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np

from configs.images import ImageSettings
from copytrace.alignment.align import Pair, VideoRows
from copytrace.alignment.picture_evidence import (
    ALIKE,
    REFUTED,
    REFUTED_SCORE,
    Moment,
    is_photograph,
    speaks_against,
    supported_score,
    verified_score,
)
from copytrace.alignment.registration import Registrar, choose_moments
from copytrace.alignment.same_footage import find_same_footage
from copytrace.alignment.same_pictures import (
    Thumbnails,
    align_alike_pictures,
    align_same_pictures,
    is_blank,
    is_plain_beside,
    read_thumbnails,
    shows_pictures,
)
from copytrace.alignment.segments import Segment
from copytrace.arrays import Floats
from copytrace.errors import MediaError
from copytrace.features.thumbnails import thumbnail
from copytrace.matching.ground import SURELY_DRAWN, flat_ground
from copytrace.matching.same_picture import compare_pictures
from copytrace.matching.score import Calibration, load_calibration
from copytrace.media.decoding_limits import DecodingLimits
from copytrace.media.frames import frames_at

MOMENTS = (0.5, 0.25, 0.75)  # of a segment, where pictures are compared
SIDE = 640  # longest side of the pictures, in pixels
SURE = 0.98  # score that is kept without a look at pictures that are not alike
LEAST_ALIKE = 0.5  # similarity below which no pictures are looked at
LONGEST_CUT = 5.0  # seconds of a query that may be too short for a line to be seen
VIDEOS_KEPT = 64  # whose thumbnails are in memory, each up to half a megabyte

Job = tuple[int, Pair, Segment, VideoRows, VideoRows]
"""A row of a table, its pair, its segment, and the descriptors of both videos."""


@dataclass(frozen=True, slots=True)
class Look:
    """A look at the pictures of videos; `queries` and `references` give the path of each id.

    By paths, `thumbnails` gives those of a video, `is_drawn` whether a query of so many seconds is drawn, and
    `align_registered` a line, whose score is 0, along which a query and a reference are alike when laid over each
    other.
    """

    queries: Mapping[str, str]
    references: Mapping[str, str]
    limits: DecodingLimits
    rules: ImageSettings
    calibration: Calibration
    thumbnails: Callable[[str], Thumbnails]
    is_drawn: Callable[[str, float], bool]
    align_registered: Callable[[str, str], Segment | None]

    @classmethod
    def at(cls, queries: Mapping[str, str], references: Mapping[str, str], limits: DecodingLimits) -> Look:
        """Return a look by the rules and the calibration that ship, which keeps what it read of videos in memory."""
        rules, thumbnails = ImageSettings(), lru_cache(VIDEOS_KEPT)(partial(read_thumbnails, limits=limits))
        registrar = Registrar(thumbnails, limits, rules)
        align = lru_cache(VIDEOS_KEPT)(registrar.align)
        is_drawn = lru_cache(VIDEOS_KEPT)(registrar.is_drawn)
        return cls(queries, references, limits, rules, load_calibration(), thumbnails, is_drawn, align)

    def verify(self, job: Job) -> list[Segment]:
        """Return a segment with its verified score and, if it is not supported, one to which it could be moved.

        Raises `MediaError` if a video cannot be read.
        """
        moments = self.compare(job)
        if moments and all(moment.is_blank for moment in moments):
            moments = self._look_along(job, job[2])
        segment, moved = replace(job[2], score=verified_score(job[2].score, moments)), None
        if moments and all(moment.is_blank for moment in moments) and self._show_pictures(job):
            segment = replace(segment, score=min(segment.score, REFUTED_SCORE))
        with suppress(MediaError):  # the score stands, even if more of a video cannot be read
            if any(map(is_photograph, moments)) and segment.score < _least_sure(segment):
                same = find_same_footage(*self._paths(job), segment, self.limits)
                moved = same and replace(same, score=supported_score(job[2].score))
            if moments and segment.score < REFUTED and not moved:
                moved = self.move(job, moments)
        return [segment, moved] if moved and moved.score > segment.score else [segment]

    def move(self, job: Job, moments: Sequence[Moment]) -> Segment | None:
        """Return the segment in which both videos show the same pictures; its score is verified.

        `moments` are those of the segment that is to be moved. Returns None if their pictures are neither drawn nor
        alike, or if there is no such segment.
        """
        is_alike = np.median([moment.similarity for moment in moments]) >= ALIKE[1]
        if not is_alike and max(moment.ground for moment in moments) < SURELY_DRAWN:
            return None
        return self.find_line(job)

    def find_unseen_line(self, job: Job) -> Segment | None:
        """Return the supported segment of two videos whose likenesses show no line; None if there is none.

        Drawn videos are laid over each other; a short query may be a cut. Raises `MediaError` if a video cannot be
        read.
        """
        query, reference = self._paths(job)
        if self.is_drawn(query, float(job[3].times.max())):
            return self._prove(job, self.align_registered(query, reference))
        cut = _likely_cut(job[3], job[4])
        found = cut and find_same_footage(query, reference, cut, self.limits)
        return replace(found, score=supported_score(0.0)) if found else None

    def find_line(self, job: Job) -> Segment | None:
        """Return the segment in which both videos of a job show the same pictures, with a verified score; None if none.

        Raises `MediaError` if a video cannot be read.
        """
        segment, paths = job[2], self._paths(job)
        here, there = map(self.thumbnails, paths)
        same = align_same_pictures(here, there, self.calibration)
        if same:
            same = replace(same, score=max(same.score, verified_score(segment.score, self._look_along(job, same))))
            if same.score >= REFUTED:
                return same
        alike = self._prove(job, align_alike_pictures(here, there))
        return alike or self._prove(job, self.align_registered(*paths)) or same

    def _show_pictures(self, job: Job) -> bool:
        """Return whether both videos show more than a plain picture, which they may share by accident."""
        return all(shows_pictures(self.thumbnails(path)) for path in self._paths(job))

    def _paths(self, job: Job) -> tuple[str, str]:
        return self.queries[job[1][0]], self.references[job[1][1]]

    def _prove(self, job: Job, found: Segment | None) -> Segment | None:
        """Return a segment with its verified score; None if its pictures do not support it: lookalikes need proof."""
        if not found or verified_score(0.0, moments := self._look_along(job, found)) < REFUTED:
            return None
        return replace(found, score=verified_score(job[2].score, moments))

    def _look_along(self, job: Job, found: Segment) -> list[Moment]:
        """Compare different pictures of a segment of a job's videos, until two speak against it."""
        _, pair, _, query, reference = job
        seen = _different_moments(found, self.thumbnails(self.queries[pair[0]]))
        return self._look(pair, seen, _similarities(query, reference, seen), most_against=2)

    def compare(self, job: Job) -> list[Moment]:
        """Compare the pictures of a segment; moments at which a video shows nothing are left out.

        Raises `MediaError` if a video cannot be read.
        """
        _, pair, segment, query, reference = job
        seen = _moments_of(segment)
        similarities = _similarities(query, reference, seen)
        least = ALIKE[0] if segment.score >= SURE else LEAST_ALIKE
        if np.median(similarities) < least:
            return []
        moments = self._look(pair, seen[:1], similarities[:1])
        if moments and is_photograph(moments[0]):
            return moments  # the others would change nothing
        return moments + self._look(pair, seen[1:], similarities[1:])

    def _look(
        self,
        pair: Pair,
        seen: Sequence[tuple[float, float]],
        similarities: Sequence[float],
        most_against: int = len(MOMENTS),
    ) -> list[Moment]:
        """Compare the pictures at moments of both videos, until `most_against` of them speak against a copy."""
        here, there = zip(*seen, strict=True)
        shown = frames_at(self.queries[pair[0]], here, SIDE, limits=self.limits)
        original = frames_at(self.references[pair[1]], there, SIDE, limits=self.limits)
        moments: list[Moment] = []
        for similarity, picture, reference_picture in zip(similarities, shown, original, strict=True):
            if sum(map(speaks_against, moments)) >= most_against:
                break
            if picture is not None and reference_picture is not None:
                agreement = compare_pictures(picture, reference_picture, self.rules, self.calibration)
                small = thumbnail(picture), thumbnail(reference_picture)
                ground = flat_ground(reference_picture)
                moments.append(Moment(similarity, agreement, ground, is_plain_beside(*small), is_blank(*small)))
        return moments


def _least_sure(segment: Segment) -> float:
    """Return the score below which it is looked whether a segment is the same footage: a short one says little."""
    return SURE if segment.query_end - segment.query_start <= LONGEST_CUT else REFUTED


def _likely_cut(query: VideoRows, reference: VideoRows) -> Segment | None:
    """Return where in the reference a short query may have been cut out, by the two frames that are most alike."""
    length = float(query.times.max())
    cosines = np.asarray(query.vectors @ reference.vectors.T, np.float32)
    if length > LONGEST_CUT or cosines.max(initial=0.0) < ALIKE[0]:
        return None
    here, there = np.unravel_index(int(cosines.argmax()), cosines.shape)
    ahead = float(reference.times[there].mean() - query.times[here].mean())
    return Segment(0.0, length, max(ahead, 0.0), max(ahead, 0.0) + length, 0.0)


def _moments_of(segment: Segment) -> list[tuple[float, float]]:
    """Return the seconds of the query and of the reference at which pictures of a segment are compared."""
    length = segment.query_end - segment.query_start
    seconds = [segment.query_start + share * length for share in MOMENTS]
    return [(second, segment.reference_at(second)) for second in seconds]


def _different_moments(segment: Segment, query: Thumbnails) -> list[tuple[float, float]]:
    """Return the same as `_moments_of`, but rather moments at which the query's pictures are clear and differ."""
    inside = (query.times[:, 0] >= segment.query_start) & (query.times[:, 1] <= segment.query_end)
    inside[np.flatnonzero(inside)[[0, -1]] if inside.any() else []] = False  # where a cut may be
    if not inside.any():
        return _moments_of(segment)
    seconds = choose_moments(Thumbnails(query.times[inside], query.pixels[inside]), len(MOMENTS))
    different = [(second, segment.reference_at(second)) for second in seconds]
    return (different + _moments_of(segment))[: len(MOMENTS)]


def _similarities(query: VideoRows, reference: VideoRows, seen: Sequence[tuple[float, float]]) -> list[float]:
    """Return the cosine of the frames at each two moments, of the most similar panes."""
    return [float((_frames_near(query, here) @ _frames_near(reference, there).T).max()) for here, there in seen]


def _frames_near(video: VideoRows, second: float) -> Floats:
    apart = np.abs(video.times.mean(axis=1) - second)
    return np.asarray(video.vectors[apart <= apart.min() + 1e-6], np.float32)
