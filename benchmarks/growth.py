"""Cost of a query, and what is still found, as an index of images grows.

The references stand among synthetic images, whose points and descriptors are distributed as those of the references;
their codes are drawn straight into the lists of segments. Each size is searched by the three branches in a process of
its own, measured from its start, imports included. Then `copytrace match-images` matches one upload from a new process;
for it, the synthetic images of the shards that it needs get points, as drawn as their codes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import faiss
import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.evaluation_sets import choose_set
from benchmarks.results import Row, Section
from benchmarks.timing import cpu_seconds
from configs.images import ImageSettings
from copytrace.checked_files import checksums_by, read_record, record_files, write_record
from copytrace.checksums import collect_checksums
from copytrace.features.points import DIMENSIONS, Points
from copytrace.features.thumbnails import BYTES
from copytrace.images import index_images
from copytrace.index import image_segments
from copytrace.index.image_index import ImageIndex, ShardPaths, describe_images, find_overlays, plan_images
from copytrace.index.image_segments import IMAGE_SCHEMA, index_segments
from copytrace.index.manifest import MANIFEST_SCHEMA, STATES_KEY
from copytrace.index.media_index import finish_index
from copytrace.index.point_lists import CodedPoints
from copytrace.index.point_places import IMAGE_SHIFT
from copytrace.index.point_quantizer import ListLevel, shipped_quantizer
from copytrace.index.shard_files import View, write_points, write_thumbnails
from copytrace.memory import peak_memory_mib
from copytrace.run_folder import BRANCHES, ImageRunFolder
from copytrace.search.image_candidates import recall_images
from copytrace.storage import atomic_path, digest_of
from copytrace.tables import read_table, write_table

SHARD, SEGMENT = 256, 1_600_000  # synthetic images of a shard and of a segment
DRAWN = 1 << 13  # images whose points are drawn at once
CHANGED = 0.5  # share of the bytes of a real point's code that differ in a synthetic one
WARM = 20  # queries
SIZES, POINTS = (10_000, 100_000, 1_000_000), 300  # images in all, and points of a synthetic one


def measure(given: Sequence[Path], work: Path) -> list[Section]:
    """Make an index of each size and search it; `growth.png` beside this file shows the figures."""
    images = choose_set("images", given, work)
    real = index_images(images.references, work / "real")
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        root = grow(real, work / str(size), size, POINTS)
        held = sum(file.stat().st_size for file in [*(root / "segments").iterdir(), root / "manifest.parquet"])
        arguments = [str(root), str(images.queries), str(images.truth), str(time.time())]
        command = [sys.executable, "-m", "benchmarks.growth", *arguments]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        matched = _match(next(images.queries.glob(f"{_copies(images.truth).query_id.iloc[0]}.*")), real, root)
        rows.append({"images": size, "bytes per image": held / size, **json.loads(answer), **matched})
        shutil.rmtree(root)
    _plot(pd.DataFrame(rows), Path(__file__).with_name("growth.png"))
    sizes, costs = np.log([[row["images"], row["core-seconds, warm"]] for row in rows]).T
    exponent = np.polyfit(sizes, costs, 1)[0]
    text = (
        f"A query costs the number of references to the power of {exponent:.2f}. *Cold*: the first query of a process, "
        f"from its start; *warm*: later ones. *One upload*: `copytrace match-images`, from its "
        f"start, the second time. The references stand among synthetic images of {POINTS} points. "
        "![Growth](growth.png)"
    )
    return [Section("Growth of an index of images", text, [Row(f"{row.pop('images'):,} images", row) for row in rows])]


def search(root: Path, queries: Path, ground_truth: Path, started: float) -> None:
    """Print as JSON what the copies among the queries cost, the first one in this new process and then the others."""
    faiss.omp_set_num_threads(1)
    truth = _copies(ground_truth).head(WARM + 1)
    files = {file.stem: file for file in sorted(queries.iterdir())}
    found, before = _search([files[truth.query_id.iloc[0]]], root), time.time() - started
    cold = time.process_time()
    others = _search([files[name] for name in truth.query_id.iloc[1:]], root)
    warm = (time.process_time() - cold) / (len(truth) - 1)
    best = pd.concat([found, others]).merge(truth[["query_id", "reference_id"]])
    answer = {
        "core-seconds, cold": cold,
        "seconds, cold": before,
        "core-seconds, warm": warm,
        "MiB with mapped files": peak_memory_mib(),
        "MiB of its own": _own_memory() / 1024,
        "true ones among ten": best[best["rank"] <= 10].query_id.nunique() / len(truth),
        "among ten by points": best[(best["rank"] <= 10) & (best.branch != "global")].query_id.nunique() / len(truth),
    }
    print(json.dumps(answer))


def grow(real: Path, root: Path, images: int, points: int) -> Path:
    """Write an index of `images` at `root`: those of the index `real`, and synthetic ones."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(real, root, ignore=shutil.ignore_patterns("segments"))
    index = ImageIndex.open(root)
    level = shipped_quantizer().fine if images * points >= image_segments.FINE_FROM else shipped_quantizer().coarse
    threshold = image_segments.FINE_FROM
    image_segments.FINE_FROM = 0 if level is shipped_quantizer().fine else threshold
    index_segments(root)
    image_segments.FINE_FROM = threshold
    record = root / "segments" / "segments.json"
    listed = read_record(record)
    form = next(iter(listed["segments"].values()))["form"]
    random, drawn = np.random.default_rng(1), _Drawn.of(index, level)
    shard, states, tables = 1 + max(index.shards), dict(index.items.states), [index.items.table]
    for start in range(len(index.items), images, SEGMENT):
        count = min(SEGMENT, images - start)
        ids = [f"~/{number:09}" for number in range(start, start + count)]  # sorted behind the real ones
        shards = shard + np.arange(count) // SHARD
        shard += 1 + (count - 1) // SHARD
        name = digest_of("synthetic", start)
        path = root / "segments" / f"{name}.parquet"
        coded = CodedPoints(level, count * points)
        for first in range(0, count, DRAWN):
            images_drawn = np.arange(first, min(first + DRAWN, count), dtype=np.int64)
            places = np.repeat(images_drawn, points) << IMAGE_SHIFT
            places |= random.integers(0, 1 << IMAGE_SHIFT, len(places))
            coded.add(*drawn.points(random, len(places)), places)
        columns = [ids, shards.astype(np.int32), np.full(count, 640, np.int32), np.full(count, 480, np.int32)]
        with collect_checksums() as written:
            coded.write(path.with_suffix(".points"))
            with atomic_path(path.with_suffix(".npy")) as temporary, temporary.open("wb") as file:
                np.save(file, drawn.vectors(random, count))
            no_keys = pa.nulls(count, IMAGE_SCHEMA.field("key").type)  # synthetic images have no thumbnails
            write_table(path, pa.table([*columns, no_keys], schema=IMAGE_SCHEMA))
        listed["checksums"] |= checksums_by(record, written)
        tables.append(
            pa.table([ids, [f"/synthetic/{i}.jpg" for i in ids], ["1-1"] * count, ids, columns[1]], MANIFEST_SCHEMA)
        )
        made = {int(number): "synthetic" for number in np.unique(shards)}
        states |= made
        listed["segments"][name] = {"size": count * points, "form": form, "shards": made}
    table = pa.concat_tables(tables).replace_schema_metadata({STATES_KEY: json.dumps(states)})
    write_table(root / "manifest.parquet", table)
    write_record(record, listed)
    return root


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What synthetic images are drawn from: lists and codes of real points; mean and factor of real descriptors.

    The factor is one of the covariance. `lengths` float32 [lists, 480] are what each vector of a product adds to the
    squared length of a point, beyond `base` float32 [lists].
    """

    level: ListLevel
    members: NDArray[np.int64]
    codes: NDArray[np.uint8]
    base: NDArray[np.float32]
    lengths: NDArray[np.float32]
    mean: NDArray[np.float32]
    factor: NDArray[np.float32]

    @classmethod
    def of(cls, index: ImageIndex, level: ListLevel) -> _Drawn:
        points = np.concatenate([view.points.descriptor for shard in index.shards for view in index.views(shard)])
        canonical, _ = shipped_quantizer().canonical_form.of(points)
        vectors = np.concatenate([index.descriptors(shard).vectors for shard in index.shards])
        centered = vectors - vectors.mean(axis=0)
        centers = level.table.reconstruct_n(0, level.count)
        products = level.code.products.reshape(-1, centers.shape[1])
        return cls(
            level,
            *level.encode(canonical.astype(np.float32)),
            (centers**2).sum(axis=1),
            (products**2).sum(axis=1) + 2 * centers @ products.T,
            vectors.mean(axis=0),
            centered / np.float32(len(vectors) ** 0.5),
        )

    def points(self, random: np.random.Generator, count: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return the lists int64 [count] and the codes uint8 [count, 16] of synthetic points."""
        chosen = random.integers(0, len(self.members), count)
        members, codes = self.members[chosen], self.codes[chosen]
        changed = random.random(codes.shape, np.float32) < CHANGED
        codes[changed] = random.integers(0, 256, int(changed.sum()), np.uint8)
        length = self.base[members]
        for number in range(len(self.level.code.products)):
            vector = (codes[:, number // 2] >> 4 * (number % 2) & 15).astype(np.int64)
            length += self.lengths[members, 16 * number + vector]
        codes[:, -1] = self.level.code.length_code(length)
        return members, codes

    def vectors(self, random: np.random.Generator, count: int) -> NDArray[np.float16]:
        """Return synthetic descriptors, float16 [count, D]."""
        drawn = self.mean + random.standard_normal((count, len(self.factor)), np.float32) @ self.factor
        return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)


def _search(pictures: list[Path], root: Path) -> pd.DataFrame:
    """Return the candidates of pictures in the index at `root`, with their branch and their rank in it."""
    settings, work = ImageSettings(), root.parent / "queries"
    shutil.rmtree(work, ignore_errors=True)
    write_table(
        work / "queries.parquet",
        pa.table({"id": [p.stem for p in pictures], "path": [str(p.absolute()) for p in pictures]}),
    )
    folder = ImageRunFolder(work / "out")
    index = folder.queries(work / "queries.parquet", may_be_index=False).index
    for shard in plan_images(str(work / "queries.parquet"), index, "queries", settings, replace=True):
        find_overlays(index, shard, settings)
        describe_images(index, shard, settings)
    finish_index(index, folder.failures, [index], 0.0)
    tables = []
    for branch in BRANCHES:
        for shard in ImageIndex.open(index).shards:
            candidates = read_table(recall_images(shard, branch, index, root, folder, settings)).to_pandas()
            score = candidates["normalized" if branch == "global" else "score"]
            rank = score.groupby(candidates.query_id).rank(ascending=False, method="first")
            tables.append(candidates.assign(branch=branch, rank=rank))
    return pd.concat(tables)


def _copies(ground_truth: Path) -> pd.DataFrame:
    return pd.read_csv(ground_truth, dtype=str).dropna(subset="reference_id")


def _match(upload: Path, real: Path, root: Path) -> dict[str, float]:
    """Return what it costs to match one upload by a new process, the second time, when the index is in memory."""
    _fill_shards(ImageIndex.open(real), root, _search([upload], root).reference_id)
    command = [sys.executable, "-m", "copytrace", "match-images", str(upload), str(root), "--out"]
    for number in range(2):
        before, start = cpu_seconds(), time.perf_counter()
        subprocess.run([*command, str(root.parent / f"matched-{number}")], check=True, capture_output=True)
        spent = {
            "seconds, one upload": time.perf_counter() - start,
            "core-seconds, one upload": cpu_seconds() - before,
        }
        shutil.rmtree(root.parent / f"matched-{number}")
    return spent


def _fill_shards(real: ImageIndex, root: Path, candidates: pd.Series) -> None:
    """Write the shards of the synthetic images among `candidates`: points of real images, jittered and displaced."""
    random = np.random.default_rng(2)
    points = [view.points for shard in real.shards for view in real.views(shard) if len(view.points)]
    table = ImageIndex.open(root).items.table.to_pandas()
    needed = table.loc[table.id.isin(candidates) & ~table["shard"].isin(real.shards), "shard"].unique()
    for shard, ids in table[table["shard"].isin(needed)].groupby("shard").id:
        views = [View(name, "whole", _jitter(points[random.integers(len(points))], random)) for name in ids]
        paths = ShardPaths.of(root, int(shard))
        with record_files(paths.receipt):
            write_points(paths.points, paths.views, views)
            write_thumbnails(paths.thumbnails, list(ids), random.integers(0, 256, (len(ids), BYTES), np.uint8))


def _jitter(points: Points, random: np.random.Generator) -> Points:
    chosen = random.integers(0, len(points), POINTS)
    near = points.descriptor[chosen].astype(np.int16) + random.integers(-40, 41, (POINTS, DIMENSIONS), np.int16)
    x, y = (random.random(POINTS, np.float32) * side for side in (points.width, points.height))
    return replace(
        points,
        x=x,
        y=y,
        scale=points.scale[chosen],
        angle=points.angle[chosen],
        descriptor=near.clip(0, 255).astype(np.uint8),
    )


def _own_memory() -> int:
    """Return the KiB of this process that are no mapped files; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text("utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def _plot(rows: pd.DataFrame, path: Path) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    panels = {
        "core-seconds": ["core-seconds, cold", "core-seconds, warm", "core-seconds, one upload"],
        "MiB": ["MiB with mapped files", "MiB of its own"],
        "share of true references": ["true ones among ten", "among ten by points"],
    }
    for axis, (label, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            axis.plot(rows.images, rows[name], marker="o", label=name)
        axis.set(xscale="log", xlabel="images in the index", ylabel=label, ylim=(0, None))
        axis.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    search(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
