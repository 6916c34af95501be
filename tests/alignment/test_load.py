"""The models of alignment: which are loaded, what a changed one does again, and what a missing one stops."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from configs.videos import AlignmentSettings, FrameDescriptorSettings, VideoSettings
from copytrace.alignment.aligners import FilteringAligner, TiledAligner, load_aligner, model_digests
from copytrace.alignment.networks import NetworkAligner, PairFilter, load_unchanged
from copytrace.alignment.segments import SimilarityMatrix
from copytrace.errors import ConfigError
from copytrace.exchange.npz_exchange import import_npz
from copytrace.exchange.npz_files import write_npz
from copytrace.run_folder import VideoRunFolder
from copytrace.storage import digest_of_file
from copytrace.videos import match_videos
from models.aligner_network import build_aligner_network
from models.configs import digest_of_network
from models.network_files import load_pair_classifier, save_aligner, save_pair_classifier
from models.pair_network import PairNetwork, build_pair_classifier

Found = tuple[list[tuple[str, str]], dict[str, Any]]
ON_TORCH = FrameDescriptorSettings(backend="torch", device="cpu")
ARCHITECTURE = "test_efficientnet"
COPY = np.eye(20, dtype=np.float32)
NO_COPY = np.random.default_rng(0).uniform(-0.3, 0.1, (20, 20)).astype(np.float32)
NOTHING_ALIKE = np.zeros((30, 40), np.float32)


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Indexes of two queries and two references of 20 s each; Q0 is R0."""
    root, rng = tmp_path_factory.mktemp("indexes"), np.random.default_rng(3)
    queries, references = rng.normal(size=(2, 2, 20, 32)).astype(np.float32)
    queries[0] = references[0]
    times = np.tile(np.stack([np.arange(20), np.arange(1, 21)], axis=1), (2, 1)).astype(np.float64)
    for role, letter, vectors in (("queries", "Q", queries), ("references", "R", references)):
        ids = [f"{letter}{number}" for number in range(2) for _ in range(20)]
        write_npz(root / f"{role}.npz", ids, times, vectors.reshape(40, 32))
    import_npz(root / "queries.npz", root / "queries", "queries", model="drawn")
    import_npz(root / "references.npz", root / "references", "references", model="drawn")
    return root / "queries", root / "references"


@pytest.fixture
def match(indexes: tuple[Path, Path], tmp_path: Path) -> Callable[..., Found]:
    """Return a function that matches the indexes, and returns the pairs with segments and what stands in run.json."""

    def run(**alignment: Any) -> Found:
        settings = VideoSettings.model_validate(
            {
                "alignment": {"pair_filter": "none"} | alignment,
                "report": {"max_matches": 0},
                "descriptor": {"backend": "torch", "device": "cpu"},
            }
        )
        match_videos(*indexes, tmp_path / "run", settings)
        with (tmp_path / "run" / "segments.csv").open(newline="") as file:
            pairs = sorted({(row["query_id"], row["ref_id"]) for row in csv.DictReader(file)})
        return pairs, json.loads((tmp_path / "run" / "run.json").read_text())

    return run


def write_aligner(path: Path, logit: float) -> Path:
    """An aligner that finds every cell equally hot."""
    network = build_aligner_network()
    nn.init.zeros_(network.head.weight)
    nn.init.constant_(network.head.bias, logit)  # type: ignore[arg-type]
    return save_aligner(network.eval(), path)


def write_filter(path: Path, threshold: float) -> Path:
    """A pair classifier with random weights, the same ones each time."""
    torch.manual_seed(0)
    return save_pair_classifier(build_pair_classifier(ARCHITECTURE).eval(), path, notes={"threshold": threshold})


def matrix(values: NDArray[np.float32]) -> SimilarityMatrix:
    rows, columns = (np.stack([np.arange(side), np.arange(1, side + 1)], axis=1).astype(float) for side in values.shape)
    return SimilarityMatrix(values, rows, columns)


def test_the_aligner_has_the_rules_that_the_settings_ask_for(tmp_path: Path) -> None:
    model = write_aligner(tmp_path / "aligner.safetensors", 0.0)
    asked = AlignmentSettings(aligner="network", model=str(model), backwards=False, max_segments=3, half_evidence=7.0)
    chosen = load_aligner(asked, ON_TORCH)
    assert isinstance(chosen, FilteringAligner)
    assert isinstance(chosen.aligner, TiledAligner) and isinstance(chosen.aligner.aligner, NetworkAligner)
    rules = chosen.aligner.aligner.rules
    assert (rules.backwards, rules.max_segments, rules.half_evidence) == (False, 3, 7.0)
    assert rules.sharpness == type(rules)().sharpness  # not asked for: what was fitted


