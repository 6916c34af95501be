"""The challenge's descriptor file: round trips, other people's variants, and what is refused."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from copytrace.errors import InputError
from copytrace.exchange.npz_files import read_npz, write_npz

IDS = ["Q2", "Q1", "Q1", "Q10"]
TIMES = np.array([[0.0, 1.0], [1.0, 2.0], [0.0, 1.0], [0.5, 0.75]])
VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3) / 7


def save(path, **changes):
    arrays = {
        "video_ids": np.array(["Q1", "Q1"]),
        "timestamps": np.array([0.0, 1.0]),
        "features": np.ones((2, 3), "f4"),
    }
    np.savez(path, **{name: value for name, value in (arrays | changes).items() if value is not None})
    return path


def test_rows_come_back_sorted_by_video_and_time(tmp_path):
    ids, times, vectors = read_npz(write_npz(tmp_path / "queries.npz", IDS, TIMES, VECTORS))
    assert ids.tolist() == ["Q1", "Q1", "Q10", "Q2"]
    assert times.tolist() == [[0.0, 1.0], [1.0, 2.0], [0.5, 0.75], [0.0, 1.0]]
    np.testing.assert_array_equal(vectors, VECTORS[[2, 1, 3, 0]])
    assert (times.dtype, vectors.dtype) == (np.float64, np.float32)


def test_the_file_has_the_challenges_arrays_and_types(tmp_path):
    with np.load(write_npz(tmp_path / "q.npz", IDS, TIMES, VECTORS.astype(np.float64)), allow_pickle=False) as arrays:
        assert arrays.files == ["video_ids", "timestamps", "features"]
        assert (arrays["video_ids"].dtype, arrays["features"].dtype) == (np.dtype("<U3"), np.float32)
        assert (arrays["timestamps"].shape, arrays["features"].shape) == ((4, 2), (4, 3))


def test_the_same_rows_in_another_order_give_the_same_bytes(tmp_path):
    first = write_npz(tmp_path / "a.npz", IDS, TIMES, VECTORS)
    second = write_npz(tmp_path / "b.npz", IDS[::-1], TIMES[::-1], VECTORS[::-1])
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_time_per_row_ends_at_the_next_later_one_of_its_video_and_the_last_after_a_second(tmp_path):
    ids = ["Q1", "Q1", "Q2", "Q1", "Q2", "Q1"]
    times = np.array([0.0, 0.5, 0.0, 2.0, 3.0, 0.5])
    path = write_npz(tmp_path / "q.npz", ids, times, np.ones((6, 2)))
    ids_read, times_read, _ = read_npz(path)
    assert ids_read.tolist() == ["Q1"] * 4 + ["Q2"] * 2
    assert times_read.tolist() == [[0.0, 0.5], [0.5, 2.0], [0.5, 2.0], [2.0, 3.0], [0.0, 3.0], [3.0, 4.0]]


def test_times_of_unsorted_files_end_within_their_own_video(tmp_path):
    path = save(tmp_path / "q.npz", video_ids=np.array(["Q2", "Q1"]), timestamps=np.array([5, 9]))
    ids, times, _ = read_npz(path)
    assert (ids.tolist(), times.tolist()) == (["Q2", "Q1"], [[5.0, 6.0], [9.0, 10.0]])


def test_integer_ids_and_half_precision_are_read(tmp_path):
    features = np.array([[0.5], [0.25]], np.float16)
    ids, _, vectors = read_npz(save(tmp_path / "q.npz", video_ids=np.array([100001, 100002]), features=features))
    assert (ids.tolist(), vectors.tolist(), vectors.dtype) == (["100001", "100002"], [[0.5], [0.25]], np.float32)


def test_a_file_without_rows_can_be_written_and_read(tmp_path):
    ids, times, vectors = read_npz(write_npz(tmp_path / "q.npz", [], np.empty((0, 2)), np.empty((0, 5), np.float32)))
    assert (ids.shape, times.shape, vectors.shape) == ((0,), (0, 2), (0, 5))
    assert read_npz(write_npz(tmp_path / "q.npz", [], np.empty(0), np.empty((0, 5))))[1].shape == (0, 2)


@pytest.mark.parametrize("name", ["video_ids", "timestamps", "features"])
def test_pickled_arrays_are_refused_and_never_opened(tmp_path, name):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").mkdir, ())

    path = save(tmp_path / "q.npz", **{name: np.array([Trap(), Trap()], dtype=object)})
    with pytest.raises(
        InputError, match=rf"{name} holds Python objects.*resave it with np\.savez\(file, video_ids=ids"
    ):
        read_npz(path)
    assert not tmp_path.joinpath("sprung").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"features": None}, "lacks the array features; its arrays are video_ids, timestamps", id="missing"
        ),
        pytest.param({"video_ids": np.array([b"Q1", b"Q1"])}, r"type \|S2, not text; resave", id="bytes"),
        pytest.param(
            {"video_ids": np.array(["Q1"])}, r"ids \(1,\), times \(2,\), vectors \(2, 3\) do not fit", id="rows"
        ),
        pytest.param({"timestamps": np.zeros((2, 3))}, r"times \(2, 3\)", id="three times"),
        pytest.param({"features": np.zeros(2, "f4")}, r"vectors \(2,\) do not fit", id="flat"),
        pytest.param({"features": np.zeros((2, 0), "f4")}, r"vectors \(2, 0\) do not fit", id="no dimensions"),
        pytest.param({"features": np.zeros((2, 3), int)}, "vectors int64 are not usable", id="integer vectors"),
        pytest.param({"timestamps": np.array(["0", "1"])}, "times <U1, .*give seconds as numbers", id="text times"),
        pytest.param({"video_ids": np.array(["Q1", ""])}, "row 2 has no video id", id="empty id"),
        pytest.param(
            {"timestamps": np.array([0, np.nan])}, r"row 2 \(Q1\) has a time that is not finite", id="NaN time"
        ),
        pytest.param({"features": np.array([[1], [np.inf]])}, r"row 2 \(Q1\) has a vector that is not", id="infinite"),
        pytest.param(
            {"timestamps": np.array([[0, 1], [3, 2]])}, r"row 2 \(Q1\) ends at 2.0 before 3.0", id="backwards"
        ),
    ],
)
def test_unusable_arrays_are_refused_with_the_row_and_the_cure(tmp_path, changes, message):
    with pytest.raises(InputError, match=rf"q\.npz.*{message}"):
        read_npz(save(tmp_path / "q.npz", **changes))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no such file: .*absent\.npz; give an \.npz file with video_ids"):
        read_npz(tmp_path / "absent.npz")


def test_files_that_are_no_npz_or_are_cut_short_are_refused(tmp_path):
    path = write_npz(tmp_path / "q.npz", IDS, TIMES, VECTORS)
    whole = path.read_bytes()
    damaged = whole.replace(VECTORS[[2]].tobytes(), bytes(12))
    for content in (b"", b"hello", whole[:100], whole[:-30], damaged):
        assert content != whole
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"unreadable \.npz file .*q\.npz.*copy it again"):
            read_npz(path)


def test_an_array_whose_header_numpy_fails_on_is_refused(tmp_path):
    path = save(tmp_path / "odd.npz")
    with zipfile.ZipFile(path) as good:
        members = {name: good.read(name) for name in good.namelist()}
    members["features.npy"] = members["features.npy"].replace(b"'shape'", b"1234567")  # a number among the keys
    with zipfile.ZipFile(path, "w") as odd:
        for name, content in members.items():
            odd.writestr(name, content)
    with pytest.raises(InputError, match=r"odd\.npz"):
        read_npz(path)


def test_what_cannot_be_read_back_is_not_written(tmp_path):
    with pytest.raises(InputError, match=r"row 1 .* vector that is not finite"):
        write_npz(tmp_path / "q.npz", ["Q1"], np.zeros(1), np.full((1, 2), np.nan))
    with pytest.raises(InputError, match="do not fit"):
        write_npz(tmp_path / "q.npz", ["Q1"], np.zeros(2), np.ones((1, 2)))
    assert list(tmp_path.iterdir()) == []
