"""An index of images: descriptors, points and views of each shard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from configs.images import ImageSettings
from copytrace.arrays import Floats
from copytrace.features.descriptors import Descriptor, model_label
from copytrace.index.descriptor_files import table_vectors
from copytrace.index.media_index import MediaIndex, MediaKind, Role, descriptors_path, receipt_path
from copytrace.index.point_files import View, read_points
from copytrace.overlays.boxes import OverlayDetector
from copytrace.storage import count_rows, read_table

FORMAT = 1


@dataclass(frozen=True, slots=True)
class ShardPaths:
    """Files of one shard of images."""

    overlays: Path
    points: Path
    views: Path
    descriptors: Path
    receipt: Path

    @classmethod
    def of(cls, root: Path, number: int) -> ShardPaths:
        """Return the paths of shard `number` under the index folder `root`."""
        overlays, points, views = (root / name / f"{number:05}.parquet" for name in ("overlays", "points", "views"))
        return cls(overlays, points, views, descriptors_path(root, number), receipt_path(root, number))


@dataclass(frozen=True, slots=True)
class Descriptors:
    """N unit vectors, float32 [N, D], of panes (`whole`, `crop0`, …) of images."""

    ids: tuple[str, ...]
    panes: tuple[str, ...]
    vectors: Floats

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class ImageIndex(MediaIndex):
    """A finished index of images."""

    kind: ClassVar[MediaKind] = "images"

    def views(self, shard: int) -> Iterator[View]:
        """Yield the views of the current images of a shard."""
        paths = ShardPaths.of(self.root, shard)
        for view in read_points(paths.points, paths.views):
            if self.is_current(view.id, shard):
                yield view

    def descriptors(self, shard: int) -> Descriptors:
        """Return the descriptors of the current images of a shard."""
        table = read_table(ShardPaths.of(self.root, shard).descriptors, columns=["id", "pane", "vector"])
        ids, panes = table.column("id").to_pylist(), table.column("pane").to_pylist()
        vectors = table_vectors(table)
        rows = [row for row, image in enumerate(ids) if self.is_current(image, shard)]
        return Descriptors(tuple(ids[r] for r in rows), tuple(panes[r] for r in rows), vectors[np.array(rows, int)])

    def point_count(self, shard: int) -> int:
        """Return the number of points in a shard, including those of images that are no longer current."""
        return count_rows(ShardPaths.of(self.root, shard).points)


def image_provenance(
    settings: ImageSettings, role: Role, descriptor: Descriptor, detector: OverlayDetector | None
) -> dict[str, Any]:
    """Return everything that decides the content of an index of this role, and nothing else."""
    local = settings.local.model_dump()
    names = ["reference_points"] if role == "references" else ["query_points", "crop_points", "stretched_points"]
    provenance: dict[str, Any] = {
        "format": FORMAT,
        "kind": "images",
        "role": role,
        "descriptor": model_label(descriptor),
        "typical_noise": descriptor.typical_noise,
        "points": {name: local[name] for name in names} | {"opencv": cv2.__version__},
    }
    if role == "queries":
        provenance["stretches"] = list(settings.local.stretches)
        provenance["overlays"] = settings.overlay.model_dump() | {"digest": detector.digest if detector else "none"}
    as_read_back: dict[str, Any] = json.loads(json.dumps(provenance))
    return as_read_back
