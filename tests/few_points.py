"""Settings of points that tests give where the number of points is not what they are about."""

from __future__ import annotations

from typing import Any

VIEWS = ("reference_points", "query_points", "crop_points", "stretched_points")
FEW_POINTS: dict[str, Any] = {**{view: {"short_side": 120, "max_points": 150} for view in VIEWS}, "stretches": []}
"""Of the section `local`: points of small pictures in each view, and no stretched views."""
