"""Check of submissions to the Image Similarity Challenge 2021 and the Video Similarity Challenge 2022."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from copytrace.errors import InputError
from copytrace.exchange.hdf5_files import is_hdf5
from copytrace.npz_members import UNREADABLE
from copytrace.storage import local_copy
from copytrace.submissions.disc21_descriptors import check_image_descriptors
from copytrace.submissions.disc21_tables import check_image_table
from copytrace.submissions.faults import CheckedFile, Fault
from copytrace.submissions.media_lists import MediaList
from copytrace.submissions.vsc22_descriptors import CheckedDescriptors, Side, check_video_descriptors
from copytrace.submissions.vsc22_tables import check_video_table

Challenge = Literal["disc21", "vsc22"]
Kind = Literal["matching", "descriptors", "candidates", "ground-truth"]


def check_submission(
    challenge: Challenge,
    files: Sequence[Path],
    *,
    kind: Kind | None = None,
    queries: MediaList | None = None,
    references: MediaList | None = None,
) -> list[CheckedFile]:
    """Return what is wrong with the files of a submission; the content of each tells its kind, unless it is given.

    `queries` and `references` are the media that the files may name. Raises `InputError` if a file is missing, cannot
    be of that kind, or needs a package that is not installed.
    """
    checked: list[CheckedFile] = []
    descriptors: list[CheckedDescriptors] = []
    for path in files:
        if not path.is_file():
            raise InputError(f"no such file: {path}; give the files of the submission")
        with local_copy(path) as file:
            of_file = kind or recognize_kind(challenge, file)
            if of_file == "descriptors" and challenge == "vsc22":
                by_place: Side = "references" if descriptors else "queries"
                descriptors.append(check_video_descriptors(file, by_place, queries, references))
                result = descriptors[-1].file
            elif of_file == "descriptors":
                result = check_image_descriptors(file, queries, references)
            elif challenge == "vsc22":
                result = check_video_table(file, of_file, queries, references)
            elif of_file == "candidates":
                raise InputError("there are no candidates in disc21; choose --kind matching")
            else:
                result = check_image_table(file, of_file, queries, references)
        checked.append(replace(result, path=path))
    if odd := _find_odd(descriptors):
        checked[-1] = replace(checked[-1], faults=(*checked[-1].faults, *odd))
    return checked


def _find_odd(descriptors: Sequence[CheckedDescriptors]) -> list[Fault]:
    """Return the faults of files of descriptors that do not fit together."""
    odd = []
    lengths = [each.length for each in descriptors]
    if None not in lengths and len(set(lengths)) > 1:
        both = " and ".join(f"{length:,}" for length in lengths)
        odd.append(Fault(f"the descriptors of the files have {both} numbers", "describe all videos by one model"))
    if len(descriptors) > 1 and len({each.side for each in descriptors}) == 1:
        odd.append(Fault(f"all files hold {descriptors[0].side}", "give one of queries and one of references"))
    return odd


def recognize_kind(challenge: Challenge, path: Path) -> Kind:
    """Return what a file is, by its first bytes; or by its suffix, if it is damaged.

    Raises `InputError` for an archive of a whole submission.
    """
    if is_hdf5(path) or path.suffix.lower() in {".h5", ".hdf5", ".hdf"}:
        return "descriptors"
    if zipfile.is_zipfile(path) and not _has_arrays(path):
        raise InputError(f"{path} is an archive; unpack it, and give the files in it")
    if zipfile.is_zipfile(path) or path.suffix.lower() == ".npz":
        return "descriptors"
    with path.open("rb") as file:
        header = file.readline(1000).removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    names = [name.strip().strip('"') for name in header.split(",")]
    if (
        challenge == "vsc22"
        and "score" in names
        and not {"query_start", "query_end", "ref_start", "ref_end"} & set(names)
    ):
        return "candidates"
    return "matching"


def _has_arrays(path: Path) -> bool:
    try:
        return any(name.endswith(".npy") for name in _members(path))
    except UNREADABLE:
        return True  # reading the arrays tells what is wrong


def _members(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as members:
        return members.namelist()
