"""The units of systemd and the manifests of Kubernetes in deploy/ say what is to be confined; nothing is started."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.service.pool_templates import container_template

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deploy").glob("*.service"))
MANIFESTS: list[dict[str, Any]] = list(
    yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text(encoding="utf-8"))
)
SECRETS = {"PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"}
EXPOSURE = 2.5  # by `systemd-analyze security`, of 10: a unit without any such line has 9.6


def named(kind: str, name: str) -> dict[str, Any]:
    [found] = [each for each in MANIFESTS if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_understood_by_systemd_and_little_exposed(unit: Path, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemd here")
    text = unit.read_text(encoding="utf-8")
    [command] = re.findall(r"^ExecStart=(\S+)", text, re.MULTILINE)
    file = tmp_path / unit.name.replace("@", "@gpu-0")
    file.write_text(text.replace(command, "/bin/true"))
    verified = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert rated.returncode == 0, rated.stdout


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_runs_as_its_own_user_and_names_no_secret(unit: Path) -> None:
    text = unit.read_text(encoding="utf-8")
    assert re.search(r"^User=copytrace$", text, re.MULTILINE)
    assert not [name for name in SECRETS if name in text]


def test_workers_of_one_machine_have_files_of_their_own_for_their_ports() -> None:
    text = (ROOT / "deploy" / "copytrace-worker@.service").read_text(encoding="utf-8")
    assert "EnvironmentFile=/etc/copytrace/%i.env" in text
    assert "--with-healthcheck" in text


@pytest.mark.parametrize("name", ["copytrace-worker", "copytrace-watch"])
def test_a_pod_is_restricted_as_its_namespace_asks(name: str) -> None:
    pod = named("Deployment", name)["spec"]["template"]["spec"]
    [container] = pod["containers"]
    run = container_template("kubernetes-gpu")["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert pod["securityContext"].items() <= run["securityContext"].items()
    assert container["securityContext"] == run["containers"][0]["securityContext"]
    assert named("Namespace", "copytrace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert container["envFrom"] == [{"secretRef": {"name": "copytrace"}}]
    assert not [entry for entry in container["env"] if entry["name"] in SECRETS]


def test_only_the_worker_may_do_anything_and_not_much() -> None:
    [rights] = [each["rules"] for each in MANIFESTS if each["kind"] == "Role"]
    assert not [each for each in MANIFESTS if each["kind"].startswith("Cluster")]
    may = {(resource, verb) for rule in rights for resource in rule["resources"] for verb in rule["verbs"]}
    assert "secrets" not in {resource for resource, _ in may}
    assert {resource for resource, verb in may if verb not in {"get", "list", "watch"}} == {"jobs"}
    [binding] = [each for each in MANIFESTS if each["kind"] == "RoleBinding"]
    assert [subject["name"] for subject in binding["subjects"]] == ["copytrace-worker"]
    assert named("ServiceAccount", "copytrace-run")["automountServiceAccountToken"] is False


def test_what_pods_of_runs_need_is_made() -> None:
    variables = container_template("kubernetes-gpu")["variables"]["properties"]
    space = variables["namespace"]["default"]
    for kind, variable in (("ServiceAccount", "service_account_name"), ("PersistentVolumeClaim", "data_claim")):
        assert named(kind, variables[variable]["default"])["metadata"]["namespace"] == space
