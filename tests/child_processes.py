"""Python processes that tests start, which find the modules that this one finds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_python(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments, such as `-m` and a module, and return what it said; it must end with code 0."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done
