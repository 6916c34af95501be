from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from copytrace.errors import InputError
from copytrace.synthesis.edit_tracking import Draw, Strength
from copytrace.training.composites import LARGEST_BOX, SMALLEST_SIDE, Composite, Composites
from copytrace.training.photos import TrainingPhoto

Pixels = NDArray[np.uint8]
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (200, 160)) -> Image.Image:
    return Image.new("RGB", size, colour)


def draw_with(donor: Image.Image, seed: int) -> Draw:
    return Draw(np.random.default_rng(seed), Strength(0.2, 0.8), lambda _: donor)


def extent_of(image: Image.Image, colour: tuple[int, int, int]) -> NDArray[np.float64]:
    """The box of the pixels of a colour, normalised."""
    rows, columns = np.nonzero((np.asarray(image) == colour).all(axis=2))
    sides = np.array([image.width, image.height] * 2)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / sides


def only_box(composite: Composite) -> NDArray[np.float64]:
    (box,) = composite.boxes()
    return box


@pytest.fixture
def examples(
    tmp_path: Path, photos: dict[str, Pixels], write_photos: Callable[[Path, Mapping[str, Pixels]], Path]
) -> Composites:
    folder = write_photos(tmp_path / "photos", photos)
    listed = [TrainingPhoto(path.stem, str(path), path.stem) for path in sorted(folder.iterdir())]
    return Composites(listed, count=40, input_size=96, long_side=200, share=0.7, seed=3)


def test_a_photo_pasted_onto_another_has_the_box_that_its_pixels_have() -> None:
    compared = 0
    for seed in range(10):
        composite = Composite(plain(RED)).apply("scene", draw_with(plain(BLUE), seed))
        if (np.asarray(composite.image) == RED).all(axis=2).any():  # it is not see-through
            compared += 1
            assert only_box(composite).tolist() == pytest.approx(extent_of(composite.image, RED).tolist())
    assert compared >= 3  # or no box has been looked at


def test_an_inset_has_the_box_of_the_pixels_that_it_changed() -> None:
    composite = Composite(plain(RED)).apply("with_photo", draw_with(plain(GREEN), 1))
    assert only_box(composite).tolist() == pytest.approx(extent_of(composite.image, GREEN).tolist())


def test_a_photo_in_a_post_is_a_box_and_the_post_is_not() -> None:
    composite = Composite(plain(RED)).apply("screenshot", draw_with(plain(GREEN), 2))
    assert only_box(composite).tolist() == pytest.approx(extent_of(composite.image, RED).tolist())


@pytest.mark.parametrize("geometry", ["hflip", "vflip", "rotate90", "crop", "aspect"])
@pytest.mark.parametrize("seed", [0, 5])
def test_boxes_go_along_when_the_whole_is_moved(geometry: str, seed: int) -> None:
    draw = draw_with(plain(GREEN), seed)
    composite = Composite(plain(RED)).apply("with_photo", draw).apply(geometry, draw)
    expected = extent_of(composite.image, GREEN)
    assert only_box(composite).tolist() == pytest.approx(
        expected.tolist(), abs=0.02
    )  # of a pixel of the whole, resized


def test_the_part_that_a_paste_cuts_off_takes_its_inset_with_it() -> None:
    # `onto_photo` crops about a third of its pictures, and says so only by what it kept.
    compared = 0
    for seed in range(30):
        draw = draw_with(plain(GREEN), seed)
        inset = Composite(plain(RED, (400, 320))).apply("with_photo", draw)
        composite = inset.apply("onto_photo", Draw(draw.rng, draw.strength, lambda _: plain(BLUE, (400, 320))))
        green = np.nonzero(np.abs(np.asarray(composite.image).astype(int) - GREEN).max(axis=2) < 12)
        if len(green[0]) and len(composite.outlines[0]):  # neither see-through nor cut off
            compared += 1
            expected = green[1].min(), green[0].min(), green[1].max() + 1, green[0].max() + 1
            outline = composite.outlines[0] * composite.image.size
            assert [*outline.min(axis=0), *outline.max(axis=0)] == pytest.approx(expected, abs=2)
    assert compared >= 10