def test_pairs_below_the_threshold_of_the_filter_are_not_aligned(tmp_path: Path) -> None:
    path = write_filter(tmp_path / "pair_classifier.safetensors", 0.0)
    chances = PairFilter(str(path), backend="torch", device="cpu").probability([matrix(COPY), matrix(NO_COPY)])
    assert chances[0] != chances[1]
    asked = AlignmentSettings(pair_filter=str(path))

    def aligned(threshold: float) -> bool:
        write_filter(path, threshold)
        return bool(load_aligner(asked, ON_TORCH).align(matrix(COPY)))

    assert aligned(float(chances[0]) - 1e-4)
    assert not aligned(float(chances[0]) + 1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (9, 2)])
def test_pairs_of_a_video_of_one_or_two_frames_are_aligned_whatever_the_filter_says(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    path = write_filter(tmp_path / "pair_classifier.safetensors", 0.9999)
    aligner = load_aligner(AlignmentSettings(aligner="hough", pair_filter=str(path)), ON_TORCH)
    assert isinstance(aligner, FilteringAligner)
    same = matrix(np.eye(*shape, dtype=np.float32))
    assert aligner.filter.probability([same])[0] < aligner.filter.threshold
    assert aligner.align(same)


@pytest.mark.parametrize("aligner", ["network", "hough"])
def test_by_default_the_filter_that_ships_keeps_a_copy_and_drops_a_pair_with_nothing_alike(aligner: str) -> None:
    chosen = load_aligner(AlignmentSettings.model_validate({"aligner": aligner}), ON_TORCH)
    assert isinstance(chosen, FilteringAligner)
    for values, kept in ((COPY, True), (NOTHING_ALIKE, False)):
        chance = float(chosen.filter.probability([matrix(values)])[0])
        assert (chance >= chosen.filter.threshold) == kept
    assert chosen.align(matrix(COPY))
    assert chosen.align(matrix(NOTHING_ALIKE)) == []


def test_without_a_filter_the_aligner_stands_alone() -> None:
    assert isinstance(load_aligner(AlignmentSettings(pair_filter="none"), ON_TORCH), TiledAligner)


def test_a_filter_drops_the_less_probable_of_two_copies_and_leaves_the_other_as_it_is(tmp_path: Path) -> None:
    pairs = [matrix(COPY), matrix(np.maximum(NO_COPY, COPY))]
    path = write_filter(tmp_path / "pair_classifier.safetensors", 0.0)
    chances = PairFilter(str(path), backend="torch", device="cpu").probability(pairs)
    write_filter(path, float(chances.mean()))
    filtering = load_aligner(AlignmentSettings(pair_filter=str(path)), ON_TORCH)
    plain = load_aligner(AlignmentSettings(pair_filter="none"), ON_TORCH)
    kept, dropped = (pairs[int(index)] for index in (chances.argmax(), chances.argmin()))
    assert filtering.align(kept) == plain.align(kept) != []
    assert filtering.align(dropped) == []
    assert plain.align(dropped) != []


def test_an_empty_matrix_has_no_segments_whatever_the_filter(tmp_path: Path) -> None:
    path = write_filter(tmp_path / "pair_classifier.safetensors", 0.0)
    filtering = load_aligner(AlignmentSettings(pair_filter=str(path)), ON_TORCH)
    assert isinstance(filtering, FilteringAligner)
    assert filtering.align(matrix(np.zeros((0, 5), np.float32))) == []


def test_only_models_that_are_used_have_a_digest(tmp_path: Path) -> None:
    aligner = write_aligner(tmp_path / "aligner.safetensors", 0.0)
    pairs = write_filter(tmp_path / "pair_classifier.safetensors", 0.5)
    folder = str(tmp_path)
    assert model_digests(AlignmentSettings(aligner="hough", model=folder, pair_filter="none")) == {}
    assert set(model_digests(AlignmentSettings())) == {"aligner", "pair_filter"}
    assert model_digests(AlignmentSettings(aligner="network", model=folder, pair_filter=folder)) == {
        "aligner": digest_of_file(aligner),
        "pair_filter": digest_of_file(pairs),
    }


def test_a_model_that_was_replaced_since_its_digest_was_taken_is_not_used(tmp_path: Path) -> None:
    path = write_filter(tmp_path / "pair_classifier.safetensors", 0.0)
    asked = AlignmentSettings(aligner="hough", pair_filter=str(path))
    digests = model_digests(asked)
    load_aligner(asked, ON_TORCH, digests)
    write_filter(path, 0.5)
    with pytest.raises(ConfigError, match="a model of the alignment was replaced while it was loaded; run the same"):
        load_aligner(asked, ON_TORCH, digests)


def test_a_network_is_not_kept_under_the_digest_of_the_file_before_it(tmp_path: Path) -> None:
    path = write_filter(tmp_path / "pair_classifier.safetensors", 0.0)
    before = digest_of_network(path)

    def load(file: Path) -> PairNetwork:
        write_filter(path, 0.5)  # as another process may, just then
        return load_pair_classifier(file)

    with pytest.raises(ConfigError, match=r"pair_classifier\.safetensors was replaced while it was read"):
        load_unchanged(path, before, load)


def test_a_run_tells_the_digests_of_its_models(match: Callable[..., Found], tmp_path: Path) -> None:
    aligner = write_aligner(tmp_path / "aligner.safetensors", 6.0)
    _, run = match(aligner="network", model=str(tmp_path))
    assert run["models"]["alignment"] == {"aligner": digest_of_file(aligner)}
    _, run = match(aligner="hough")
    assert run["models"]["alignment"] == {}


def test_a_changed_aligner_of_the_same_name_aligns_again_and_the_same_one_does_not(
    match: Callable[..., Found], tmp_path: Path
) -> None:
    model, paths = tmp_path / "aligner.safetensors", VideoRunFolder(tmp_path / "run")
    write_aligner(model, 6.0)
    hot, before = match(aligner="network", min_evidence=20.0, model=str(model))
    aligned, searched = (path.stat().st_mtime_ns for path in (paths.shard_segments(0), paths.candidates(0)))
    again, same = match(aligner="network", min_evidence=20.0, model=str(model))
    assert paths.shard_segments(0).stat().st_mtime_ns == aligned
    assert (again, same["models"]) == (hot, before["models"])
    assert ("Q0", "R0") in hot

    write_aligner(model, -6.0)
    cold, after = match(aligner="network", min_evidence=20.0, model=str(model))
    assert cold == []
    assert paths.candidates(0).stat().st_mtime_ns == searched
    assert after["models"]["alignment"] != before["models"]["alignment"]


def test_a_changed_filter_of_the_same_name_aligns_again(match: Callable[..., Found], tmp_path: Path) -> None:
    path = write_filter(tmp_path / "pair_classifier.safetensors", 0.0)
    assert ("Q0", "R0") in match(pair_filter=str(path))[0]
    write_filter(path, 1.1)
    assert match(pair_filter=str(path))[0] == []


@pytest.mark.parametrize(
    ("alignment", "told"),
    [
        ({"aligner": "network", "model": "absent"}, r"no aligner model at 'absent': there is no such file or folder"),
        ({"pair_filter": "absent"}, r"no pair-classifier model at 'absent': there is no such file or folder"),
        ({"aligner": "network", "model": "s4://absent"}, r"nothing installed serves s4:/ of the aligner model"),
    ],
)
def test_a_missing_model_stops_a_run_before_any_video_is_looked_at(
    alignment: dict[str, str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = VideoSettings.model_validate({"alignment": alignment})
    with pytest.raises(ConfigError, match=told) as refusal:
        match_videos("queries", "references", "out", settings)  # which do not exist either, and nobody has looked
    assert "\n" not in str(refusal.value)
    assert not Path("out").exists()


def test_a_damaged_model_stops_a_run_before_any_video_is_looked_at(tmp_path: Path) -> None:
    model = write_aligner(tmp_path / "aligner.safetensors", 0.0)
    model.write_bytes(model.read_bytes()[:-100])
    settings = VideoSettings.model_validate({"alignment": {"aligner": "network", "model": str(model)}})
    with pytest.raises(ConfigError, match=r"aligner\.safetensors.*set alignment\.aligner to hough"):
        match_videos("queries", "references", tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()
