from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from typer.testing import CliRunner

from copytrace.cli import app
from copytrace.errors import InputError
from copytrace.features.ensemble import read_projection
from copytrace.features.pca_exchange import read_sklearn_pca

VECTORS = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32) * np.float32([6, 5, 4, 3, 2, 1]) + 1


def arrays_of(pca: PCA) -> dict[str, Any]:
    names = ("mean_", "components_", "explained_variance_", "whiten")
    return {name: np.asarray(getattr(pca, name)) for name in names}


@pytest.mark.parametrize("whiten", [False, True])
def test_vectors_are_shortened_as_by_scikit_learn_to_unit_length(tmp_path: Path, whiten: bool):
    pca = PCA(3, whiten=whiten).fit(VECTORS)
    np.savez(tmp_path / "pca.npz", **arrays_of(pca))
    expected = pca.transform(VECTORS)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(read_sklearn_pca(tmp_path / "pca.npz").apply(VECTORS), expected, atol=1e-5)


class Bomb:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled_and_the_lines_that_write_the_arrays_are_told(tmp_path: Path):
    (tmp_path / "pca.pkl").write_bytes(pickle.dumps(Bomb(tmp_path / "written")))
    np.savez(tmp_path / "pca.npz", mean_=np.array([Bomb(tmp_path / "written")]), components_=np.eye(2))
    for name in ("pca.pkl", "pca.npz"):
        with pytest.raises(InputError, match=r"pca\.(pkl|npz).*numpy\.savez\(FILE, mean_=pca\."):
            read_sklearn_pca(tmp_path / name)
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"components_": np.zeros((3, 5))}, r"components_ \[3, 5\], which are not \[D\] and \[d, D\]"),
        ({"mean_": np.full(6, np.nan)}, "not finite"),
        ({"mean_": None}, "lacks the array mean_"),
        ({"mean_": np.array(["a"])}, "mean_ holds <U1, no numbers"),
        ({"whiten": True, "explained_variance_": np.ones((3, 2))}, r"explained_variance_ is not \[d\]"),
    ],
)
def test_arrays_that_are_no_pca_are_refused(tmp_path: Path, changes: dict[str, Any], message: str):
    arrays = arrays_of(PCA(3).fit(VECTORS)) | changes
    np.savez(tmp_path / "pca.npz", **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(InputError, match=message):
        read_sklearn_pca(tmp_path / "pca.npz")


def test_the_command_writes_what_descriptor_pca_reads(tmp_path: Path):
    np.savez(tmp_path / "pca.npz", **arrays_of(PCA(3).fit(VECTORS)))
    out = tmp_path / "pca.safetensors"
    result = CliRunner().invoke(app, ["import-pca", str(tmp_path / "pca.npz"), "--out", str(out)])
    assert result.output == f"{out} shortens 6 numbers to 3\n"
    np.testing.assert_array_equal(read_projection(out).components, read_sklearn_pca(tmp_path / "pca.npz").components)
