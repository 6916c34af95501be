"""Commands of `copytrace` for the servers, added through entry points."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Annotated

import typer

from copytrace.errors import CopytraceError

Gpus = Annotated[int | None, typer.Option(min=1, help="How many runs may use the GPUs at once; initially 1.")]


def setup(
    gpus: Gpus = None,
    cpus: Annotated[
        int | None,
        typer.Option(min=1, help="How many steps may use CPUs at once; initially one per core of this machine."),
    ] = None,
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help="Also create the pool whose runs are pods.")] = False,
    docker: Annotated[
        bool, typer.Option("--docker", help="Also create the pool whose runs are Docker containers.")
    ] = False,
) -> None:
    """Create work pools, queues and limits on Prefect's server, or update them."""
    from tasks.service.connection import connect_to_server  # noqa: PLC0415
    from tasks.service.setup import required_resources, set_up  # noqa: PLC0415

    with connect_to_server() as client:
        changes = set_up(client, required_resources(gpus=gpus, cpus=cpus, kubernetes=kubernetes, docker=docker))
        for change in changes:
            typer.echo(f"{change.verb}d {change.line}")
        if not changes:
            typer.echo(f"nothing to change at {client.api_url}")


def watch(
    silence: Annotated[
        float, typer.Option(min=90, help="Seconds without a heartbeat after which a run is taken for dead.")
    ] = 90,
    begin: Annotated[float, typer.Option(min=60, help="Seconds that a run may take to begin.")] = 1800,
) -> None:
    """Find the runs whose process has died, until Ctrl-C; it runs once, beside Prefect's server."""
    import logging  # noqa: PLC0415

    from tasks.service.run_watch import RunWatch, WatchTimes  # noqa: PLC0415

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    with contextlib.suppress(KeyboardInterrupt):
        RunWatch(WatchTimes(silence=silence, begin=begin)).watch()


def stack(
    folder: Annotated[
        Path, typer.Option(help="Folder of data, logs and keys; the next start continues from it.")
    ] = Path("stack"),
) -> None:
    """Start all servers and workers on this machine and deploy the flows; run until Ctrl-C."""
    try:
        from tasks.service.stack import Stack, visible_gpus  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise CopytraceError(f"{error.name} is not installed: pip install 'copytrace[stack]'") from error
    for number in _STOP_SIGNALS:
        signal.signal(number, _interrupt)
    try:
        with Stack(folder, gpus=visible_gpus(), report=typer.echo) as running:
            for name, address in running.addresses.items():
                typer.echo(f"  {name:<11} {address}")
            secrets = running.folder / "secrets"
            typer.echo(
                f"  passwords   of the user copytrace: {secrets}/mlflow-password, and {secrets}/prefect-password,"
            )
            typer.echo("              which Prefect's UI takes as copytrace:PASSWORD")
            typer.echo(f"  logs        {running.logs}")
            typer.echo(f"In another terminal:\n  source {running.folder / 'environment'}\n{_EXAMPLE}")
            running.watch()
    except KeyboardInterrupt:
        typer.echo("stopped")


_EXAMPLE = """\
  prefect deployment run match-images/cpu --param queries=… --param references=… --param out=…
Ctrl-C stops everything; stored data stay."""
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _interrupt(number: int, frame: object) -> None:
    # A second signal must not interrupt the shutdown.
    for each in _STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    typer.echo("stopping")
    raise KeyboardInterrupt