def test_a_picture_that_a_later_one_hides_is_no_box_any_more() -> None:
    corner = np.array([[0.0, 0.0], [0.05, 0.0], [0.05, 0.05], [0.0, 0.05]])
    grid = tuple(corner + np.array([x / 10, y / 10]) for x in range(10) for y in range(10))
    covered = Composite(plain(RED), grid).apply("with_photo", draw_with(plain(GREEN), 1))
    inset = extent_of(covered.image, GREEN)
    inside = [o for o in grid if (o.min(axis=0) >= inset[:2]).all() and (o.max(axis=0) <= inset[2:]).all()]
    apart = [o for o in grid if (o.max(axis=0) <= inset[:2]).any() or (o.min(axis=0) >= inset[2:]).any()]
    kept = {id(outline) for outline in covered.outlines}
    assert inside
    assert not any(id(outline) in kept for outline in inside)
    assert all(id(outline) in kept for outline in apart)


def test_of_a_padded_picture_that_was_pasted_the_picture_counts() -> None:
    outer = np.array([[0.2, 0.2], [0.8, 0.2], [0.8, 0.8], [0.2, 0.8]])
    inner = np.array([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]])
    assert Composite(plain(RED), (inner, outer)).boxes().tolist() == [[0.25, 0.25, 0.75, 0.75]]


def test_boxes_too_large_or_too_small_to_crop_are_not_learned() -> None:
    whole = np.array([[0.0, 0.0], [0.95, 0.0], [0.95, 0.95], [0.0, 0.95]])
    sliver = np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.14], [0.1, 0.14]])
    assert Composite(plain(RED), (whole, sliver)).boxes().shape == (0, 4)


def test_the_same_numbers_give_the_same_example_in_another_process(examples: Composites) -> None:
    first, again = examples.example(2, 7), pickle.loads(pickle.dumps(examples)).example(2, 7)
    assert np.array_equal(first["image"], again["image"])
    assert np.array_equal(first["boxes"], again["boxes"])


def test_another_epoch_gives_another_example(examples: Composites) -> None:
    assert not np.array_equal(examples.example(0, 0)["image"], examples.example(1, 0)["image"])


def test_examples_have_the_shapes_that_the_network_takes(examples: Composites) -> None:
    for index in range(12):
        example = examples.example(0, index)
        assert example["image"].shape == (96, 96, 3)
        assert example["image"].dtype == np.uint8
        boxes = example["boxes"]
        assert boxes.shape == (4, 4)
        real = boxes[boxes.any(axis=1)]
        sides = real[:, 2:] - real[:, :2]
        assert (sides >= SMALLEST_SIDE - 1e-6).all()
        assert (sides.prod(axis=1) <= LARGEST_BOX + 1e-6).all()
        assert real.min(initial=0) >= 0
        assert real.max(initial=1) <= 1


def test_about_as_many_examples_hold_a_picture_as_was_asked_for(examples: Composites) -> None:
    holding = sum(examples.example(0, index)["boxes"].any() for index in range(40))
    assert 0.45 * 40 <= holding <= 0.85 * 40


def test_photos_that_cannot_be_read_are_passed_over(examples: Composites, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    broken = TrainingPhoto("broken", str(tmp_path / "broken.jpg"), "broken")
    examples.photos = [broken, *examples.photos]
    assert examples.example(0, 0)["image"].any()


def test_a_source_without_a_readable_photo_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    broken = TrainingPhoto("broken", str(tmp_path / "broken.jpg"), "broken")
    with pytest.raises(InputError, match=r"6 photos in a row cannot be read, such as .*broken\.jpg"):
        Composites([broken], 1, 96, 200, 0.7, 0).example(0, 0)
