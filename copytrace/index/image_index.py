"""What an index of images holds beside its manifest: descriptors, points, views and pasted pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from configs.images import ImageSettings
from copytrace.features.descriptors import Descriptor
from copytrace.index.descriptor_files import table_vectors
from copytrace.index.image_shards import ShardPaths
from copytrace.index.media_index import Kind, MediaIndex, Role, model_label
from copytrace.index.point_files import View, read_points
from copytrace.overlays.boxes import OverlayDetector
from copytrace.search.global_recall import Descriptors
from copytrace.storage import count_rows, read_table

FORMAT = 1


def image_provenance(
    settings: ImageSettings, role: Role, descriptor: Descriptor, detector: OverlayDetector | None
) -> dict[str, Any]:
    """Return all that decides what an index of this role holds, and nothing else."""
    local = settings.local.model_dump()
    names = ["reference_points"] if role == "references" else ["query_points", "crop_points", "stretched_points"]
    made_with: dict[str, Any] = {
        "format": FORMAT,
        "kind": "images",
        "role": role,
        "descriptor": model_label(descriptor),
        "typical_noise": descriptor.typical_noise,
        "points": {name: local[name] for name in names} | {"opencv": cv2.__version__},
    }
    if role == "queries":
        made_with["stretches"] = list(settings.local.stretches)
        made_with["overlays"] = settings.overlay.model_dump() | {"digest": detector.digest if detector else "none"}
    as_read_back: dict[str, Any] = json.loads(json.dumps(made_with))
    return as_read_back


@dataclass(frozen=True, slots=True)
class ImageIndex(MediaIndex):
    """A finished index of images."""

    kind: ClassVar[Kind] = "images"

    def views(self, shard: int) -> Iterator[View]:
        """Yield the views of the living images of a shard."""
        paths = ShardPaths.of(self.root, shard)
        for view in read_points(paths.points, paths.views):
            if self.lives(view.id, shard):
                yield view

    def descriptors(self, shard: int) -> Descriptors:
        """Return the descriptors of the living images of a shard."""
        table = read_table(ShardPaths.of(self.root, shard).descriptors, columns=["id", "pane", "vector"])
        ids, panes = table.column("id").to_pylist(), table.column("pane").to_pylist()
        vectors = table_vectors(table)
        rows = [row for row, image in enumerate(ids) if self.lives(image, shard)]
        return Descriptors(tuple(ids[r] for r in rows), tuple(panes[r] for r in rows), vectors[np.array(rows, int)])

    def point_count(self, shard: int) -> int:
        """Return the number of points in a shard, those of images that are gone included."""
        return count_rows(ShardPaths.of(self.root, shard).points)
