"""Types of arrays, one name for each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Numbers = NDArray[np.int64]
"""Row numbers, counts and other whole numbers."""
Times = NDArray[np.float64]
"""Seconds, such as the start and end of frames."""
