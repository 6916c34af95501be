from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.videos import FrameDescriptorSettings
from copytrace.errors import ConfigError, InputError
from copytrace.features.ensemble import (
    Ensemble,
    Projection,
    fit_projection,
    read_projection,
    write_projection,
)
from copytrace.features.resize import SquareInput, resize_for_descriptor
from copytrace.index.video_index import load_video_models
from copytrace.storage import resolve_path
from models.configs import Interpolation


class CornerDescriptor(SquareInput):
    """A real descriptor: the direction of the top left pixel's colour."""

    dimensions = 3

    def __init__(
        self, name: str, input_size: int, typical_noise: float | None = None, interpolation: Interpolation = "area"
    ) -> None:
        self.name, self.digest, self.input_size, self.typical_noise = name, f"{name}0000", input_size, typical_noise
        self.interpolation = interpolation

    def describe(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert batch.shape[1:] == (self.input_size, self.input_size, 3)
        colours = batch[:, 0, 0].astype(np.float32)
        return colours / np.linalg.norm(colours, axis=1, keepdims=True)


def describe(ensemble: Ensemble, *colours: tuple[int, int, int]) -> NDArray[np.float32]:
    pictures = [np.full((8, 8, 3), colour, np.uint8) for colour in colours]
    return ensemble.describe(np.stack([ensemble.resize(picture) for picture in pictures]))


FIRST_TWO = Projection(np.zeros(6, np.float32), np.eye(2, 6, dtype=np.float32), "pca0")


def test_vectors_are_put_behind_one_another_at_unit_length():
    ensemble = Ensemble([CornerDescriptor("a", 8), CornerDescriptor("b", 8)])
    vectors = describe(ensemble, (200, 0, 0), (0, 30, 40))
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, np.array([[1, 0, 0, 1, 0, 0], [0, 0.6, 0.8, 0, 0.6, 0.8]]) / 2**0.5, atol=1e-6)


def test_each_model_gets_the_frame_in_its_own_size_and_by_its_own_filter():
    inputs = [(4, "area"), (16, "bicubic"), (4, "bicubic"), (16, "bicubic")]
    ensemble = Ensemble([CornerDescriptor("abcd"[n], size, None, by) for n, (size, by) in enumerate(inputs)])
    assert ensemble.input_size == 16
    frame = np.random.default_rng(0).integers(1, 256, (90, 70, 3), dtype=np.uint8)
    picture = ensemble.resize(frame)
    assert picture.size == 3 * (4 * 4 + 16 * 16 + 4 * 4)  # the second and the last share one
    corners = np.concatenate([resize_for_descriptor(frame, *each)[0, 0] for each in inputs]).reshape(4, 3)
    expected = corners / np.linalg.norm(corners, axis=1, keepdims=True) / 2
    np.testing.assert_allclose(ensemble.describe(picture[None]), expected.reshape(1, -1), atol=1e-6)


def test_no_pictures_give_no_vectors():
    ensemble = Ensemble([CornerDescriptor("small", 4), CornerDescriptor("large", 16)])
    assert ensemble.describe(np.zeros((0, 3 * (16 + 256)), np.uint8)).shape == (0, 6)


@pytest.mark.parametrize("batch", [np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 240), np.float32)])
def test_pictures_of_another_size_or_type_are_refused(batch: NDArray[np.uint8]):
    with pytest.raises(InputError, match=r"uint8 \[N, 240\].*use the descriptor's resize"):
        Ensemble([CornerDescriptor("small", 4), CornerDescriptor("large", 8)]).describe(batch)


def test_a_projection_shortens_the_vectors_to_unit_length():
    ensemble = Ensemble([CornerDescriptor("a", 8), CornerDescriptor("b", 8)], FIRST_TWO)
    assert ensemble.dimensions == 2
    np.testing.assert_allclose(describe(ensemble, (30, 40, 120)), [[0.6, 0.8]], atol=1e-6)


def test_a_projection_for_vectors_of_another_length_is_refused():
    with pytest.raises(ConfigError, match="for vectors of 6 numbers, and these models give 3"):
        Ensemble([CornerDescriptor("a", 8)], FIRST_TWO)


def test_what_a_projection_maps_to_nothing_stays_nothing_instead_of_nan():
    np.testing.assert_array_equal(FIRST_TWO.apply(np.float32([[0, 0, 1, 0, 0, 0]])), [[0, 0]])


