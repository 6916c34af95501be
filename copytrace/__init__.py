"""Copytrace finds copies: which reference an upload was taken from.

import copytrace

run = copytrace.match_images("uploads/", "originals/", "out/")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from copytrace.image_matching import index_images, match_images

__all__ = ["index_images", "match_images"]


def __getattr__(name: str) -> Any:
    """Import the matching machinery only when it is asked for: the command line must start at once."""
    if name in __all__:
        from copytrace import image_matching  # noqa: PLC0415

        return getattr(image_matching, name)
    raise AttributeError(f"module 'copytrace' has no attribute {name!r}")
