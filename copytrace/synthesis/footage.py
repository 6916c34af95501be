"""Footage for edited videos: stretches of other videos, at another speed, edited, and arranged on a screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from copytrace.errors import MediaError
from copytrace.media.encode import crop_to_fill, fit_within
from copytrace.media.frames import Video
from copytrace.media.rgb import Pixels
from copytrace.synthesis.edited_set import Difficulty, edit_copy

RATE = 10  # pictures per second of what is written
SHORT_SIDE = 288  # pixels to which sources are reduced

PANES = {"stack2": 2, "stack4": 4}  # numbers of panes of the split screens


@dataclass(frozen=True, slots=True)
class Stretch:
    """`count` pictures from number `first` on, of a video played at `speed` with `RATE` pictures per second."""

    video: Video
    first: int
    count: int
    speed: float = 1.0

    @property
    def seconds(self) -> tuple[float, float]:
        """Start and end in the video, in seconds."""
        return self.first * self.speed / RATE, (self.first + self.count) * self.speed / RATE

    def pictures(self) -> Iterator[Pixels]:
        """Yield the pictures, uint8 RGB [H, W, 3], and repeat the last one if the video ends early.

        Raises `MediaError` when some of them are damaged.
        """
        start, end = self.seconds
        half = self.speed / RATE / 2  # so that rounding never includes a neighbor
        shown, last = 0, np.zeros((SHORT_SIDE, SHORT_SIDE, 3), np.uint8)
        frames = self.video.frames(
            per_second=RATE / self.speed, short_side=SHORT_SIDE, threads=1, start=max(0.0, start - half), end=end - half
        )
        try:
            for frame in frames:
                shown, last = shown + 1, frame.pixels
                yield last
        except MediaError as error:
            if shown < self.count:  # otherwise the damage is elsewhere
                raise MediaError(f"unreadable video {self.video.path}: {error}; leave it out") from error
        for _ in range(self.count - shown):
            yield last


@dataclass(frozen=True, slots=True)
class Look:
    """Edits and arrangement of pictures, the same throughout a stretch.

    Edits of `difficulty` are drawn from `seed`, the same for every picture. Before them `crop` keeps the part x0, y0,
    x1, y1 of a picture, in shares of its sides. `layout` is "filling", "barred" or a key of `PANES`; `place` is the
    pane of the picture, and `across` puts two panes side by side instead of one above the other.
    """

    seed: tuple[int, ...]
    difficulty: Difficulty | None = None
    crop: tuple[float, float, float, float] | None = None
    layout: str = "filling"
    place: int = 0
    across: bool = True

    @property
    def others(self) -> int:
        """Number of panes that show other footage."""
        return PANES.get(self.layout, 1) - 1

    def edit(self, picture: Pixels, donor: Callable[[], Pixels]) -> tuple[Pixels, list[str]]:
        """Return one picture cropped and edited, with the names of the edits, which may paste the `donor`'s picture."""
        names = []
        if self.crop is not None:
            (height, width), (x0, y0, x1, y1) = picture.shape[:2], self.crop
            picture = picture[int(y0 * height) : round(y1 * height), int(x0 * width) : round(x1 * width)]
            names.append("crop")
        if self.difficulty is not None:
            image = Image.fromarray(np.ascontiguousarray(picture))
            rng = np.random.default_rng(self.seed)
            edited, more = edit_copy(image, self.difficulty, rng, lambda _: Image.fromarray(donor()))
            picture, names = np.asarray(edited.image), [*names, *more]
        return picture, names

    def arrange(self, picture: Pixels, others: Sequence[Pixels], width: int, height: int) -> Pixels:
        """Return the screen, uint8 [height, width, 3], with the edited picture and those of the other panes."""
        if self.layout not in PANES:
            return (fit_within if self.layout == "barred" else crop_to_fill)(picture, width, height)
        panes = list(others)
        panes.insert(self.place, picture)
        columns = 2 if self.layout == "stack4" or self.across else 1
        rows = len(panes) // columns
        fitted = [crop_to_fill(pane, width // columns, height // rows) for pane in panes]
        lines = [np.hstack(fitted[row * columns : (row + 1) * columns]) for row in range(rows)]
        return np.ascontiguousarray(np.vstack(lines))


@dataclass(frozen=True, slots=True)
class Scene:
    """A stretch with its look. `beside` are the stretches of the other panes; edits may paste pictures of `donor`."""

    stretch: Stretch
    look: Look
    donor: Stretch
    beside: tuple[Stretch, ...] = ()

    def pictures(self, width: int, height: int, report: Callable[[list[str]], None]) -> Iterator[Pixels]:
        """Yield the screens, uint8 [height, width, 3]; call `report` once with the names of the edits."""
        donor, beside = _repeat_pictures(self.donor), [_repeat_pictures(pane) for pane in self.beside]
        for number, picture in enumerate(self.stretch.pictures()):
            edited, names = self.look.edit(picture, lambda: next(donor))
            if not number:
                report([*names, *([self.look.layout] if self.look.others else [])])
            yield self.look.arrange(edited, [next(pane) for pane in beside], width, height)


def _repeat_pictures(stretch: Stretch) -> Iterator[Pixels]:
    """Yield the pictures of a stretch in an endless loop."""
    while True:
        yield from stretch.pictures()
