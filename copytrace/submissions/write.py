"""The matches of a run as a table of the challenges: `query_id,reference_id,score` of images, or segments of videos."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from copytrace.checked_files import read_checked
from copytrace.errors import InputError
from copytrace.run_folder import ImageRunFolder, VideoRunFolder
from copytrace.submissions.disc21_tables import HEADERS, MOST_MATCHES
from copytrace.submissions.vsc22_tables import COLUMNS
from copytrace.tables import write_csv


def write_matches(run: Path, path: Path) -> tuple[str, int]:
    """Write the matches of a finished run of images or of videos, best first; return the challenge and the rows.

    Of images, the 500,000 best are written. Raises `InputError` if there is no such run, and `DamagedFileError` if its
    matches are damaged.
    """
    images, videos = ImageRunFolder(run), VideoRunFolder(run)
    if images.matches.is_file():
        challenge, table = "disc21", _read(images.matches, images.merged, HEADERS["matching"].split(","))
        table = table.slice(0, MOST_MATCHES)
    elif videos.segments.is_file():
        challenge, table = "vsc22", _read(videos.segments, videos.merged, COLUMNS["matching"])
    else:
        raise InputError(f"{run} holds no matches; give the output folder of match-images or match-videos")
    try:
        write_csv(path, table, quoted=False)  # isc2021 takes quotes for a part of an id
    except pa.ArrowInvalid as error:
        raise InputError(
            f"an id in {run} has a comma, a quote or a line end; rename that file, and match again"
        ) from error
    return challenge, table.num_rows


def _read(path: Path, record: Path, columns: list[str] | tuple[str, ...]) -> pa.Table:
    return read_checked(path, record, columns=list(columns)).select(list(columns))
