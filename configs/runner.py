"""Where the shards of a run are worked on. No part of the settings: it changes no result, only when there is one."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from configs.settings import Settings

_ADDRESS_IS_OF_DASK: JsonDict = {
    "if": {"properties": {"address": {"type": "string"}}, "required": ["address"]},
    "then": {"properties": {"kind": {"const": "dask"}, "workers": {"const": 1}}, "required": ["kind"]},
}


class Runner(Settings):
    """What works on the shards of a run: threads of one process, or the worker processes of a Dask cluster.

    A run that one began, the other may go on with.
    """

    kind: Literal["threads", "dask"] = Field(
        "threads", description="threads: of the run's own process; dask: processes of this machine or of many"
    )
    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="shards under way at once. threads: a second one decodes while the first is on the GPU; "
        "dask: processes on this machine, among which its cores are shared out",
    )
    address: str | None = Field(
        None,
        pattern=r"^(tcp|tls|ws|wss)://.",
        description="dask: a scheduler whose workers are used instead of processes here, such as tcp://dask:8786",
    )

    # The same as the validator says, for the server, which refuses parameters before a run exists.
    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_ADDRESS_IS_OF_DASK)

    @model_validator(mode="after")
    def _address_is_of_dask(self) -> Self:
        if self.address and (self.kind != "dask" or self.workers != 1):
            raise ValueError("address is of a Dask scheduler with workers of its own; give kind: dask, and no workers")
        return self

    @classmethod
    def parse(cls, text: str) -> Runner:
        """Return what a command line asks for: `threads`, `threads:2`, `dask:4`, or the address of a scheduler.

        Raises `ValueError` (pydantic's) for anything else.
        """
        if "://" in text:
            return cls(kind="dask", address=text)
        kind, colon, workers = text.partition(":")
        return cls.model_validate({"kind": kind, "workers": workers if colon else 1})


ONE_SHARD_AT_A_TIME = Runner()
"""In one process: a stage uses all cores and the GPU by itself."""
