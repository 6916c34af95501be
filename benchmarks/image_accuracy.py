"""Accuracy of image matching, of each of its branches, and of a perceptual hash, in one run.

python -m benchmarks.image_accuracy [QUERIES REFERENCES GROUND_TRUTH.csv]     default: edited sample photographs
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from rich.console import Console
from rich.table import Table

from configs.images import ImageSettings
from configs.load import load_settings
from copytrace.cli.progress import TerminalProgress
from copytrace.images import match_images
from copytrace.media.files import list_media
from copytrace.metrics.evaluation import evaluate_images
from copytrace.run_folder import BRANCHES, ImageRunFolder
from copytrace.training.sample_photos import write_demo_set

Row = tuple[str, str, float, float, float, float]


def main() -> None:
    """Print micro-AP, recall at 90 % precision, recall at rank 1 and the share of true pairs proposed, per method."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if len(sys.argv) == 4:
            queries, references, truth = (Path(argument) for argument in sys.argv[1:])
        else:
            demo = write_demo_set(work / "demo")
            queries, references, truth = demo / "queries", demo / "references", demo / "ground_truth.csv"
        table = Table("method", "micro-AP", "R@P90", "top-1", "candidates", "seconds")
        table.caption = "candidates: share of the true pairs that are proposed"
        for name, *figures, seconds in [
            *_ours(queries, references, truth, work),
            _hashes(queries, references, truth, work),
        ]:
            table.add_row(
                name, *(f"{figure:.3f}" for figure in figures), "" if math.isnan(seconds) else f"{seconds:.0f}"
            )
        Console().print(table)


def _ours(queries: Path, references: Path, truth: Path, work: Path) -> Iterator[Row]:
    for preset in ("cpu", "imgfp"):
        out = work / preset
        begin = time.perf_counter()
        match_images(
            queries,
            references,
            out,
            load_settings(ImageSettings, preset, None, ["report.max_matches=0"]),
            TerminalProgress(),
        )
        seconds = time.perf_counter() - begin
        yield _row(f"copytrace --preset {preset}", ImageRunFolder(out).matches, truth, seconds)
        for branch in BRANCHES:
            files = sorted(ImageRunFolder(out).candidates(branch, 0).parent.glob("*.parquet"))
            candidates = pd.concat([pd.read_parquet(file) for file in files])
            score = candidates["normalized"] if branch == "global" else candidates["score"]
            yield _row(f"  {branch} branch alone", _save(candidates.assign(score=score), work), truth, float("nan"))


def _hashes(queries: Path, references: Path, truth: Path, work: Path) -> Row:
    """Return the row of the 64-bit perceptual hash that most tools use; pairs are ranked by differing bits."""
    begin = time.perf_counter()
    ids, bits = zip(*((item.id, _phash(item.path)) for item in list_media(references)), strict=True)
    rows = []
    for query in list_media(queries):
        differing = (np.stack(bits) != _phash(query.path)).sum(axis=1)
        rows += [(query.id, ids[n], -float(differing[n])) for n in np.argsort(differing, kind="stable")[:10]]
    found = pd.DataFrame(rows, columns=["query_id", "reference_id", "score"])
    return _row("pHash", _save(found, work), truth, time.perf_counter() - begin)


def _phash(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return imagehash.phash(image.convert("RGB")).hash.ravel()


def _save(found: pd.DataFrame, work: Path) -> Path:
    path = work / "predictions.parquet"
    found[["query_id", "reference_id", "score"]].to_parquet(path, index=False)
    return path


def _row(name: str, predictions: Path, truth: Path, seconds: float) -> Row:
    overall = evaluate_images(truth, predictions).overall
    answers = pd.read_csv(truth, dtype=str).dropna(subset="reference_id")[["query_id", "reference_id"]]
    proposed = pd.read_parquet(predictions)[["query_id", "reference_id"]].drop_duplicates()
    share = len(answers.merge(proposed)) / len(answers)
    return name, overall.micro_ap, overall.recall_at_p90 or 0.0, overall.rank1, share, seconds


if __name__ == "__main__":
    main()
