"""What lets a command begin its work sooner: pandas is left out, and decoders start at once."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder


def start_quickly() -> None:
    """Leave out pandas, and start the decoders, which import what they need while this process does."""
    leave_out_pandas()
    from copytrace.media.decoding_pool import start_workers  # noqa: PLC0415

    start_workers()


def leave_out_pandas() -> None:
    """Keep pyarrow from importing pandas until a table becomes a data frame.

    pyarrow imports pandas with the first array, to know its types, unless it does not find it then.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow  # noqa: PLC0415

    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pyarrow.array([""])
    finally:
        sys.meta_path.remove(finder)


class _NoPandas(MetaPathFinder):
    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)
