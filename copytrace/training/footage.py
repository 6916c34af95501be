"""Footage for edited videos: stretches of other videos, played faster or slower, edited, and put on one screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from copytrace.errors import MediaError
from copytrace.media.decode import Pixels
from copytrace.media.encode import crop_to_fill, fit_within
from copytrace.media.frames import Video
from copytrace.training.edited_set import Difficulty, edit_copy

RATE = 10  # pictures per second of what is written
SHORT_SIDE = 288  # pixels to which sources are reduced

SHARES = {"stack2": 2, "stack4": 4}  # split screens, and how many panes they have


@dataclass(frozen=True, slots=True)
class Stretch:
    """`count` pictures of a video, `RATE` a second, from the `first` on, where the video plays at `speed`."""

    video: Video
    first: int
    count: int
    speed: float = 1.0

    @property
    def seconds(self) -> tuple[float, float]:
        """Which seconds of the video are shown."""
        return self.first * self.speed / RATE, (self.first + self.count) * self.speed / RATE

    def pictures(self) -> Iterator[Pixels]:
        """Yield the pictures, uint8 RGB [H, W, 3]; the last one again where there are no more.

        Raises `MediaError` when some of them are damaged.
        """
        start, end = self.seconds
        half = self.speed / RATE / 2  # so that rounding never counts a neighbour in
        shown, last = 0, np.zeros((SHORT_SIDE, SHORT_SIDE, 3), np.uint8)
        frames = self.video.frames(
            per_second=RATE / self.speed, short_side=SHORT_SIDE, threads=1, start=max(0.0, start - half), end=end - half
        )
        try:
            for frame in frames:
                shown, last = shown + 1, frame.pixels
                yield last
        except MediaError as error:
            if shown < self.count:  # else the damage lies elsewhere
                raise MediaError(f"unreadable video {self.video.path}: {error}; leave it out") from error
        for _ in range(self.count - shown):
            yield last


@dataclass(frozen=True, slots=True)
class Look:
    """How pictures are changed, alike all through a stretch.

    `edits` draw from `seed`, the same for every picture. `crop` are the shares x0, y0, x1, y1 of a picture that are
    kept before. `layout` is "whole" or a key of `SHARES`; `place` is the pane that the picture gets, and `across` puts
    two panes side by side, not one above the other.
    """

    seed: tuple[int, ...]
    difficulty: Difficulty | None = None
    crop: tuple[float, float, float, float] | None = None
    layout: str = "filling"
    place: int = 0
    across: bool = True

    @property
    def others(self) -> int:
        """How many panes show something else."""
        return SHARES.get(self.layout, 1) - 1

    def edit(self, picture: Pixels, donor: Callable[[], Pixels]) -> tuple[Pixels, list[str]]:
        """Crop and edit one picture, and tell the names of the edits; one of them may paste it onto the `donor`'s."""
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
        """Put the edited picture and those of the other panes on one screen, uint8 [height, width, 3]."""
        if self.layout not in SHARES:
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
    """A stretch under a look. `beside` are the stretches of the other panes; `donor` is what edits may paste with."""

    stretch: Stretch
    look: Look
    donor: Stretch
    beside: tuple[Stretch, ...] = ()

    def pictures(self, width: int, height: int, tell: Callable[[list[str]], None]) -> Iterator[Pixels]:
        """Yield the screens, uint8 [height, width, 3]; `tell` gets the names of the edits once."""
        donor, beside = _endless(self.donor), [_endless(pane) for pane in self.beside]
        for number, picture in enumerate(self.stretch.pictures()):
            edited, names = self.look.edit(picture, lambda: next(donor))
            if not number:
                tell([*names, *([self.look.layout] if self.look.others else [])])
            yield self.look.arrange(edited, [next(pane) for pane in beside], width, height)


def _endless(stretch: Stretch) -> Iterator[Pixels]:
    """Yield the pictures of a stretch, again and again."""
    while True:
        yield from stretch.pictures()
