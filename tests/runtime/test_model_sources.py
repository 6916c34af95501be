from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest

from copytrace import model_sources
from copytrace.errors import ConfigError, CopytraceError
from copytrace.model_sources import model_state, resolve_model
from copytrace.object_store import redact
from copytrace.runtime import cache_folder

PLUGIN = """
from pathlib import Path
from copytrace.errors import ConfigError

def resolve(uri: str) -> Path:
    if uri.endswith("@none"):
        raise ConfigError(f"{uri} has no version; promote one")
    return Path(__file__).parent / "artifacts"
"""


class Shop(BaseHTTPRequestHandler):
    """A web server with one model, a version of it that tells more bytes than it sends, and one that is locked."""

    served: ClassVar[list[str]] = []
    content = b"first"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if name.startswith("locked"):
            return self.send_error(403)
        if not name.startswith(("overlay", "broken")):
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content) + (5 if name.startswith("broken") else 0)))
        self.send_header("ETag", f'"{self.content.decode()}"')
        self.end_headers()
        if self.command == "GET":
            self.served.append(name)
            self.wfile.write(self.content)
        return None

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COPYTRACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Shop, "served", [])
    monkeypatch.setattr(Shop, "content", b"first")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that serves `models:/` and, by an object that it lacks, `lost:/`; returns its folder."""
    site = tmp_path / "site"
    info = site / "registry_plugin-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: registry-plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[copytrace.model_schemes]\nmodels = registry_plugin:resolve\nlost = registry_plugin:absent\n"
    )
    (site / "registry_plugin.py").write_text(PLUGIN)
    (site / "artifacts").mkdir()
    monkeypatch.syspath_prepend(site)
    return site


def test_the_shipped_model_lies_among_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(model_sources, "WEIGHTS", tmp_path)
    (tmp_path / "overlay.safetensors").touch()
    assert resolve_model("shipped", "overlay") == tmp_path / "overlay.safetensors"
    with pytest.raises(ConfigError, match=r"ships no descriptor model: .*descriptor.safetensors is missing; install"):
        resolve_model("shipped", "descriptor")


def test_a_file_is_taken_whatever_its_name(tmp_path):
    (tmp_path / "sscd.torchscript.pt").touch()
    assert resolve_model(str(tmp_path / "sscd.torchscript.pt"), "descriptor") == tmp_path / "sscd.torchscript.pt"
    assert resolve_model((tmp_path / "sscd.torchscript.pt").as_uri(), "descriptor") == tmp_path / "sscd.torchscript.pt"


def test_a_folder_gives_the_file_of_the_kind(tmp_path):
    (tmp_path / "overlay.safetensors").touch()
    assert resolve_model(str(tmp_path), "overlay") == tmp_path / "overlay.safetensors"
    with pytest.raises(ConfigError, match=r"descriptor.safetensors does not exist; give imagenet, shipped, a file"):
        resolve_model(str(tmp_path), "descriptor")


def test_the_home_folder_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "d.safetensors").touch()
    assert resolve_model("~/d.safetensors", "descriptor") == tmp_path / "d.safetensors"


def test_a_missing_file_is_an_error_with_what_can_be_given():
    with pytest.raises(ConfigError, match=r"no overlay model at 'weights/x': there is no such .*; give shipped, a fi"):
        resolve_model("weights/x", "overlay")


def pin(content: bytes = b"first") -> str:
    return f"#sha256={hashlib.sha256(content).hexdigest()}"


def test_a_uri_is_downloaded_once_per_version(shop):
    first = [resolve_model(f"{shop}/overlay.safetensors{pin()}", "overlay") for _ in range(3)]
    Shop.content = b"other"  # as long as the first, so that its ETag alone tells
    second = resolve_model(f"{shop}/overlay.safetensors{pin(b'other')}", "overlay")
    assert {path.read_bytes() for path in first} == {b"first"}
    assert (second.name, second.read_bytes()) == ("overlay.safetensors", b"other")
    assert Shop.served == ["overlay.safetensors"] * 2


def test_a_model_on_the_web_must_be_pinned(shop):
    with pytest.raises(ConfigError, match=r"the overlay model http://.* is not pinned, .*: add #sha256=") as caught:
        resolve_model(f"{shop}/overlay.safetensors?signature=abc", "overlay")
    assert "abc" not in str(caught.value)
    assert Shop.served == []


@pytest.mark.parametrize("address", ["{folder}/own.safetensors", "memory://model-sources/own.safetensors"])
def test_a_pinned_model_of_another_content_is_refused(tmp_path, address):
    fsspec.filesystem("memory").pipe("/model-sources/own.safetensors", b"weights")
    (tmp_path / "own.safetensors").write_bytes(b"weights")
    source = address.format(folder=tmp_path)
    assert resolve_model(source + pin(b"weights").upper().replace("SHA", "sha"), "overlay").read_bytes() == b"weights"
    with pytest.raises(ConfigError, match=r"own.safetensors has the SHA-256 [0-9a-f]{64}, not the one after #sha256="):
        resolve_model(source + pin(b"other"), "overlay")


def test_a_file_that_is_replaced_under_its_pin_is_refused(tmp_path):
    file = tmp_path / "own.safetensors"
    file.write_bytes(b"weights")
    resolve_model(f"{file}{pin(b'weights')}", "overlay")
    file.write_bytes(b"changed weights")
    with pytest.raises(ConfigError, match="it is another model, or was changed"):
        resolve_model(f"{file}{pin(b'weights')}", "overlay")


def test_a_folder_in_a_store_gives_the_file_of_the_kind(cache):
    store = fsspec.filesystem("memory")
    store.pipe("/model-sources/run/descriptor.safetensors", b"weights")
    path = resolve_model("memory://model-sources/run", "descriptor")
    assert (path.name, path.read_bytes(), cache in path.parents) == ("descriptor.safetensors", b"weights", True)


def test_a_download_that_breaks_off_leaves_nothing_and_can_be_tried_again(shop, cache):
    with pytest.raises(ConfigError, match="broken"):
        resolve_model(f"{shop}/broken.safetensors{pin()}", "overlay")
    assert [path.name for path in cache.rglob("*") if path.is_file()] in ([], [".lock"])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("/absent.safetensors", "absent.safetensors does not exist; check the path"),
        ("/locked.safetensors", "access to .*locked.safetensors is denied; check the permissions"),
    ],
)
def test_a_uri_that_cannot_be_had_is_an_error_with_the_cure(shop, address, message):
    with pytest.raises(ConfigError, match=message):
        resolve_model(shop + address + pin(), "overlay")


def test_a_store_that_does_not_answer_is_an_error_without_its_keys():
    with pytest.raises(ConfigError, match=r"127.0.0.1:9/d cannot be reached .*check the address") as caught:
        resolve_model(f"http://ada:secret@127.0.0.1:9/d?signature=abc{pin()}", "descriptor")
    assert not re.search("secret|abc", str(caught.value))


def test_a_missing_object_of_a_store_is_an_error():
    with pytest.raises(ConfigError, match="memory://model-sources/none does not exist"):
        resolve_model("memory://model-sources/none", "descriptor")


def test_a_cache_that_cannot_be_written_is_an_error_that_names_the_setting(tmp_path, monkeypatch):
    fsspec.filesystem("memory").pipe("/model-sources/d.safetensors", b"weights")
    (tmp_path / "file").touch()
    monkeypatch.setenv("COPYTRACE_CACHE", str(tmp_path / "file"))
    with pytest.raises(CopytraceError, match="set COPYTRACE_CACHE"):
        resolve_model("memory://model-sources/d.safetensors", "descriptor")


def test_a_plugin_serves_its_scheme(plugin):
    (plugin / "artifacts" / "descriptor.safetensors").touch()
    assert resolve_model("models:/copytrace-descriptor@champion", "descriptor").parent == plugin / "artifacts"
    with pytest.raises(ConfigError, match=r"no overlay model at 'models:/x/1': .*overlay.safetensors does not exist"):
        resolve_model("models:/x/1", "overlay")


def test_what_a_plugin_says_reaches_the_user(plugin):
    with pytest.raises(ConfigError, match="models:/x@none has no version; promote one"):
        resolve_model("models:/x@none", "descriptor")


def test_a_plugin_that_does_not_load_is_an_error_with_the_cure(plugin):
    with pytest.raises(ConfigError, match=r"plugin registry_plugin:absent for lost:/ does not load: .*install it"):
        resolve_model("lost:/x", "descriptor")


@pytest.mark.parametrize("source", ["models2:/x@champion", "s4://bucket/d.safetensors"])
def test_a_scheme_that_nothing_serves_is_an_error_with_the_cure(source):
    scheme = source.partition(":")[0]
    with pytest.raises(ConfigError, match=rf"nothing installed serves {scheme}:/.*entry point is named {scheme}"):
        resolve_model(source, "descriptor")


def test_addresses_are_shown_without_keys():
    assert redact("https://ada:secret@host/a.pt?signature=1") == "https://host/a.pt"
    assert redact("s3://bucket/key?versionId=1") == "s3://bucket/key?versionId=1"


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("COPYTRACE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    folders = [cache_folder()]
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    folders.append(cache_folder())
    monkeypatch.setenv("COPYTRACE_CACHE", "/own")
    folders.append(cache_folder())
    assert folders == [tmp_path / ".cache" / "copytrace", Path("/xdg/copytrace"), Path("/own")]


def test_the_state_of_a_model_changes_with_its_file_and_is_its_name_where_it_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet").mkdir()
    assert [model_state(name, "descriptor") for name in ("imagenet", "none")] == [("imagenet", 0, 0), ("none", 0, 0)]
    file = tmp_path / "own.safetensors"
    states = []
    for content in (b"one", b"other"):
        file.write_bytes(content)
        states.append(model_state(str(file), "descriptor"))
    assert states[0] != states[1]
    assert model_state("shipped", "descriptor") == model_state("shipped", "descriptor")
