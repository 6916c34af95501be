from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from copytrace.index.shard_files import ROWS_PER_GROUP, open_descriptor_writer, table_vectors


def test_what_was_added_bit_by_bit_is_read_back_in_order(tmp_path: Path):
    path = tmp_path / "made" / "00000.parquet"
    with open_descriptor_writer(path, 2) as writer:
        writer.add(["V1", "V1"], ["whole", "pane0"], np.float32([[1, 0], [0, 1]]), np.array([[0, 1], [0, 1.5]]))
        writer.add(["V2"], ["whole"], np.float32([[0.6, 0.8]]), np.array([[2.0, 3.0]]))
    table = pq.read_table(path)
    assert table.select(["id", "pane", "start", "end"]).to_pylist() == [
        {"id": "V1", "pane": "whole", "start": 0.0, "end": 1.0},
        {"id": "V1", "pane": "pane0", "start": 0.0, "end": 1.5},
        {"id": "V2", "pane": "whole", "start": 2.0, "end": 3.0},
    ]
    vectors = table_vectors(table)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, np.float32([[1, 0], [0, 1], [0.6, 0.8]]))


def test_images_have_no_times(tmp_path: Path):
    with open_descriptor_writer(tmp_path / "images", 1) as writer:
        writer.add(["a.jpg"], ["whole"], np.ones((1, 1), np.float32))
    row = pq.read_table(tmp_path / "images").to_pylist()[0]
    assert (row["start"], row["end"]) == (None, None)


def test_a_file_without_rows_has_vectors_of_the_right_length(tmp_path: Path):
    with open_descriptor_writer(tmp_path / "empty", 5):
        pass
    assert table_vectors(pq.read_table(tmp_path / "empty")).shape == (0, 5)


def test_vectors_of_part_of_a_table_are_those_of_its_rows(tmp_path: Path):
    with open_descriptor_writer(tmp_path / "file", 2) as writer:
        writer.add(["a", "b", "c"], ["whole"] * 3, np.arange(6, dtype=np.float32).reshape(3, 2))
    table = pq.read_table(tmp_path / "file")
    np.testing.assert_array_equal(table_vectors(table.slice(1, 1)), [[2, 3]])
    np.testing.assert_array_equal(table_vectors(table.filter([True, False, True])), [[0, 1], [4, 5]])


def test_strided_vectors_and_times_are_written_as_they_look(tmp_path: Path):
    numbers = np.arange(12, dtype=np.float32).reshape(3, 4)
    times = np.arange(6, dtype=np.float64).reshape(2, 3).T
    with open_descriptor_writer(tmp_path / "file", 2) as writer:
        writer.add(["a"] * 3, ["whole"] * 3, numbers[:, ::2], times)
    table = pq.read_table(tmp_path / "file")
    np.testing.assert_array_equal(table_vectors(table), [[0, 2], [4, 6], [8, 10]])
    assert table.column("start").to_pylist() == [0, 1, 2]
    assert table.column("end").to_pylist() == [3, 4, 5]


def test_many_small_parts_become_few_row_groups(tmp_path: Path):
    with open_descriptor_writer(tmp_path / "file", 1) as writer:
        for number in range(2 * ROWS_PER_GROUP // 512 + 1):
            writer.add([f"V{number}"] * 512, ["whole"] * 512, np.full((512, 1), number, np.float32))
    metadata = pq.read_metadata(tmp_path / "file")
    groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert groups == [ROWS_PER_GROUP, ROWS_PER_GROUP, 512]


@pytest.mark.parametrize("shape", [(1, 8), (2, 3), (3, 4), (8,)])
def test_vectors_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]):
    with (
        pytest.raises(ValueError, match=r"\[2, 4\] is needed"),
        open_descriptor_writer(tmp_path / "file", 4) as writer,
    ):
        writer.add(["a", "b"], ["whole"] * 2, np.zeros(shape, np.float32))


def test_an_exception_leaves_neither_a_file_nor_a_part_of_one(tmp_path: Path):
    with pytest.raises(KeyError), open_descriptor_writer(tmp_path / "file", 1) as writer:
        writer.add(["a"], ["whole"], np.ones((1, 1), np.float32))
        raise KeyError("broken off")
    assert list(tmp_path.iterdir()) == []
