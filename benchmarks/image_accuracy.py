"""Accuracy of image matching, of each of its branches, and of a perceptual hash; and what the run cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pandas as pd
from PIL import Image

from benchmarks.evaluation_sets import EvaluationSet, choose_set
from benchmarks.results import Row, Section
from configs.images import ImageSettings
from configs.load import load_settings
from copytrace.images import match_images
from copytrace.media.files import list_media
from copytrace.metrics.evaluation import evaluate_images
from copytrace.run_folder import BRANCHES, ImageRunFolder


def measure(given: Sequence[Path], work: Path) -> list[Section]:
    """Match a set of images, and return the accuracy of all methods and the cost of the run."""
    images = choose_set("images", given, work)
    settings = load_settings(ImageSettings, overrides=["report.max_matches=0"])
    run = match_images(images.queries, images.references, work / "out", settings)
    folder = ImageRunFolder(work / "out")
    counts = run["counts"]
    text = (
        f"{counts['queries']:,} queries and {counts['references']:,} references ({images.name}). *Candidates*: the "
        "share of the true pairs that are proposed at all."
    )
    rows = [_row("Copytrace", folder.matches, images), *_branches(folder, images, work), _hashes(images, work)]
    return [Section("Accuracy of image matching", text, rows), cost_of(run, "images")]


def cost_of(run: Mapping[str, Any], medium: str) -> Section:
    """Return the section of what each stage of a run cost, from its summary."""
    rows = [
        Row(name, {"count": cost["count"], "seconds": cost["seconds"], "peak memory, MiB": cost["peak_memory_mib"]})
        for name, cost in run["stages"].items()
        if cost["seconds"] >= 0.05
    ]
    text = "Wall time, on all cores; the memory is the largest of the whole process so far."
    return Section(f"Cost of the stages of the run of {medium} above", text, rows)


def _branches(folder: ImageRunFolder, images: EvaluationSet, work: Path) -> Iterator[Row]:
    for branch in BRANCHES:
        files = sorted(folder.candidates(branch, 0).parent.glob("*.parquet"))
        candidates = pd.concat([pd.read_parquet(file) for file in files])
        score = candidates["normalized"] if branch == "global" else candidates["score"]
        yield _row(f"its {branch} branch alone", _save(candidates.assign(score=score), work), images)


def _hashes(images: EvaluationSet, work: Path) -> Row:
    """Return the row of the 64-bit perceptual hash that most tools use; pairs are ranked by differing bits."""
    ids, bits = zip(*((item.id, _phash(item.path)) for item in list_media(images.references)), strict=True)
    rows = []
    for query in list_media(images.queries):
        differing = (np.stack(bits) != _phash(query.path)).sum(axis=1)
        rows += [(query.id, ids[n], -float(differing[n])) for n in np.argsort(differing, kind="stable")[:10]]
    return _row("pHash", _save(pd.DataFrame(rows, columns=["query_id", "reference_id", "score"]), work), images)


def _phash(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return imagehash.phash(image.convert("RGB")).hash.ravel()


def _save(found: pd.DataFrame, work: Path) -> Path:
    path = work / "predictions.parquet"
    found[["query_id", "reference_id", "score"]].to_parquet(path, index=False)
    return path


def _row(name: str, predictions: Path, images: EvaluationSet) -> Row:
    overall = evaluate_images(images.truth, predictions).overall
    answers = pd.read_csv(images.truth, dtype=str).dropna(subset="reference_id")[["query_id", "reference_id"]]
    proposed = pd.read_parquet(predictions)[["query_id", "reference_id"]].drop_duplicates()
    figures = {
        "micro-AP": overall.micro_ap,
        "recall at 90 % precision": overall.recall_at_p90 or 0.0,
        "right one first": overall.rank1,
        "candidates": len(answers.merge(proposed)) / len(answers),
    }
    return Row(name, figures)
