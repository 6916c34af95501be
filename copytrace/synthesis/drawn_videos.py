"""A labeled set of drawn videos: slides, rolling text, recordings of screens, titles, stills and fixed cameras.

Such videos share layout, hold still for long, and move alike. So every template gives references, copies of a part of
them, and videos that look like them but copy none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from copytrace.errors import ConfigError
from copytrace.media.encode import crop_to_fill, write_video
from copytrace.media.frames import open_video
from copytrace.media.rgb import Pixels
from copytrace.step import Progress, SilentProgress
from copytrace.storage import write_text
from copytrace.synthesis.drawn_set import PICTURE_KINDS, WITHOUT_PARTS
from copytrace.synthesis.drawn_text import Draw
from copytrace.synthesis.edited_set import MILD, csv_text, require_only
from copytrace.synthesis.edited_videos import COLUMNS, CopiedSegment, Query, exclude_crops, truth_rows
from copytrace.synthesis.footage import RATE, Look, Scene, Stretch

Movement = Callable[[Draw, np.random.Generator], Iterator[Pixels]]

SECONDS = 12
_PICTURES = SECONDS * RATE
_LONG_SIDE = 640
_COPIED = (4.0, 9.0)  # seconds
_BEFORE = (2.0, 4.0)  # seconds of another video of the template before half of the copies
_FADE = 8  # pictures
_EDITS = exclude_crops(MILD)
_ENCODED_AGAIN = 0.5  # probability that a copy is only made smaller and encoded again
_LEAST_KEPT = 0.7  # of each side in a crop


def _render(draw: Draw, rng: np.random.Generator) -> Pixels:
    """Return a drawn picture, uint8 RGB, on black where it is transparent; its sides are even, at most `_LONG_SIDE`."""
    image = draw(rng)
    if image.mode == "RGBA":
        ground = Image.new("RGB", image.size)
        ground.paste(image, mask=image.getchannel("A"))
        image = ground
    scale = _LONG_SIDE / max(image.size)
    width, height = (2 * round(side * scale / 2) for side in image.size)
    return crop_to_fill(np.asarray(image.convert("RGB")), width, height)


def show_still(draw: Draw, rng: np.random.Generator) -> Iterator[Pixels]:
    """Yield one picture all the time."""
    picture = _render(draw, rng)
    for _ in range(_PICTURES):
        yield picture


def show_each(draw: Draw, rng: np.random.Generator) -> Iterator[Pixels]:
    """Yield pictures that last two to five seconds each, with hard cuts."""
    left = _PICTURES
    while left > 0:
        picture, count = _render(draw, rng), min(left, int(rng.integers(2 * RATE, 5 * RATE)))
        left -= count
        for _ in range(count):
            yield picture


def fade_each(draw: Draw, rng: np.random.Generator) -> Iterator[Pixels]:
    """Yield four pictures that fade in from black, stay, and fade out again."""
    count = _PICTURES // 4
    for _ in range(4):
        picture = _render(draw, rng)
        for number in range(count):
            brightness = min(1.0, number / _FADE, (count - 1 - number) / _FADE)
            yield (picture * brightness).astype(np.uint8)


def roll(draw: Draw, rng: np.random.Generator) -> Iterator[Pixels]:
    """Yield a window that moves down over three pictures, one below the other."""
    strip = np.vstack([_render(draw, rng) for _ in range(3)])
    height = strip.shape[0] // 3
    for number in range(_PICTURES):
        top = round(2 * height * number / (_PICTURES - 1))
        yield np.ascontiguousarray(strip[top : top + height])


def reveal(draw: Draw, rng: np.random.Generator) -> Iterator[Pixels]:
    """Yield two pictures that appear from the top to the bottom, as if they were written."""
    for _ in range(2):
        picture = _render(draw, rng)
        ground = np.broadcast_to(picture[0, 0], picture.shape)
        for number in range(1, _PICTURES // 2 + 1):
            rows = min(picture.shape[0], picture.shape[0] * number // (_PICTURES // 2 - RATE))
            yield np.vstack([picture[:rows], ground[rows:]])


def watch(draw: Draw, rng: np.random.Generator) -> Iterator[Pixels]:
    """Yield the picture of a fixed camera with noise, through which a few disks of some colors walk."""
    picture = _render(draw, rng)
    height, width = picture.shape[:2]
    starts, steps = rng.uniform(0, 1, (3, 2)), rng.uniform(-0.02, 0.02, (3, 2))
    colors = rng.integers(0, 256, (3, 3))
    for number in range(_PICTURES):
        noisy = picture + rng.normal(0, 3, picture.shape)
        screen: Pixels = np.clip(noisy, 0, 255).astype(np.uint8)
        for start, step, color in zip(starts, steps, colors, strict=True):
            x, y = (start + number * step) % 1 * (width, height)
            cv2.circle(screen, (int(x), int(y)), height // 12, tuple(int(value) for value in color), -1)
        yield screen


VIDEO_KINDS: dict[str, tuple[str, Movement]] = {
    "slides": ("slide", show_each),
    "rolling-page": ("page", roll),
    "rolling-credits": ("credits", roll),
    "rolling-table": ("table", roll),
    "rolling-music": ("sheet-music", roll),
    "titles": ("poster", fade_each),
    "logos": ("logo", fade_each),
    "chat": ("chat", show_each),
    "mail": ("mail", show_each),
    "forms": ("form", show_each),
    "calendars": ("calendar", show_each),
    "typed-program": ("program", reveal),
    "drawn-chart": ("chart", reveal),
    "drawn-flowchart": ("flowchart", reveal),
    "drawn-lines": ("line-drawing", reveal),
    "still-poster": ("poster", show_still),
    "still-pattern": ("pattern", show_still),
    "still-plain": ("plain", show_still),
    "fixed-camera": ("plan", watch),
}
"""The kinds of drawn videos: the kind of their pictures, and how these are shown."""


@dataclass(frozen=True)
class DrawnVideosPlan:
    """What a drawn set of videos consists of; all choices are drawn from `seed`.

    Attributes:
        templates: templates of each kind.
        references: reference videos of each template.
        others: queries of each template that copy no reference.
        copies: queries of each template that copy a part of one of its references.
        kinds: names of `VIDEO_KINDS`.
        seed: seed of all draws.
    """

    templates: int = 2
    references: int = 2
    others: int = 1
    copies: int = 2
    kinds: tuple[str, ...] = tuple(VIDEO_KINDS)
    seed: int = 0


def write_drawn_videos(out: Path, plan: DrawnVideosPlan, *, workers: int = 1, progress: Progress | None = None) -> Path:
    """Write the videos of a plan, and return `out`.

    The files are `references/*.mp4`, `queries/*.mp4`, `edits.csv` (`query_id,edits`: the kind, and the edits of a
    copy), and last `ground_truth.csv` (`COLUMNS`, seconds). On the same machine and versions, the same plan gives the
    same bytes, whatever the number of `workers` (threads).

    Raises:
        ConfigError: the plan has an unknown kind or no videos.
        InputError: `out` holds videos of another set.
    """
    unknown = set(plan.kinds) - set(VIDEO_KINDS)
    if unknown or min(plan.templates, plan.references, plan.others) < 1:
        raise ConfigError(
            f"{', '.join(sorted(unknown)) or 'this plan'} cannot be drawn; the kinds are {', '.join(VIDEO_KINDS)}, and "
            "every template has at least one reference and one other video"
        )
    jobs = [_Template(out, plan, kind, number) for kind in plan.kinds for number in range(plan.templates)]
    for folder, stems in (("references", ("reference",)), ("queries", ("other", "copy"))):
        (out / folder).mkdir(parents=True, exist_ok=True)
        require_only(out / folder, {f"{name}.mp4" for job in jobs for stem in stems for name in job.names(stem)})
    queries: list[Query] = []
    edits: list[list[str]] = []
    with (
        (progress or SilentProgress()).step("draw videos", len(jobs), "templates") as step,
        ThreadPoolExecutor(max(1, workers)) as pool,
    ):
        for job, copies in zip(jobs, pool.map(_Template.write, jobs), strict=True):
            queries += copies
            edits += [[name, job.kind] for name in job.names("other")]
            edits += [[copy.id, " ".join([job.kind, *sorted(copy.edits)])] for copy in copies]
            step.advance()
    write_text(out / "edits.csv", csv_text(["query_id", "edits"], edits))
    write_text(out / "ground_truth.csv", csv_text(list(COLUMNS), list(truth_rows(queries))))
    return out


@dataclass(frozen=True)
class _Template:
    """The videos of one template."""

    out: Path
    plan: DrawnVideosPlan
    kind: str
    number: int

    def names(self, stem: str) -> list[str]:
        """Return the ids of its videos that are "reference", "other" or "copy"."""
        count = {"reference": self.plan.references, "other": self.plan.others, "copy": self.plan.copies}[stem]
        return [f"{self.kind}-{self.number:02}-{stem}{each:02}" for each in range(count)]

    def write(self) -> list[Query]:
        """Write the videos, and return the copies."""
        rng = np.random.default_rng((self.plan.seed, list(VIDEO_KINDS).index(self.kind), self.number))
        pictures, show = VIDEO_KINDS[self.kind]
        draw = PICTURE_KINDS[pictures](rng)
        for stem, folder in (("reference", "references"), ("other", "queries")):
            for name in self.names(stem):
                write_video(show(draw, rng), self.out / folder / f"{name}.mp4", rate=RATE, quantizer=4)
        copies = [self._draw_copy(name, rng) for name in self.names("copy")]
        for copy in copies:
            copy.write(self.out / "queries")
        return copies

    def _draw_copy(self, name: str, rng: np.random.Generator) -> Query:
        reference = str(rng.choice(self.names("reference")))
        video = open_video(str(self.out / "references" / f"{reference}.mp4"))
        other = open_video(str(self.out / "queries" / f"{self.names('other')[0]}.mp4"))
        before = round(rng.uniform(*_BEFORE) * RATE) if rng.random() < 0.5 else 0
        count = round(rng.uniform(*_COPIED) * RATE)
        copied = Stretch(video, int(rng.integers(_PICTURES - count + 1)), count)
        look = self._draw_look(rng)
        stretches = [Stretch(other, 0, before), copied] if before else [copied]
        scenes = tuple(Scene(stretch, look, Stretch(other, 0, _PICTURES)) for stretch in stretches)
        width, height = (2 * round(side * 0.375) for side in (video.info.width, video.info.height))
        copy = CopiedSegment(reference, (before / RATE, (before + count) / RATE), copied.seconds)
        return Query(name, width, height, int(rng.integers(3, 15)), scenes, (copy,))

    def _draw_look(self, rng: np.random.Generator) -> Look:
        seed = (self.plan.seed, int(rng.integers(2**32)))
        layout = "barred" if rng.random() < 0.5 else "filling"
        # A part of a pattern or of a plain picture can be a part of many others.
        if rng.random() < _ENCODED_AGAIN or VIDEO_KINDS[self.kind][0] in WITHOUT_PARTS:
            return Look(seed, layout=layout)
        kept = rng.uniform(_LEAST_KEPT, 1, 2)
        left, top = rng.uniform(0, 1 - kept)
        crop = (float(left), float(top), float(left + kept[0]), float(top + kept[1]))
        return Look(seed, _EDITS if rng.random() < 0.5 else None, crop, layout)
