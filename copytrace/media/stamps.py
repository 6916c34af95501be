"""What files are known by: a stamp that is cheap to read, and a digest of their content.

The stamp of a local file has its size, its times of modification and of status change, and its inode. Programs may set
the former time, but not the latter, so that a file that was replaced has another stamp, whatever was done to its times.
A stamp may also change though the content does not, as in a copied folder; then the content decides.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from copytrace.object_store import object_version
from copytrace.storage import is_uri

DIGEST_BYTES = 16  # of a content's digest: enough that no two files among billions share one by chance

MOST_HOLES = 1 << 30  # bytes without room on the disk; a file with more is not read whole, which may take hours

_LOCAL = re.compile(r"(?P<size_and_time>\d+--?\d+)--?\d+-(?P<inode>\d+)")
_OF_S3 = ("s3", "s3a")


def stamp_of_status(status: os.stat_result) -> str:
    """Return the stamp of a local file: size, times of modification and of status change (nanoseconds), inode."""
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"


def stamp_of_object(detail: Mapping[str, Any]) -> str:
    """Return the stamp of an object from a store's `info`: its size, and its ETag or its time of modification."""
    return f"{detail.get('size')}-{object_version(detail).strip(chr(34))}"


def size_and_time(stamp: str) -> str:
    """Return the size and the time of modification in a local file's stamp; any other stamp is returned as it is.

    The stamps of Copytrace 0.1.0 consisted of these two.
    """
    match = _LOCAL.fullmatch(stamp)
    return match["size_and_time"] if match else stamp


def inode_in(stamp: str) -> str:
    """Return the inode in a local file's stamp; "" if there is none in it."""
    match = _LOCAL.fullmatch(stamp)
    return match["inode"] if match else ""


def content_of_object(uri: str, detail: Mapping[str, Any]) -> str:
    """Return what tells the content of an object in S3, its size and ETag; "" for other stores."""
    # Other stores may make an ETag of time and place.
    etag = str(detail.get("ETag") or "").strip('"')
    return f"etag-{detail.get('size')}-{etag}" if etag and uri.partition("://")[0] in _OF_S3 else ""


def digest_of_content(path: str) -> str:
    """Return a digest of all bytes of a local file, or "" if its content is not to be known.

    That holds for a URI, for what cannot be read or is no regular file, such as a pipe, which may be waited for without
    end, and for a file with more than `MOST_HOLES` bytes of holes.
    """
    if is_uri(path):
        return ""
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode) or not status.st_size:  # some files of the kernel have no size, and no end
            return ""
        with Path(path).open("rb") as file:
            if status.st_size - stored_bytes(file.fileno()) > MOST_HOLES:
                return ""
            return hashlib.file_digest(file, "sha256").hexdigest()[: 2 * DIGEST_BYTES]
    except (OSError, ValueError):  # ValueError: a null byte in the path
        return ""


def stored_bytes(descriptor: int) -> int:
    """Return how many bytes of an open local file take room on its disk; its holes take none, and read as zeros."""
    status = os.fstat(descriptor)
    if blocks := getattr(status, "st_blocks", 0):
        return min(status.st_size, 512 * blocks)
    # Some file systems tell no blocks, and some keep small files elsewhere.
    is_hole = False
    if hasattr(os, "SEEK_DATA"):
        before = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            os.lseek(descriptor, 0, os.SEEK_DATA)
        except OSError as error:
            is_hole = error.errno == errno.ENXIO
        os.lseek(descriptor, before, os.SEEK_SET)
    return 0 if is_hole else status.st_size
