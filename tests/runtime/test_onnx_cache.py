import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from copytrace.errors import CopytraceError
from copytrace.runtime import cached_graph, read_graph

WEIGHTS = Path("net.safetensors")
GRAPH = b"graph of a network"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COPYTRACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def exports() -> list[Path]:
    return []


@pytest.fixture
def export(exports: list[Path]) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(GRAPH)
        exports.append(path)
        return path

    return write


def test_a_graph_is_exported_once_as_a_plain_file(cache: Path, export, exports: list[Path]) -> None:
    assert [cached_graph("net.onnx", WEIGHTS, export), cached_graph("net.onnx", WEIGHTS, export)] == [GRAPH, GRAPH]
    assert exports == [cache / "net.onnx"]
    assert (cache / "net.onnx").read_bytes() == GRAPH


def test_sha256sum_understands_the_digest(cache: Path, export) -> None:
    cached_graph("net.onnx", WEIGHTS, export)
    subprocess.run(["sha256sum", "--check", "--quiet", "net.onnx.sha256"], cwd=cache, check=True)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:5] + bytes([b[5] ^ 1]) + b[6:], lambda b: b"", lambda b: b + b"more"]
)
def test_a_damaged_graph_is_exported_again_with_a_warning(
    cache: Path, export, exports: list[Path], damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    cached_graph("net.onnx", WEIGHTS, export)
    (cache / "net.onnx").write_bytes(damage(GRAPH))
    assert read_graph(cache / "net.onnx") is None
    with caplog.at_level(logging.WARNING):
        assert cached_graph("net.onnx", WEIGHTS, export) == GRAPH
    assert len(exports) == 2
    assert "is damaged" in caplog.text


def test_a_graph_without_a_digest_is_exported_again(cache: Path, export, exports: list[Path]) -> None:
    cached_graph("net.onnx", WEIGHTS, export)
    (cache / "net.onnx.sha256").unlink()  # as after a crash between the two files
    assert cached_graph("net.onnx", WEIGHTS, export) == GRAPH
    assert len(exports) == 2


def test_an_absent_graph_reads_as_none(tmp_path: Path) -> None:
    assert read_graph(tmp_path / "absent.onnx") is None


def test_a_network_that_cannot_be_exported_is_an_error_with_the_cure(cache: Path) -> None:
    def fail(path: Path) -> Path:
        raise RuntimeError("no such operator\nat line 3")

    with pytest.raises(
        CopytraceError,
        match=r"net cannot be exported to ONNX: no such operator \(net\.safetensors\); set descriptor\.back",
    ):
        cached_graph("net.onnx", WEIGHTS, fail)
