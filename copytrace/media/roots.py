"""Roots: the places in which media may lie, wherever a manifest or a link says that they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from urllib.parse import unquote

from fsspec.core import url_to_fs

from copytrace.storage import is_uri, real_path


def lies_within(path: str, roots: Sequence[str]) -> bool:
    """Return whether a local file or a URI lies in one of `roots`, which are folders or beginnings of URIs.

    Of a local file, where it really is counts, after all links. A URI that might lead elsewhere lies nowhere: one with
    `..`, which servers take as a step up, or with `::`, which chains stores.
    """
    place = _place(path)
    return place is not None and any(place.startswith(root) for root in map(_place, roots) if root is not None)


def _place(path: str) -> str | None:
    """Return the real path or the URI, with a slash at its end, so that one folder's name is no start of another's.

    None stands for nowhere.
    """
    if path.startswith("file://"):
        path = url_to_fs(path)[1]
    if not is_uri(path):
        try:
            return real_path(os.path.expanduser(path)).rstrip("/") + "/"  # noqa: PTH111 - also of what is no file
        except (OSError, ValueError):
            return None  # a name that no file can have
    if "::" in path or ".." in unquote(path).replace("\\", "/").split("/"):
        return None
    return path.rstrip("/") + "/"
