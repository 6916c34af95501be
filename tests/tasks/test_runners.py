"""What is needed before shards can be worked on."""

from __future__ import annotations

import sys

import pytest

from configs.runner import Runner
from copytrace.errors import ConfigError
from tasks.image_steps import IMAGE_STEPS
from tasks.runners import run_on


def test_dask_that_is_not_installed_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect_dask", None)  # as importlib finds a package that is not there
    with (
        pytest.raises(ConfigError, match=r"prefect-dask is not installed; pip install 'copytrace\[dask\]'"),
        run_on(Runner(kind="dask", workers=2), IMAGE_STEPS),
    ):
        pytest.fail("there are no workers")
