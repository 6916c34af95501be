"""Runners of the shards of a run; not part of the settings, since they change only the speed, not the result."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from configs.settings import Settings

_ADDRESS_NEEDS_DASK: JsonDict = {
    "if": {"properties": {"address": {"type": "string"}}, "required": ["address"]},
    "then": {"properties": {"kind": {"const": "dask"}, "workers": {"const": 1}}, "required": ["kind"]},
}


class Runner(Settings):
    """The workers of a run: threads of one process, or the processes of a Dask cluster.

    A run can be continued with another runner.
    """

    kind: Literal["threads", "dask"] = Field(
        "threads", description="threads: in the run's own process; dask: processes on one or more machines"
    )
    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="shards processed at once. threads: a second shard is decoded while the first is on the GPU; "
        "dask: processes on this machine, which share its cores",
    )
    address: str | None = Field(
        None,
        pattern=r"^(tcp|tls|ws|wss)://.",
        description="dask: address of a scheduler whose workers process the shards, such as tcp://dask:8786",
    )

    # The validator's rule as a JSON schema, so that the server refuses parameters before a run exists.
    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_ADDRESS_NEEDS_DASK)

    @model_validator(mode="after")
    def _check_address(self) -> Self:
        if self.address and (self.kind != "dask" or self.workers != 1):
            raise ValueError(
                "address names a Dask scheduler with its own workers; set kind: dask and leave workers out"
            )
        return self

    @classmethod
    def parse(cls, text: str) -> Runner:
        """Return the runner for a command line's `threads`, `threads:2`, `dask:4`, or address of a scheduler.

        Raises pydantic's `ValidationError` for any other text.
        """
        if "://" in text:
            return cls(kind="dask", address=text)
        kind, colon, workers = text.partition(":")
        return cls.model_validate({"kind": kind, "workers": workers if colon else 1})


ONE_SHARD_AT_A_TIME = Runner()
"""The default: one process, in which one shard at a time uses all cores and the GPU."""
