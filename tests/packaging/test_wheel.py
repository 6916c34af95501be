"""A wheel of the checkout, installed where no checkout is, matches pictures."""

import csv
import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="setuptools is not installed")


def run(*command: object, folder: Path) -> str:
    """The command's output; the test fails with all that it said if it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the files of the checkout, outside of it: building leaves its traces where it is done."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    names = ("copytrace", "flows", "tasks", "models", "configs", "pyproject.toml", "README.md", "LICENSE", "NOTICE")
    run("cp", "-r", *(ROOT / name for name in names), source, folder=ROOT)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir", built, source,
        folder=built)  # fmt: skip
    return next(built.glob("copytrace-*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, which borrows the other packages from this one but not its Copytrace.

    A folder of links stands for site-packages: the editable install's own files would lead to the checkout.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    borrowed = folder / "borrowed"
    borrowed.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "copytrace" not in path.name.lower() and path.suffix != ".pth":
            (borrowed / path.name).symlink_to(path)
    own = next(folder.glob("lib/python*/site-packages"))
    (own / "borrowed.pth").write_text(f"{borrowed}\n")
    run(sys.executable, "-m", "pip", f"--python={folder}", "install", "-q", "--no-deps", "--no-index", "--no-compile",
        wheel, folder=folder)  # fmt: skip
    return folder


def test_the_wheel_has_weights_presets_templates_and_license(environment: Path) -> None:
    own = next(environment.glob("lib/python*/site-packages"))
    for package, pattern in (("models", "*.safetensors"), ("models", "*.json"), ("configs", "*.yaml"),
                             ("configs", "*.json"), ("copytrace", "*.j2")):  # fmt: skip
        checked_in = sorted(path.relative_to(ROOT) for path in (ROOT / package).rglob(pattern))
        assert checked_in, pattern
        assert [path for path in checked_in if not (own / path).is_file()] == []
    information = next(own.glob("copytrace-*.dist-info"))
    assert {path.name for path in (information / "licenses").iterdir()} == {"LICENSE", "NOTICE"}
    assert "License-Expression: Apache-2.0" in (information / "METADATA").read_text()


def test_the_wheel_matches_pictures_without_the_checkout(environment: Path, tmp_path: Path) -> None:
    photos = Path(next(iter(importlib.util.find_spec("skimage").submodule_search_locations))) / "data"
    (tmp_path / "uploads").mkdir()
    (tmp_path / "originals").mkdir()
    for name in ("chelsea", "coffee", "rocket"):
        source = next(photos.glob(f"{name}.*"))
        Image.open(source).convert("RGB").resize((300, 225)).save(tmp_path / "originals" / f"{name}.png")
    copy = np.asarray(Image.open(tmp_path / "originals" / "coffee.png"))[20:200, 30:270, :]
    Image.fromarray(copy).save(tmp_path / "uploads" / "mug.jpg", quality=70)

    where = run(environment / "bin/python", "-c", "import copytrace; print(copytrace.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(environment)
    run(environment / "bin/copytrace", "match-images", "uploads", "originals", "--out", "out", folder=tmp_path)

    rows = list(csv.DictReader((tmp_path / "out/matches.csv").open()))
    assert (rows[0]["query_id"], rows[0]["reference_id"]) == ("mug", "coffee")
    assert float(rows[0]["score"]) > 0.5
    assert (tmp_path / "out/report.html").is_file()
