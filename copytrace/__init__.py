"""Copytrace finds which reference an upload was copied from and, for videos, which seconds.

import copytrace

run = copytrace.match_images("uploads/", "originals/", "out/")
run = copytrace.match_videos("uploads/", "originals/", "out/")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from copytrace.images import index_images, match_images
    from copytrace.videos import index_videos, match_videos

__all__ = ["index_images", "index_videos", "match_images", "match_videos"]


def __getattr__(name: str) -> Any:
    """Import the matching functions on first use, so that the command line starts quickly."""
    if name in __all__:
        module = "copytrace.images" if name.endswith("images") else "copytrace.videos"
        return getattr(import_module(module), name)
    raise AttributeError(f"module 'copytrace' has no attribute {name!r}")