def test_the_digest_tells_models_their_order_and_projections_apart():
    a, b = CornerDescriptor("a", 8), CornerDescriptor("b", 8)
    ensembles = [Ensemble([a, b]), Ensemble([b, a]), Ensemble([a]), Ensemble([a, b], FIRST_TWO)]
    assert len({ensemble.digest for ensemble in ensembles}) == 4
    assert Ensemble([a, b]).digest == ensembles[0].digest
    assert [ensemble.name for ensemble in ensembles] == ["a + b", "b + a", "a", "a + b + pca"]


@pytest.mark.parametrize(
    ("levels", "projection", "expected"),
    [((0.2, 0.4), None, 0.3), ((0.2, None), None, None), ((0.2, 0.4), FIRST_TWO, None)],
)
def test_typical_noise_is_the_mean_of_the_models_where_all_say_it_and_nothing_is_projected(
    levels, projection, expected
):
    parts = [CornerDescriptor("a", 8, levels[0]), CornerDescriptor("b", 8, levels[1])]
    assert Ensemble(parts, projection).typical_noise == (None if expected is None else pytest.approx(expected))


def test_components_are_the_directions_of_most_variance_greatest_first():
    along, across = np.float32([0.6, 0.8, 0]), np.float32([0.8, -0.6, 0])
    vectors = np.float32([5, 5, 5]) + np.stack([3 * along, -3 * along, across, -across])
    fitted = fit_projection(vectors, 2)
    np.testing.assert_allclose(fitted.mean, [5, 5, 5], atol=1e-6)
    np.testing.assert_allclose(fitted.components, [along, across], atol=1e-6)


def test_a_fit_to_more_vectors_than_fit_into_one_step_is_that_of_all_of_them():
    vectors = np.random.default_rng(3).normal(size=(10_000, 4)).astype(np.float32) * np.float32([4, 3, 2, 1])
    vectors[8192:, 3] *= 50  # only the last ones vary so
    fitted = fit_projection(vectors, 1)
    assert abs(fitted.components[0, 3]) > 0.99


@pytest.mark.parametrize(("rows", "dimensions"), [(3, 3), (10, 5), (10, 0)])
def test_more_components_than_frames_or_numbers_allow_are_refused(rows: int, dimensions: int):
    with pytest.raises(InputError, match=f"{rows} frames of 4 numbers cannot be shortened to {dimensions}"):
        fit_projection(np.random.default_rng(1).normal(size=(rows, 4)).astype(np.float32), dimensions)


def test_a_projection_is_read_back_as_written_with_a_digest_of_its_file(tmp_path: Path):
    path = write_projection(tmp_path / "pca.safetensors", FIRST_TWO)
    found = read_projection(path)
    np.testing.assert_array_equal(found.components, FIRST_TWO.components)
    np.testing.assert_array_equal(found.mean, FIRST_TWO.mean)
    again = write_projection(tmp_path / "other", Projection(FIRST_TWO.mean + 1, FIRST_TWO.components, ""))
    assert len({found.digest, read_projection(again).digest, ""}) == 3


def test_a_projection_is_kept_in_a_store(tmp_path: Path):
    path = write_projection(resolve_path("memory://projections/pca.safetensors"), FIRST_TWO)
    here = write_projection(tmp_path / "pca", FIRST_TWO)
    assert read_projection(path).digest == read_projection(here).digest
    path.unlink()
    with pytest.raises(ConfigError, match=r"pca=memory://projections/pca\.safetensors cannot be read"):
        read_projection(path)


def write_text(path: Path) -> None:
    path.write_text("not a file of tensors")


def write_misfit(path: Path) -> None:
    write_projection(path, Projection(np.zeros(5, np.float32), np.eye(2, 6, dtype=np.float32), ""))


@pytest.mark.parametrize("write", [lambda path: None, Path.mkdir, write_text, write_misfit])
def test_any_other_file_is_refused_with_the_cure(tmp_path: Path, write: Callable[[Path], None]):
    write(tmp_path / "pca")
    with pytest.raises(ConfigError, match="make it with: copytrace fit-pca"):
        read_projection(tmp_path / "pca")


def test_one_model_without_a_projection_is_that_model_and_several_are_an_ensemble():
    alone, _ = load_video_models(FrameDescriptorSettings(device="cpu"), "none")
    both, _ = load_video_models(FrameDescriptorSettings(device="cpu", also=("shipped",)), "none")
    assert not isinstance(alone, Ensemble)
    assert isinstance(both, Ensemble)
    assert both.dimensions == 2 * alone.dimensions
    assert both.typical_noise == alone.typical_noise
