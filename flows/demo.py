"""Demo: the matching flows find edited copies of sample photographs and sample videos."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from copytrace.alignment.segments import box_overlaps
from copytrace.metrics.evaluation import evaluate_images, read_ground_truth, read_predictions
from copytrace.metrics.video_evaluation import evaluate_videos, read_predicted_segments, read_true_segments
from copytrace.synthesis.sample_photos import write_demo_set
from copytrace.synthesis.sample_videos import write_demo_videos
from flows.match_images import match_images
from flows.match_videos import match_videos
from flows.terminal import terminal_session

SAME_SEGMENT_IOU = 0.5


def main(out: Annotated[Path, typer.Option(help="Folder for the media and the results.")] = Path("demo")) -> None:
    """Make edited copies of real photographs and videos, match them, and print how many were found."""
    with terminal_session(logging.WARNING):
        demo_images(out / "photos", out / "results")
        demo_videos(out / "videos", out / "video-results")


def demo_images(photos: Path, results: Path) -> None:
    """Match edited copies of sample photographs."""
    truth, matches = photos / "ground_truth.csv", results / "matches.csv"
    # The ground truth is written last, so a set that has it is complete.
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


def demo_videos(videos: Path, results: Path) -> None:
    """Match videos that show parts of sample videos."""
    truth, segments = videos / "ground_truth.csv", results / "segments.csv"
    if not truth.exists():
        typer.echo("Making videos that copy parts of sample videos …")
        write_demo_videos(videos)
    typer.echo("Matching them by the flow match-videos …")
    begin = time.perf_counter()
    run = match_videos(str(videos / "queries"), str(videos / "references"), str(results))
    seconds = time.perf_counter() - begin
    found, wrong, copies = count_found_segments(truth, segments, run["settings"]["alignment"]["threshold"])
    segment_ap = evaluate_videos(truth, segments).overall.segment_ap
    counts = run["counts"]
    typer.echo(f"{counts['queries']} videos against {counts['references']} references in {seconds:.0f} s")
    typer.echo(f"Found {found} of {copies} copied segments, {wrong} wrong (segment AP {segment_ap:.3f})")
    typer.echo(f"  segments {segments}")
    typer.echo(f"  report   {results / 'report.html'}")


def count_found(truth: Path, matches: Path, threshold: float) -> tuple[int, int, int]:
    """Return how many true pairs score at least `threshold`, how many others do, and how many true pairs there are."""
    table = read_ground_truth(truth)
    true = {pair for pair in zip(table.queries, table.references, strict=True) if pair[1]}
    scored = read_predictions(matches)
    rows = zip(scored.queries, scored.references, scored.scores, strict=True)
    called = {(query, reference) for query, reference, score in rows if score >= threshold}
    return len(called & true), len(called - true), len(true)


def count_found_segments(truth: Path, segments: Path, threshold: float) -> tuple[int, int, int]:
    """Return how many true segments were found, how many predicted ones are wrong, and how many true ones there are.

    Predicted segments count if they score at least `threshold`. A true segment is found if one of its pair overlaps it
    with an IoU of at least `SAME_SEGMENT_IOU`; a predicted segment is wrong if its pair has no true segment.
    """
    true, _ = read_true_segments(truth)
    predicted = read_predicted_segments(segments)
    scores = predicted.scores if predicted.scores is not None else np.zeros(0)
    called = np.flatnonzero(scores >= threshold)
    true_pairs = list(zip(true.queries, true.references, strict=True))
    pairs = [(predicted.queries[row], predicted.references[row]) for row in called.tolist()]
    overlaps = box_overlaps(true.times, predicted.times[called])
    same = np.array([[a == b for b in pairs] for a in true_pairs], bool).reshape(overlaps.shape)
    found = ((overlaps >= SAME_SEGMENT_IOU) & same).any(axis=1)
    return int(found.sum()), sum(pair not in true_pairs for pair in pairs), len(true_pairs)


if __name__ == "__main__":
    typer.run(main)
