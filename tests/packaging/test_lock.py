"""What locks/ promises: every dependency at one version, with hashes, from no named place, under an allowed license."""

import re
import tomllib
from importlib.metadata import distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.licenses import KNOWN_GPL_LIBRARIES, LIST, gpl_libraries_in, is_refused, license_of
from tools.locks import FOLDER, SETS, read_lock, version_of

ROOT = FOLDER.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = sorted(path for path in FOLDER.glob("*.txt") if path.stem != "held")


def required_by(extras: set[str]) -> list[Requirement]:
    """The project's own requirements with these extras, and with those that they name in turn."""
    optional = PROJECT["project"]["optional-dependencies"]
    entries = [Requirement(entry) for extra in extras for entry in optional[extra]]
    nested = {extra for entry in entries if entry.name == "copytrace" for extra in entry.extras}
    own = [entry for entry in entries if entry.name != "copytrace"]
    return own + (required_by(nested) if nested else [Requirement(e) for e in PROJECT["project"]["dependencies"]])


@pytest.mark.parametrize("name", SETS)
def test_every_dependency_is_locked_within_its_range(name: str) -> None:
    locked = read_lock(FOLDER / f"{name}.txt")
    required = required_by(set(name.split("-")))
    assert {"numpy", "psycopg"} <= {entry.name for entry in required}
    for entry in required + [Requirement(e) for e in PROJECT["build-system"]["requires"]]:
        found = locked[canonicalize_name(entry.name)]
        assert entry.specifier.contains(version_of(found)), f"{found} is outside of {entry}: run `make lock`"


def test_all_sets_have_the_same_versions() -> None:
    locks = [read_lock(FOLDER / f"{name}.txt") for name in SETS]
    for lock in locks[1:]:
        assert {n: str(lock[n]) for n in lock if n in locks[0]} == {n: str(locks[0][n]) for n in locks[0] if n in lock}


@pytest.mark.parametrize("name", SETS)
def test_packages_that_share_an_import_name_are_never_locked_together(name: str) -> None:
    locked = read_lock(FOLDER / f"{name}.txt")
    assert len(locked.keys() & {"faiss-cpu", "faiss-gpu"}) == 1
    assert len(locked.keys() & {"onnxruntime", "onnxruntime-gpu"}) == 1


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_names_no_place_to_take_packages_from(path: Path) -> None:
    assert not re.search(r"://|--(extra-)?index|--find-links|\s@\s|-e ", path.read_text())


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("name", SETS)
def test_a_lock_is_for_every_python_from_3_11_to_3_13(name: str, python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux",
                   "platform_machine": "x86_64", "platform_python_implementation": "CPython",
                   "implementation_name": "cpython"}  # fmt: skip
    locked = read_lock(FOLDER / f"{name}.txt")
    installed = {n for n, entry in locked.items() if not entry.marker or entry.marker.evaluate(environment)}
    assert {canonicalize_name(entry.name) for entry in required_by(set(name.split("-")))} <= installed


def test_what_is_installed_is_what_is_locked(pytestconfig: pytest.Config) -> None:
    markers = list((ROOT / ".venv").glob(".installed-*"))
    if not markers:
        pytest.skip("there is no .venv here that `make install` made")
    if not Path(pytest.__file__).is_relative_to(ROOT / ".venv"):
        pytest.skip("this Python is not that of .venv")
    lock = FOLDER / f"{markers[0].name.removeprefix('.installed-').replace(',', '-')}.txt"
    due = {n: entry for n, entry in read_lock(lock).items() if not entry.marker or entry.marker.evaluate()}
    assert {n: version(n) for n in due} == {n: version_of(entry) for n, entry in due.items()}


def test_nothing_installed_is_under_the_gpl() -> None:
    locked = {name for lock in SETS for name in read_lock(FOLDER / f"{lock}.txt")} - {
        "text-unidecode"
    }  # a choice of two
    here = [package for package in distributions() if canonicalize_name(package.name) in locked]
    assert len(here) > 100
    assert [package.name for package in here if is_refused(license_of(package) or "none")] == []
    assert {p.name: found for p in here if (found := gpl_libraries_in(p))} == KNOWN_GPL_LIBRARIES
    assert all(library in (ROOT / "NOTICE").read_text() for library in ("x264", "x265"))


@pytest.mark.parametrize(
    ("license_", "refused"),
    [
        ("GPL-3.0-or-later", True),
        ("GNU Affero General Public License v3", True),
        ("MIT AND AGPL-3.0-only", True),
        ("LGPL-3.0-only", False),
        ("Artistic-1.0-Perl OR GPL-2.0-or-later", False),
        ("GPL-2.0-only OR AGPL-3.0-only", True),
    ],
)
def test_gpl_is_refused_where_there_is_no_other_choice(license_: str, refused: bool) -> None:
    assert is_refused(license_) is refused


def test_the_list_of_licenses_is_that_of_the_locks() -> None:
    rows = re.findall(r"^\| (\S+) \| (\S+) \| \S.* \|$", LIST.read_text(), flags=re.MULTILINE)
    listed = {name: number for name, number in rows if name != "package"}
    locked = {name: version_of(e) for lock in SETS for name, e in read_lock(FOLDER / f"{lock}.txt").items()}
    assert listed == locked, "run `make licenses`"


def test_every_weight_and_figure_that_ships_is_in_the_notice() -> None:
    notice = (ROOT / "NOTICE").read_text()
    shipped = [*(ROOT / "models/weights").iterdir(), *(ROOT / "docs").glob("*.png")]
    assert [path.name for path in shipped if path.name != "README.md" and path.name not in notice] == []
