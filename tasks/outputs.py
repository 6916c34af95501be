"""Outputs: where a person finds what a run wrote, on the run's page."""

from __future__ import annotations

from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from copytrace.object_store import as_stored_path, redact


def uri_of(path: Path) -> str:
    """Return `file:///…` for a local path, and for a place in a store its own URI."""
    return redact(str(path)) if as_stored_path(path) else path.resolve().as_uri()


def show_outputs(out: Path, flow: str) -> None:
    """List the files that lie in the folder `out`, with how to come by them, as the artifact `FLOW-outputs`."""
    files = sorted(file.name for file in out.iterdir() if file.suffix and not file.name.startswith("."))
    folder = uri_of(out)
    if as_stored_path(out):
        # A browser opens no s3://, and a signed link would hand out access.
        lines = [f"In `{folder}/`:", *(f"- `{folder}/{name}`" for name in files)]
        lines += ["", "All of it, to this machine:", f"```\naws s3 cp --recursive {folder}/ {out.name}/\n```"]
    else:
        lines = [f"In `{out.resolve()}`:", *(f"- [{name}]({folder}/{name})" for name in files)]
    create_markdown_artifact("\n".join(lines), key=f"{flow}-outputs", description=f"What the run wrote into {folder}")
