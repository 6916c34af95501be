"""Roots: the places in which media may lie, wherever a manifest or a link says that they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from copytrace.media.failures import Failure
from copytrace.media.files import Listing
from copytrace.media.folders import LIST
from copytrace.storage import is_uri, real_path


def confine(listing: Listing, roots: Sequence[str]) -> Listing:
    """Return a listing without the items that lie outside of all `roots`; they are listed as unreadable.

    A root is a folder or the beginning of a URI. Of a local file, where it really is counts, after all links. Without
    roots, nothing is left out.
    """
    if not roots:
        return listing
    places = [_place(root) for root in roots]
    inside = [any(_place(item.path).startswith(place) for place in places) for item in listing.items]
    refused = [
        Failure(item.id, item.path, LIST, "it lies outside of media.roots; move it there, or add its folder to them")
        for item, is_inside in zip(listing.items, inside, strict=True)
        if not is_inside
    ]
    kept = [item for item, is_inside in zip(listing.items, inside, strict=True) if is_inside]
    return replace(listing, items=kept, unreadable=[*listing.unreadable, *refused])


def _place(path: str) -> str:
    """Return the real path or the URI, with a slash at its end, so that one folder's name is no start of another's."""
    real = path if is_uri(path) else real_path(os.path.expanduser(path))  # noqa: PTH111 - also of what is no file
    return real.rstrip("/") + "/"
