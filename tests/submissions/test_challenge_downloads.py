"""The downloads on the challenges' pages, from a server of this machine that breaks them off."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.submissions.download_server import DownloadServer, serve_downloads

DOCS = Path(__file__).parents[2] / "docs"
REFERENCES = [f"references_{number}.zip" for number in range(20)]


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def downloads_of(page: str) -> list[str]:
    """The blocks of shell commands before the first command of Copytrace."""
    before = (DOCS / page).read_text().partition("\ncopytrace ")[0]
    return re.findall(r"^```sh\n(.*?)^```", before, re.MULTILINE | re.DOTALL)


def run(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def pack(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr(name, content)
    return stream.getvalue()


def pictures(number: int) -> bytes:
    return np.random.default_rng(number).bytes(20_000)


@needs("bash", "wget", "curl", "unzip", "sha256sum")
def test_disc21_is_fetched_on_from_where_it_broke_off_and_a_changed_file_is_told(tmp_path: Path) -> None:
    archives = {name: pack(f"images/references/R{n}.jpg", pictures(n)) for n, name in enumerate(REFERENCES)}
    archives["dev_queries.zip"] = pack("images/queries/Q00000.jpg", pictures(99))
    files = {f"/public/{name}": content for name, content in archives.items()}
    with serve_downloads({**files, "/public/dev_ground_truth.csv": b"query_id,reference_id\n"}) as server:
        sizes, fetching, _ = (block.replace(*address_of("disc21.md", server)) for block in downloads_of("disc21.md"))
        listed = run(sizes, tmp_path)
        assert len(re.findall(r"^ +0\.00 GB  \w+\.(?:zip|csv)$", listed.stdout, re.MULTILINE)) == 22, listed.stderr

        (tmp_path / "disc21").mkdir()
        killed = tmp_path / "disc21" / "references_3.zip"
        killed.write_bytes(archives[killed.name][:7_000])  # as a killed wget leaves it
        server.cuts["/public/references_5.zip"] = 1
        server.requests.clear()
        assert run(fetching, tmp_path).returncode == 0
        assert ("GET", "/public/references_3.zip", "bytes=7000-") in server.requests
        continued = [asked for _, path, asked in server.requests if path == "/public/references_5.zip" and asked]
        assert continued
        assert all(int(asked[6:-1]) > 7_000 for asked in continued)
        found = {path.name: path.read_bytes() for path in (tmp_path / "disc21/images/references").iterdir()}
        assert found == {f"R{number}.jpg": pictures(number) for number in range(20)}

        server.requests.clear()
        assert run(fetching, tmp_path).returncode == 0
        assert server.bodies == []

        changed = bytearray(killed.read_bytes())
        changed[9_000] ^= 1
        killed.write_bytes(changed)
        told = run(fetching, tmp_path)
        assert told.returncode != 0
        assert "references_3.zip" in told.stdout + told.stderr
        killed.unlink()
        assert run(fetching, tmp_path).returncode == 0
        assert server.bodies == ["/public/references_3.zip"]


def address_of(page: str, server: DownloadServer) -> tuple[str, str]:
    """The address on a page, and the one to take instead."""
    found = re.search(r"^ *base=(\S+)$", (DOCS / page).read_text(), re.MULTILINE)
    assert found
    return found[1], f"{server.url}/public"


@needs("bash", "aws", "sha256sum")
def test_vsc22_is_fetched_without_keys_from_what_is_missing_and_a_changed_file_is_told(tmp_path: Path) -> None:
    names = ["query/Q100001.mp4", "query/Q100002.mp4", "reference/R100001.mp4", "train_query_metadata.csv"]
    bucket = "/drivendata-competition-meta-vsc-data-us"
    files = {f"{bucket}/train/{name}": pictures(number) for number, name in enumerate(names)}
    with serve_downloads({**files, f"{bucket}/other/file": b"of another prefix"}) as server:
        environment = {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(tmp_path / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        }
        sizes, fetching = downloads_of("vsc22.md")
        assert re.search(r"Total Objects: 4\s+Total Size: 78\.1 KiB", run(sizes, tmp_path, **environment).stdout)

        broken = f"{bucket}/train/reference/R100001.mp4"
        server.cuts[broken] = 100
        assert run(fetching, tmp_path, **environment).returncode != 0
        assert not (tmp_path / "vsc22/SHA256SUMS").exists()
        server.cuts.clear()
        server.requests.clear()
        assert run(fetching, tmp_path, **environment).returncode == 0
        assert server.bodies == [bucket, broken]  # the list, and the file that was missing
        for path, content in files.items():
            assert (tmp_path / "vsc22" / path.removeprefix(f"{bucket}/")).read_bytes() == content
        assert server.signed == []

        damaged = tmp_path / "vsc22/train/query/Q100001.mp4"
        damaged.write_bytes(pictures(0)[:-1] + b"\0")
        os.utime(damaged, (0, 0))  # sync fetches files that are newer than theirs
        told = run(fetching, tmp_path, **environment)
        assert told.returncode != 0
        assert "train/query/Q100001.mp4: FAILED" in told.stdout


@pytest.mark.parametrize("page", ["disc21.md", "vsc22.md"])
def test_downloads_can_be_resumed_and_come_before_all_commands_of_ours(page: str) -> None:
    text = (DOCS / page).read_text()
    fetching = re.findall(r"(?:\bdo|\bthen|&&|^) *((?:wget|aws s3 (?:sync|cp)) .*)$", text, re.MULTILINE)
    assert fetching
    assert all(line.startswith(("wget --continue", "aws s3 sync --no-sign-request")) for line in fetching)
    assert not re.search(r"^ *(wget|curl|aws|git|unzip) ", text[text.index("\ncopytrace ") :], re.MULTILINE)
