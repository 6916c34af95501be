"""The codebook of an index of images: the one that ships, or one's own, of which the index keeps a copy.

    INDEX/codebook.safetensors   one's own

The copy serves whatever opens the index later: searches, new segments and compaction.
"""

from __future__ import annotations

import shutil
from functools import lru_cache
from pathlib import Path

from copytrace.errors import ConfigError, InputError, ModelMismatchError
from copytrace.index.media_index import MediaIndex
from copytrace.index.point_quantizer import SHIPPED_CODEBOOK, PointQuantizer, shipped_quantizer
from copytrace.storage import atomic_path, digest_of_file, local_copy, resolve_path
from models.configs import ModelFileError
from models.point_codebook import read_point_codebook

SHIPPED = "shipped"
CODEBOOK = "codebook.safetensors"


def codebook_label(name: str) -> str:
    """Return what identifies the codebook that `local.codebook` names: "shipped", or the digest of a file.

    Raises `ConfigError` if the file is no codebook.
    """
    if name == SHIPPED:
        return SHIPPED
    path = resolve_path(name)
    try:
        with local_copy(path) as file:
            read_point_codebook(file)
            return digest_of_file(file)
    except FileNotFoundError as error:
        raise ConfigError(f"no codebook at {path}; give local.codebook=shipped, or an existing file") from error
    except ModelFileError as error:
        raise ConfigError(f"{error}; make one with copytrace train-codebook") from error


def keep_codebook(root: Path, name: str) -> None:
    """Copy the codebook that `local.codebook` names into the index at `root`, unless it is the one that ships."""
    if name == SHIPPED:
        return
    with local_copy(resolve_path(name)) as file, atomic_path(root / CODEBOOK) as temporary:
        shutil.copyfile(file, temporary)


def check_codebook(index: MediaIndex, name: str) -> None:
    """Raise `ModelMismatchError` unless `index` was made with the codebook that `local.codebook` names."""
    there, here = _label_of(index), codebook_label(name)
    if there != here:
        raise ModelMismatchError(
            f"{index.root} was made with the codebook {there}, and local.codebook names {here}; give local.codebook="
            f"{SHIPPED if there == SHIPPED else index.root / CODEBOOK}, or index into another folder"
        )


def codebook_digest(index: MediaIndex) -> str:
    """Return the digest of the codebook of an index."""
    label = _label_of(index)
    return _shipped_digest() if label == SHIPPED else label


def quantizer_of(index: MediaIndex) -> PointQuantizer:
    """Return the quantizer of an index, loaded once per process. Raises `InputError` if its codebook is damaged."""
    label = _label_of(index)
    return shipped_quantizer() if label == SHIPPED else _own_quantizer(str(index.root), label)


def _label_of(index: MediaIndex) -> str:
    label: str = index.provenance.get("codebook", SHIPPED)
    return label


@lru_cache(maxsize=2)
def _own_quantizer(root: str, digest: str) -> PointQuantizer:
    path = resolve_path(root) / CODEBOOK
    try:
        with local_copy(path) as file:
            if digest_of_file(file) == digest:
                return PointQuantizer(read_point_codebook(file))
    except (FileNotFoundError, ModelFileError):
        pass
    raise InputError(f"{path} is missing or damaged; put the codebook {digest} there, or delete {root} and index again")


@lru_cache(maxsize=1)
def _shipped_digest() -> str:
    return digest_of_file(SHIPPED_CODEBOOK)
