"""Where the panes of queries are, such as a picture in a picture, at the moments of a video."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from copytrace.alignment.segments import Segment
from copytrace.arrays import Floats
from copytrace.panes.names import WHOLE


@dataclass(frozen=True, slots=True)
class PaneBoxes:
    """Where the panes of queries are: N rows, `boxes` float32 [N, 4] in shares of the frame, `middles` float64 [N].

    `rows` has those of a pane by the id of its query and its name; `middles` are in seconds.
    """

    rows: Mapping[tuple[str, str], NDArray[np.int64]]
    middles: NDArray[np.float64]
    boxes: Floats

    @classmethod
    def of(cls, table: pa.Table) -> PaneBoxes:
        """Return the boxes in a table with the columns of `panes/*.parquet`."""
        columns = {name: table.column(name).to_numpy() for name in ("start", "end", "x0", "y0", "x1", "y1")}
        rows: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for row, pane in enumerate(zip(table["id"].to_pylist(), table["pane"].to_pylist(), strict=True)):
            rows[pane].append(row)
        return cls(
            {pane: np.array(of_pane) for pane, of_pane in rows.items() if pane[1] != WHOLE},
            (columns["start"] + columns["end"]) / 2,
            np.stack([columns[name] for name in ("x0", "y0", "x1", "y1")], axis=1).astype(np.float32),
        )

    def rows_at(self, query: str, pane: str, seconds: NDArray[np.float64]) -> NDArray[np.int64] | None:
        """Return the row of a pane that is nearest to each of `seconds` [N]; None for whole frames."""
        rows = self.rows.get((query, pane))
        return None if rows is None else rows[np.abs(self.middles[rows][None] - seconds[:, None]).argmin(axis=1)]

    def usual_box(self, query: str, pane: str, segment: Segment) -> Floats | None:
        """Return the median box [4] of a pane within a segment; None for whole frames."""
        rows = self.rows_at(query, pane, np.linspace(segment.query_start, segment.query_end, 32))
        return None if rows is None else np.median(self.boxes[rows], axis=0)
