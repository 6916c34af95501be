from pathlib import Path

import numpy as np
import pytest

from copytrace.errors import InputError
from copytrace.exchange import npz_exchange
from copytrace.exchange.npz_exchange import export_npz, import_npz
from copytrace.exchange.npz_files import read_npz, write_npz
from copytrace.index.media_index import write_index
from copytrace.index.plan_file import IndexPlan
from copytrace.index.video_index import VideoFacts, VideoIndex
from copytrace.storage import remove_tree, resolve_path

TWO_VIDEOS = {
    "ids": ["V2", "V1", "V1"],
    "times": np.array([[0.0, 1.0], [1.0, 2.5], [0.0, 1.0]]),
    "vectors": np.float32([[0, 2], [3, 4], [1, 0]]),
}
WITH_PANES = {
    "ids": ["V1"] * 3,
    "times": np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 2.0]]),
    "vectors": np.float32([[1, 0], [0, 1], [0.6, 0.8]]),
}


def imported(folder: Path, rows: dict[str, object], name: str = "index") -> VideoIndex:
    return import_npz(write_npz(folder / f"{name}.npz", **rows), folder / name, "references", model="theirs")


def test_an_import_holds_every_row_sorted_at_unit_length(tmp_path: Path):
    frames = imported(tmp_path, TWO_VIDEOS).frames(0)
    assert frames.ids == ("V1", "V1", "V2")
    assert set(frames.panes) == {"whole"}
    np.testing.assert_array_equal(frames.times, [[0, 1], [1, 2.5], [0, 1]])
    np.testing.assert_allclose(frames.vectors, [[1, 0], [0.6, 0.8], [0, 1]], atol=1e-7)


def test_a_large_import_is_cut_into_shards_of_whole_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(npz_exchange, "ROWS_PER_SHARD", 1)
    index = imported(tmp_path, TWO_VIDEOS)
    assert [index.ids_in(shard) for shard in index.shards] == [["V1"], ["V2"]]
    np.testing.assert_allclose(index.frames(0).vectors, [[1, 0], [0.6, 0.8]], atol=1e-7)
    np.testing.assert_allclose(index.frames(1).vectors, [[0, 1]], atol=1e-7)


def test_an_import_knows_durations_and_no_sizes_and_is_of_the_model_that_the_user_names(tmp_path: Path):
    index = imported(tmp_path, TWO_VIDEOS)
    assert index.facts() == {"V1": VideoFacts(2.5, 0, 0), "V2": VideoFacts(1.0, 0, 0)}
    assert index.pane_boxes(0).num_rows == 0
    assert index.provenance["descriptor"] == "theirs, 2 numbers, imported"
    assert index.provenance["role"] == "references"


def test_rows_of_one_start_are_the_whole_frame_and_its_panes(tmp_path: Path):
    assert imported(tmp_path, WITH_PANES).frames(0).panes == ("whole", "pane0", "whole")


def test_what_is_exported_and_imported_again_is_the_same(tmp_path: Path):
    before = imported(tmp_path, WITH_PANES)
    assert export_npz(before, tmp_path / "out.npz", panes=True) == 3
    after = import_npz(tmp_path / "out.npz", tmp_path / "again", "queries", model="theirs").frames(0)
    assert (after.ids, after.panes) == (before.frames(0).ids, before.frames(0).panes)
    np.testing.assert_array_equal(after.times, before.frames(0).times)
    np.testing.assert_array_equal(after.vectors, before.frames(0).vectors)


def test_panes_are_exported_only_when_asked_for(tmp_path: Path):
    assert export_npz(imported(tmp_path, WITH_PANES), tmp_path / "out.npz", panes=False) == 2
    names, times, vectors = read_npz(tmp_path / "out.npz")
    assert names.tolist() == ["V1", "V1"]
    np.testing.assert_array_equal(times, [[0, 1], [1, 2]])
    np.testing.assert_allclose(vectors, [[1, 0], [0.6, 0.8]])


def test_a_row_without_a_direction_stays_zero(tmp_path: Path):
    rows = {"ids": ["V1"], "times": np.array([0.0]), "vectors": np.zeros((1, 2), np.float32)}
    np.testing.assert_array_equal(imported(tmp_path, rows).frames(0).vectors, [[0, 0]])


def test_an_export_of_nothing_is_refused(tmp_path: Path):
    made_with = {"kind": "videos", "role": "references", "descriptor": "theirs", "typical_noise": None}
    write_index(IndexPlan(tmp_path / "empty", made_with, {}, ()))
    with pytest.raises(InputError, match="holds no frames; index some videos first"):
        export_npz(VideoIndex.open(tmp_path / "empty"), tmp_path / "out.npz", panes=True)
    assert not (tmp_path / "out.npz").exists()


def test_an_import_of_nothing_is_refused(tmp_path: Path):
    rows = {"ids": [], "times": np.zeros(0), "vectors": np.zeros((0, 2), np.float32)}
    with pytest.raises(InputError, match="holds no rows"):
        imported(tmp_path, rows)


def test_a_row_that_stands_for_no_time_is_refused_with_its_number(tmp_path: Path):
    rows = {"ids": ["V1", "V1"], "times": np.array([[0.0, 1.0], [4.0, 4.0]]), "vectors": np.eye(2, dtype=np.float32)}
    with pytest.raises(InputError, match=r"row 2 \(V1\) ends when it starts, at 4.0"):
        imported(tmp_path, rows)


def test_an_import_never_overwrites_anything(tmp_path: Path):
    imported(tmp_path, TWO_VIDEOS)
    (tmp_path / "file").write_text("mine")
    for taken in ("index", "file"):
        with pytest.raises(InputError, match="is not an empty folder; import into a new one"):
            import_npz(tmp_path / "index.npz", tmp_path / taken, "references", model="theirs")
    assert (tmp_path / "file").read_text() == "mine"


def test_descriptors_are_exchanged_through_a_store(tmp_path: Path):
    root = resolve_path("memory://exchange")
    before = imported(root, WITH_PANES)
    assert export_npz(before, root / "out.npz", panes=True) == 3
    export_npz(before, tmp_path / "out.npz", panes=True)
    assert (root / "out.npz").read_bytes() == (tmp_path / "out.npz").read_bytes()
    with pytest.raises(InputError, match=r"memory://exchange/index is not an empty folder; import into a new one"):
        imported(root, TWO_VIDEOS)
    with pytest.raises(InputError, match=r"no such file: memory://exchange/absent\.npz"):
        read_npz(root / "absent.npz")
    remove_tree(root)
