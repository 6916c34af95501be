"""Scoring of pairs that are spread over many shards of references, beside the same pairs in one shard.

    python -m benchmarks.scoring [SHARDS [QUERIES]]

The references are photos under other names, one that is in pairs among others in each shard. Each query is paired with
all of the former.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from itertools import islice
from pathlib import Path

from benchmarks.evaluation_sets import choose_set
from benchmarks.results import Row, Section, show
from benchmarks.timing import fewest_seconds
from configs.images import ImageSettings
from copytrace.checked_files import record_files, write_record
from copytrace.images import index_images
from copytrace.index.image_index import ImageIndex, ShardPaths, describe_images, find_overlays, plan_images
from copytrace.index.manifest import write_manifest
from copytrace.index.media_index import finish_index
from copytrace.index.shard_files import View, write_points
from copytrace.matching.evidence import score_pairs
from copytrace.media.files import MediaItem
from copytrace.panes.names import WHOLE
from copytrace.run_folder import BRANCHES, ImageRunFolder
from copytrace.search.image_candidates import CANDIDATE_SCHEMA, Candidate
from copytrace.storage import remove_file
from copytrace.tables import table_of_rows, write_table

SHARDS, QUERIES = 20, 50
OTHERS = 63  # images of a shard that are in no pair


def measure(given: Sequence[Path], work: Path, shards: int = SHARDS, queries: int = QUERIES) -> list[Section]:
    """Score pairs of queries and references, whose references are in shards of their own, or all in one shard."""
    images = choose_set("images", given, work)
    real = ImageIndex.open(index_images(images.references, work / "real"))
    views = [view for shard in real.shards for view in real.views(shard)]
    names = [f"{number:06}" for number in range(shards)]
    paired = [replace(views[number % len(views)], id=name) for number, name in enumerate(names)]
    spread = [[view, *_others(views, view.id)] for view in paired]
    ours = _queries(images.queries, work / "queries", queries)
    runs = [
        _scoring(ours, _write_index(work / "spread", real, spread), ImageRunFolder(work / "of spread"), names),
        _scoring(ours, _write_index(work / "shared", real, [paired]), ImageRunFolder(work / "of shared"), names),
    ]
    pairs = len(ours.items) * shards
    apart, together = (1000 * seconds / pairs for seconds in fewest_seconds(runs))
    figures = {"ms a pair": apart, "in one shard": together, "ratio": apart / together}
    text = "Processor time of a pair, of which all evidence is measured; a shard has 64 images. Less is better."
    return [Section("Scoring over shards of references", text, [Row(f"{pairs:,} pairs, {shards:,} shards", figures)])]


def _others(views: Sequence[View], name: str) -> list[View]:
    return [replace(view, id=f"{name}-{number}") for number, view in enumerate((views * OTHERS)[:OTHERS])]


def _queries(pictures: Path, root: Path, count: int) -> ImageIndex:
    """Describe the first queries of a set, as one shard."""
    settings = ImageSettings()
    listed = root.with_suffix(".csv")
    paths = [path.absolute() for path in islice(sorted(pictures.iterdir()), count)]
    listed.write_text("id,path\n" + "".join(f"{path.stem},{path}\n" for path in paths), "utf-8")
    for shard in plan_images(str(listed), root, "queries", settings, replace=True):
        find_overlays(root, shard, settings)
        describe_images(root, shard, settings)
    finish_index(root, root / "failures.csv", [root], 0.0)
    return ImageIndex.open(root)


def _write_index(root: Path, real: ImageIndex, shards: Sequence[Sequence[View]]) -> ImageIndex:
    """Write an index of these views, a shard each; it has no descriptors."""
    items: dict[str, tuple[MediaItem, int]] = {}
    for number, views in enumerate(shards):
        paths = ShardPaths.of(root, number)
        with record_files(paths.receipt):
            write_points(paths.points, paths.views, views)
        items |= {view.id: (MediaItem(view.id, f"/{view.id}", "1-1"), number) for view in views}
    write_record(root / "index.json", real.provenance)
    write_manifest(root, items, dict.fromkeys(range(len(shards)), "made"))
    return ImageIndex.open(root)


def _scoring(
    queries: ImageIndex, references: ImageIndex, folder: ImageRunFolder, paired: Sequence[str]
) -> Callable[[], object]:
    """Propose all pairs of queries and `paired` references, and return a function that scores them."""
    (shard,) = queries.shards
    rows = [Candidate(query, name, "local", 20.0, None, WHOLE, 0) for query in queries.ids_in(shard) for name in paired]
    for branch in BRANCHES:
        of_branch = [astuple(row) for row in rows if row.branch == branch]
        write_table(folder.candidates(branch, shard), table_of_rows(of_branch, CANDIDATE_SCHEMA))

    def score() -> None:
        remove_file(folder.evidence(shard))
        score_pairs(shard, queries.root, references.root, folder, ImageSettings())

    return score


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        show(*measure([], Path(place), *map(int, sys.argv[1:])))
