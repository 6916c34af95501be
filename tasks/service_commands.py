"""Commands of `copytrace` for the servers, plugged in by entry points."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from copytrace.errors import CopytraceError

Gpus = Annotated[int | None, typer.Option(min=1, help="How many runs share the GPUs at once; 1 if never said.")]


def setup(
    gpus: Gpus = None,
    cpus: Annotated[
        int | None, typer.Option(min=1, help="How many stages may use CPUs at once; if never said, one per core here.")
    ] = None,
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help="Also the pool whose runs are pods.")] = False,
    docker: Annotated[bool, typer.Option("--docker", help="Also the pool whose runs are Docker containers.")] = False,
) -> None:
    """Make the work pools, queues and limits on Prefect's server, and the watch over runs whose worker died."""
    from tasks.service.connection import connect_to_server  # noqa: PLC0415
    from tasks.service.setup import set_up, wanted  # noqa: PLC0415

    with connect_to_server() as client:
        steps = set_up(client, wanted(gpus=gpus, cpus=cpus, kubernetes=kubernetes, docker=docker))
        for step in steps:
            typer.echo(f"{step.verb}d {step.line}")
        if not steps:
            typer.echo(f"nothing to change at {client.api_url}")


def stack(
    folder: Annotated[Path, typer.Option(help="Where data, logs and keys lie; a next start goes on there.")] = Path(
        "stack"
    ),
) -> None:
    """Start all servers on this machine, deploy the flows, and work on their runs until Ctrl-C."""
    try:
        from tasks.service.stack import Stack, visible_gpus  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise CopytraceError(f"{error.name} is not installed: pip install 'copytrace[stack]'") from error
    for number in _ENDINGS:
        signal.signal(number, _interrupt)
    try:
        with Stack(folder, gpus=visible_gpus(), say=typer.echo) as whole:
            for name, address in whole.addresses.items():
                typer.echo(f"  {name:<11} {address}")
            typer.echo(f"  logs        {whole.logs}")
            typer.echo(f"In another terminal:\n  source {whole.folder / 'environment'}\n{_EXAMPLE}")
            whole.watch()
    except KeyboardInterrupt:
        typer.echo("stopped")


_EXAMPLE = """\
  prefect deployment run match-images/cpu --param queries=… --param references=… --param out=…
Ctrl-C stops all of it; what is stored stays."""
_ENDINGS = (signal.SIGINT, signal.SIGTERM)


def _interrupt(number: int, frame: object) -> None:
    # Once is enough: another one must not interrupt the stopping.
    for ending in _ENDINGS:
        signal.signal(ending, signal.SIG_IGN)
    typer.echo("stopping")
    raise KeyboardInterrupt
