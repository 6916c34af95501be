"""Which runtime and device a network gets, and how many cores a process may use."""

from __future__ import annotations

import pytest

from copytrace.errors import ConfigError
from copytrace.runtime import CORES, Backend, usable_cores, uses_cuda


def test_a_process_uses_at_most_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CORES, raising=False)
    everything = usable_cores()
    for share, used in (("1", 1), (str(everything), everything), ("4096", everything)):
        monkeypatch.setenv(CORES, share)
        assert usable_cores() == used


@pytest.mark.parametrize("share", ["0", "-1", "half", "1.5"])
def test_a_share_that_is_no_number_of_cores_is_refused(share: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CORES, share)
    with pytest.raises(ConfigError, match="is not a number of cores"):
        usable_cores()


@pytest.mark.parametrize(
    ("backend", "device", "on_cuda"),
    [("auto", "cuda:1", True), ("torch", "cuda", True), ("torch", "cpu", False), ("onnx", None, False)],
)
def test_a_network_runs_on_the_gpu_where_it_is_put_there(backend: Backend, device: str | None, on_cuda: bool) -> None:
    assert uses_cuda(backend, device) is on_cuda
