"""Codes of points, and the inverted lists that hold them on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from copytrace.errors import InputError
from copytrace.index.point_lists import CodedPoints, PointLists, read_lists
from copytrace.index.point_places import pack_places, unpack_places
from copytrace.index.point_quantizer import shipped_quantizer
from copytrace.index.shard_files import View

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def photo_points() -> Floats:
    """Return 600 canonical points as those of photographs are, float32 [600, 128]."""
    lists = shipped_quantizer().codebook.lists
    random = np.random.default_rng(0)
    points = lists[random.integers(0, len(lists), 600)] + random.normal(0, 8, (600, 128))
    return np.rint(np.clip(points, 0, 255)).astype(np.float32)


def decoded(codes: Bytes, centers: Floats) -> tuple[Floats, Floats]:
    """Return the points and the squared lengths that codes of the coarse level stand for."""
    code = shipped_quantizer().coarse.code
    nibbles = np.stack([codes & 15, codes >> 4], axis=2).reshape(len(codes), 32)
    points = centers + sum(vectors[nibbles[:, number]] for number, vectors in enumerate(code.products))
    low, high = code.lengths
    return points, low + (nibbles[:, 30] * 16.0 + nibbles[:, 31]) * (high - low) / 255


def test_a_code_is_nearer_to_its_point_than_the_center_of_its_list(photo_points: Floats) -> None:
    level = shipped_quantizer().coarse
    members, codes = level.encode(photo_points)
    centers = level.table.reconstruct_batch(members)
    points, lengths = decoded(codes, centers)
    before = ((photo_points - centers) ** 2).sum(axis=1).mean()
    assert ((photo_points - points) ** 2).sum(axis=1).mean() < 0.7 * before
    inside = (lengths > level.code.lengths[0]) & (lengths < level.code.lengths[1])
    step = np.diff(level.code.lengths)[0] / 255
    np.testing.assert_allclose(lengths[inside], (points**2).sum(axis=1)[inside], atol=step)
    assert inside.mean() > 0.8


def test_distances_are_those_of_the_codes(tmp_path: Path, photo_points: Floats) -> None:
    level = shipped_quantizer().coarse
    members, codes = level.encode(photo_points)
    coded = CodedPoints(level, len(members))
    coded.add(members, codes, np.arange(len(members)) << 39)
    lists = PointLists(
        read_lists(coded.write(tmp_path / "some.points"), shipped_quantizer()),
        np.full((len(members), 2), 100, np.float32),
        np.ones(len(members), bool),
    )
    query = np.clip(photo_points[:50] + np.random.default_rng(1).normal(0, 4, (50, 128)), 0, 255).astype(np.float32)
    nearest = level.nearest_lists(query, 8)
    before = lists.lists.nprobe
    found = lists.search(query, nearest, 1, first=1000)
    assert lists.lists.nprobe == before  # threads that search different numbers of lists share them
    points, lengths = decoded(codes, level.table.reconstruct_batch(members))
    expected = lengths - 2 * query @ points.T + (query**2).sum(axis=1)[:, None]
    there = found.image[:, 0] >= 0
    assert there.mean() > 0.9
    number = found.image[there, 0] - 1000
    np.testing.assert_allclose(found.distance[there, 0], expected[np.flatnonzero(there), number], atol=1500)
    assert (number == np.arange(50)[there]).mean() > 0.9


@pytest.mark.parametrize("counts", [{}, {3: 1}, {0: 32, 1: 33, 4095: 70}, {7: 5000, 8: 1, 9: 0}])
def test_lists_of_any_length_are_read_as_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: dict[int, int]
) -> None:
    monkeypatch.setattr("copytrace.index.point_lists.WRITTEN_AT_ONCE", 64)
    monkeypatch.setattr("copytrace.index.point_lists.POINTS_IN_MEMORY", 50)  # the others wait on disk
    random = np.random.default_rng(2)
    members = random.permutation(np.repeat(list(counts), list(counts.values())).astype(np.int64))
    codes = random.integers(0, 256, (len(members), 16), np.uint8)
    places = np.arange(len(members))
    coded = CodedPoints(shipped_quantizer().coarse, len(members))
    for half in np.array_split(places, 2):
        coded.add(members[half], codes[half], places[half])
    lists = read_lists(coded.write(tmp_path / "some.points"), shipped_quantizer())
    packer = lists.get_CodePacker()
    faiss = pytest.importorskip("faiss")
    for number, count in counts.items():
        inside = np.flatnonzero(members == number)
        assert lists.invlists.list_size(number) == count == len(inside)
        if not count:
            continue
        ids = faiss.rev_swig_ptr(lists.invlists.get_ids(number), count)
        np.testing.assert_array_equal(ids, inside)
        room = -(-count // 32) * 32
        packed = faiss.rev_swig_ptr(lists.invlists.get_codes(number), room * 16).reshape(-1, 512)
        for row in (0, count - 1):
            np.testing.assert_array_equal(packer.unpack_1(packed, row), codes[inside[row]])


@pytest.mark.parametrize("copies", [3, 8, 20, 100])
def test_of_many_points_equally_near_those_of_the_first_images_are_found(
    tmp_path: Path, photo_points: Floats, copies: int
) -> None:
    level = shipped_quantizer().coarse
    order = np.random.default_rng(2).permutation(3 * copies)  # the images in which each of three points is, mixed
    points = np.tile(photo_points[:3], (copies, 1))[order]
    coded = CodedPoints(level, len(points))
    coded.add(*level.encode(points), np.arange(len(points))[::-1] << 39)
    lists = PointLists(
        read_lists(coded.write(tmp_path / "same.points"), shipped_quantizer()),
        np.full((len(points), 2), 100, np.float32),
        np.ones(len(points), bool),
    )
    found = lists.search(photo_points[:3], level.nearest_lists(photo_points[:3], 1), 3, first=0)
    for point, images in enumerate(found.image):
        expected = np.flatnonzero((order[::-1] % 3) == point)[:3]
        np.testing.assert_array_equal(images, expected)


def test_a_shortened_file_is_damaged(tmp_path: Path, photo_points: Floats) -> None:
    level = shipped_quantizer().coarse
    coded = CodedPoints(level, len(photo_points))
    coded.add(*level.encode(photo_points), np.zeros(len(photo_points), np.int64))
    path = coded.write(tmp_path / "some.points")
    path.write_bytes(path.read_bytes()[:-256])
    with pytest.raises(InputError, match=r"some\.points is damaged; run `copytrace verify .* --repair`"):
        read_lists(path, shipped_quantizer())


def test_a_place_holds_image_variant_position_scale_and_angle(view_of: Callable[..., View]) -> None:
    keypoints = np.random.default_rng(3).uniform(1, 90, (40, 4)).astype(np.float32)
    view = view_of("a", keypoints, np.zeros((40, 128), np.uint8))
    variants = np.arange(40) % 4
    places = pack_places([view, view], np.tile(variants, 2), first=1_000_000)
    image, variant, geometry = unpack_places(places[:40] - (1_000_000 << 39), np.full((1, 2), 100, np.float32))
    assert (image == 0).all()
    np.testing.assert_array_equal(variant, variants)
    expected = view.points.relative_geometry()
    np.testing.assert_allclose(geometry[:, :2], expected[:, :2], atol=1e-3)
    np.testing.assert_allclose(geometry[:, 2], expected[:, 2], rtol=0.03)
    turn = geometry[:, 3] - expected[:, 3]
    np.testing.assert_allclose((turn + np.pi) % (2 * np.pi) - np.pi, 0, atol=0.01)
    assert (places >= 0).all()
