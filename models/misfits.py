"""What is wrong with the tensors of a file for a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def misfits(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Return what is wrong with the tensors of a file, each as in "it lacks head.weight"; nothing if they fit."""
    return [
        *(f"lacks {name}" for name in sorted(expected.keys() - found.keys())),
        *(f"has {name}, unknown there" for name in sorted(found.keys() - expected.keys())),
        *(
            f"has {name} of shape {list(found[name].shape)} instead of {list(expected[name].shape)}"
            for name in sorted(expected.keys() & found.keys())
            if found[name].shape != expected[name].shape
        ),
    ]


def first_of(wrong: Sequence[str]) -> str:
    """Return the first of several faults, and how many more there are."""
    return f"{wrong[0]} (and {len(wrong) - 1} more)" if len(wrong) > 1 else wrong[0]
