"""Access to S3, from the environment of the process or from a Prefect block that the environment names."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec.config
from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from copytrace import storage
from copytrace.errors import ConfigError

BLOCK = "COPYTRACE_S3_BLOCK"
"""Environment variable with the name of an `S3Access` block; without it, AWS_ACCESS_KEY_ID and the like apply."""


class S3Access(Block):
    """Endpoint and keys of an object store; the Prefect server stores the keys encrypted, and they are never logged."""

    _block_type_name = "S3 access"
    _block_type_slug = "s3-access"

    endpoint_url: str | None = Field(None, description="of a store other than Amazon's, such as http://seaweed:8333")
    region: str | None = Field(None, description="such as eu-central-1")
    access_key_id: SecretStr
    secret_access_key: SecretStr

    def open(self) -> None:
        """Use these keys for every `s3://` path of this process."""
        client = {"endpoint_url": self.endpoint_url, "region_name": self.region}
        fsspec.config.conf["s3"] = {
            "key": self.access_key_id.get_secret_value(),
            "secret": self.secret_access_key.get_secret_value(),
            "client_kwargs": {name: value for name, value in client.items() if value},
        }


def resolve_path(place: str | Path) -> Path:
    """Return the path that a parameter of a run names, after giving this process access to the store."""
    open_access()
    return storage.resolve_path(place)


def require_writable(place: str | Path) -> Path:
    """Return the path that a run writes to, after checking that it is writable; see `copytrace.storage`."""
    open_access()
    return storage.require_writable(place)


def open_access() -> None:
    """Load the keys from the block that `COPYTRACE_S3_BLOCK` names, once per process; without it, do nothing.

    Raises `ConfigError` if there is no such block.
    """
    if name := os.environ.get(BLOCK):
        _load_access(name)


@lru_cache
def _load_access(name: str) -> None:
    try:
        access: Any = S3Access.load(name)
    except ValueError as error:  # raised by Prefect if there is no such block
        raise ConfigError(
            f"{BLOCK} names {name!r}, and the Prefect server has no S3Access block of that name; "
            "make it on the server's page of blocks, of the type S3 access that `copytrace setup` adds, or give the "
            "keys in the environment"
        ) from error
    access.open()
