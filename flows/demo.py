"""The demo: edited copies of sample photographs, found again by the match-images flow."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Annotated

import typer

from copytrace.media.sample_photos import write_demo_set
from copytrace.metrics.evaluation import evaluate_images, read_ground_truth, read_predictions
from flows.match_images import match_images
from flows.terminal import at_the_terminal


def main(out: Annotated[Path, typer.Option(help="Folder for the photos and the results.")] = Path("demo")) -> None:
    """Make edited copies of real photographs, find out which photo each was made from, and say how many were found."""
    with at_the_terminal(logging.WARNING):
        photos, results = out / "photos", out / "results"
        truth, matches = photos / "ground_truth.csv", results / "matches.csv"
        # The ground truth is written last: a set that has it is whole, and its matches need no second run.
        if not truth.exists():
            typer.echo("Making edited copies of sample photographs …")
            write_demo_set(photos)
        typer.echo("Matching them by the flow match-images (Prefect starts a server of its own first) …")
        begin = time.perf_counter()
        run = match_images(str(photos / "queries"), str(photos / "references"), str(results))
        seconds = time.perf_counter() - begin
        found, wrong, copies = count_found(truth, matches, run["settings"]["merge"]["threshold"])
        micro_ap = evaluate_images(truth, matches).overall.micro_ap
    counts = run["counts"]
    typer.echo(f"{counts['queries']} queries against {counts['references']} references in {seconds:.0f} s")
    typer.echo(f"Found {found} of {copies} copies, {wrong} wrong (micro-AP {micro_ap:.3f})")
    typer.echo(f"  matches  {matches}")
    typer.echo(f"  report   {results / 'report.html'}")


def count_found(truth: Path, matches: Path, threshold: float) -> tuple[int, int, int]:
    """Return how many true pairs score at or above the threshold, how many others do, and how many pairs are true."""
    table = read_ground_truth(truth)
    true = {pair for pair in zip(table.queries, table.references, strict=True) if pair[1]}
    scored = read_predictions(matches)
    rows = zip(scored.queries, scored.references, scored.scores, strict=True)
    called = {(query, reference) for query, reference, score in rows if score >= threshold}
    return len(called & true), len(called - true), len(true)


if __name__ == "__main__":
    typer.run(main)
