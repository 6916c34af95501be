"""The services of compose.yaml work with nothing to write to but their volumes and their memory, and without rights.

PostgreSQL and SeaweedFS are the programs of this machine, not of their images.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tasks.service.postgresql import USER
from tests.integration.confined import PROJECT, Confinement, read_services

SECONDS = 900.0
POINTS = {"short_side": 120, "max_points": 150}
SMALL = {
    "media": {"shard_size": 2},
    "local": dict.fromkeys(("reference_points", "query_points", "crop_points", "stretched_points"), POINTS)
    | {"stretches": []},
    "descriptor": {"input_size": 128},
    "overlay": {"detector": "edges"},
}
PROBE = """
import os, pathlib
for place in ("/opt/copytrace", "/opt/copytrace/flows", "/usr/lib", "/etc", "/"):
    try:
        (pathlib.Path(place) / "written").write_text("x")
        print("wrote", place)
    except OSError as error:
        print(error.errno, end=" ")
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
print(os.getuid(), [status[name].strip() for name in ("CapEff", "CapBnd", "NoNewPrivs")])
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Confinement, dict[str, Any]]]:
    """All services but that of GPUs, in the order of their dependencies."""
    if os.geteuid() or subprocess.run(["unshare", "--mount", "--net", "true"], check=False).returncode:
        pytest.skip("only root can make namespaces here")
    names = re.findall(r"^(\w+)=", (PROJECT / "compose.env.example").read_text(), re.MULTILINE)
    services = read_services({name: secrets.token_hex(24) for name in names})
    with Confinement(tmp_path_factory.mktemp("confined").resolve()) as here:
        _start_postgresql(here, services["postgres"])
        objects = services["objects"]
        # As the image says; and 8080 is the port of the worker here, where all have one address.
        more = ["-volume.max=0", "-master.volumeSizeLimitMB=64", "-volume.port=8081"]
        here.start("objects", objects, ["weed", "-logtostderr=true", *objects["command"].split(), *more])
        here.wait("objects", objects)
        _finish(here, services["bucket"])
        for name in ("prefect", "mlflow"):
            here.start(name, services[name])
        for name in ("prefect", "mlflow"):
            here.wait(name, services[name])
        _finish(here, services["deployments"])
        here.start("watch", services["watch"])
        here.start("worker", services["worker"])
        here.wait("worker", services["worker"])
        yield here, services


def _start_postgresql(here: Confinement, service: dict[str, Any]) -> None:
    """Do what the image does at its first start."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    service |= {"user": "1000:1000", "volumes": [service["volumes"][0]]}
    cluster = f"-D {service['volumes'][0].partition(':')[2]}/cluster"
    made = f"initdb {cluster} -U {USER} --auth=scram-sha-256 --pwfile=/tmp/password --locale=C.UTF-8"
    script = f"{programs}/{made} && exec {programs}/postgres {cluster} -c listen_addresses=127.0.0.1"
    here.start("postgres", service, ["sh", "-c", f'echo "$POSTGRES_PASSWORD" > /tmp/password; {script}'])
    asked = {**service, "environment": {"PGPASSWORD": service["environment"]["POSTGRES_PASSWORD"]}}
    psql = ["psql", "-h", "127.0.0.1", "-U", USER, "-v", "ON_ERROR_STOP=1"]
    end = time.monotonic() + 120
    while here.run(asked, [*psql, "postgres", "-c", "select 1"]).returncode:
        assert time.monotonic() < end, (here.folder / "postgres.log").read_text()
        time.sleep(0.5)
    assert not here.run(asked, [*psql, "postgres", "-c", "create database prefect"]).returncode
    done = here.run(asked, [*psql, "prefect", "-f", "/opt/copytrace/deploy/databases.sql"])
    assert not done.returncode, done.stderr


def _finish(here: Confinement, service: dict[str, Any]) -> None:
    done = here.run(service)
    assert not done.returncode, done.stdout + done.stderr


def test_no_service_can_write_to_its_image_or_has_a_right(running: tuple[Confinement, dict[str, Any]]) -> None:
    here, services = running
    for name in ("bucket", "prefect", "mlflow", "deployments", "watch", "worker", "gpu-worker"):
        told = here.run(services[name], ["python", "-c", PROBE])
        nothing = "0000000000000000"
        assert told.stdout.split("\n")[0] == f"30 30 30 30 30 1000 ['{nothing}', '{nothing}', '1']", (name, told)


def test_the_pages_of_both_servers_are_there(running: tuple[Confinement, dict[str, Any]]) -> None:
    here, services = running
    ask = "import httpx; print(httpx.get({!r}, auth=('copytrace', {!r}), follow_redirects=True).text)"
    for address, secret in (
        ("http://prefect:4200/", services["worker"]["environment"]["PREFECT_API_AUTH_STRING"].partition(":")[2]),
        ("http://mlflow:5000/", services["worker"]["environment"]["MLFLOW_TRACKING_PASSWORD"]),
    ):
        page = here.run(services["worker"], ["python", "-c", ask.format(address, secret)])
        assert '<div id="' in page.stdout, page


def test_the_store_takes_nothing_from_who_has_no_key(running: tuple[Confinement, dict[str, Any]]) -> None:
    here, services = running
    ask = (
        "import httpx; print([httpx.get(a).status_code for a in ('http://objects:8333/', 'http://objects:8333/copytrace',"
        " 'http://objects:8081/1,01637037d6')])"
    )
    assert here.run(services["worker"], ["python", "-c", ask]).stdout == "[403, 403, 401]\n"


def test_a_run_of_the_worker_matches_pictures_and_its_results_are_the_users(
    running: tuple[Confinement, dict[str, Any]], photos: dict[str, Any]
) -> None:
    here, services = running
    data = here.volume("data")
    sides = {"queries": {"mirrored": photos["chelsea"][:, ::-1]}, "references": {"cat": photos["chelsea"]}}
    sides["references"] |= {name: photos[name] for name in ("astronaut", "coffee")}
    for side, pictures in sides.items():
        (data / side).mkdir()
        for name, pixels in pictures.items():
            cv2.imwrite(str(data / side / f"{name}.png"), np.ascontiguousarray(pixels[..., ::-1]))
    command = ["prefect", "deployment", "run", "match-images/cpu", "--watch", "--param", "out=s3://copytrace/out"]
    for parameter in (f"overrides={json.dumps(SMALL)}", *(f"{side}=/data/{side}" for side in sides)):
        command += ["--param", parameter]
    done = here.run(services["worker"], command, SECONDS)
    assert not done.returncode, done.stdout + done.stderr + (here.folder / "worker.log").read_text()
    read = (
        "import boto3; print(boto3.client('s3').get_object(Bucket='copytrace', Key='out/matches.csv')['Body'].read())"
    )
    assert '"mirrored","cat"' in here.run(services["worker"], ["python", "-c", read]).stdout
    assert {path.stat().st_uid for path in (data / "cache").rglob("*")} <= {1000}
