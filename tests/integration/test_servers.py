"""All servers that Copytrace works with, started as `make stack` starts them."""

from __future__ import annotations

import json
import subprocess

import boto3
import httpx
import mlflow
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import DoNothing
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from typer.testing import CliRunner

from copytrace.cli import app
from tasks.service.stack import Stack

SECONDS = 60.0  # to answer, on a machine that is busy besides


def secrets_of(stack: Stack) -> set[str]:
    names = ("s3-access-key", "s3-secret-key", "s3-signing-key")
    names += ("postgresql-password", "prefect-password", "mlflow-password", "mlflow-form-key")
    return {(stack.folder / "secrets" / name).read_text() for name in names}


def test_each_server_answers_at_its_address(stack: Stack) -> None:
    assert httpx.get(stack.environment["PREFECT_API_URL"] + "/health").json() is True
    assert "<title>Prefect" in httpx.get(stack.addresses["Prefect"], follow_redirects=True).text
    assert httpx.get(stack.environment["MLFLOW_TRACKING_URI"] + "/health").text == "OK"
    assert boto3.client("s3").list_buckets()["Buckets"][0]["Name"] == stack.bucket == "copytrace"
    asked = f"{stack.addresses['PostgreSQL']} -c 'select extname from pg_extension'"
    assert "pg_trgm" in subprocess.run(asked, shell=True, capture_output=True, text=True, check=True).stdout


def test_prefect_answers_nobody_without_the_password_and_changes_nothing_without_a_token(stack: Stack) -> None:
    url, password = stack.environment["PREFECT_API_URL"], (stack.folder / "secrets" / "prefect-password").read_text()
    foreign = {"Origin": "http://elsewhere.example"}
    for credentials in (None, ("copytrace", "guessed"), ("admin", password)):
        for path in ("/work_pools/cpu", "/admin/version", "/csrf-token?client=stranger"):
            answer = httpx.get(url + path, auth=credentials, headers=foreign, timeout=SECONDS)
            assert answer.status_code == 401, path
            assert answer.headers.get("Access-Control-Allow-Origin") not in {"*", foreign["Origin"]}
        for path in ("/deployments/filter", "/block_documents/filter", "/flow_runs/"):
            answer = httpx.post(url + path, json={}, auth=credentials, headers=foreign, timeout=SECONDS)
            assert answer.status_code in {401, 403}
    # A page of another origin has no token, even in a browser that knows the password.
    mine = ("copytrace", password)
    answer = httpx.post(f"{url}/flow_runs/filter", json={}, auth=mine, headers=foreign, timeout=SECONDS)
    assert (answer.status_code, answer.json()) == (403, {"detail": "Missing CSRF token."})
    asked = foreign | {"Access-Control-Request-Method": "POST"}
    allowed = httpx.options(f"{url}/flow_runs/", headers=asked).headers.get("Access-Control-Allow-Origin")
    assert allowed not in {"*", foreign["Origin"]}


def test_mlflow_answers_nobody_without_the_password_and_changes_nothing_for_another_origin(stack: Stack) -> None:
    url, password = stack.environment["MLFLOW_TRACKING_URI"], (stack.folder / "secrets" / "mlflow-password").read_text()
    mine, foreign = ("copytrace", password), {"Origin": "http://elsewhere.example"}
    for credentials in (None, ("copytrace", "guessed"), ("admin", password)):
        for method, path in (
            *(("POST", "/api/2.0/mlflow/experiments/search"), ("POST", "/api/2.0/mlflow/experiments/create")),
            *(("GET", "/api/2.0/mlflow-artifacts/artifacts"), ("PUT", "/api/2.0/mlflow-artifacts/artifacts/planted")),
            *(("GET", "/ajax-api/2.0/mlflow/users/list"), ("POST", "/graphql"), ("POST", "/v1/traces"), ("GET", "/")),
        ):
            answer = httpx.request(method, url + path, auth=credentials, timeout=SECONDS)
            assert answer.status_code == 401, (path, credentials)
    search = f"{url}/api/2.0/mlflow/experiments/search"
    assert httpx.post(search, json={"max_results": 1}, auth=mine, timeout=SECONDS).status_code == 200
    refused = httpx.post(search, json={"max_results": 1}, auth=mine, headers=foreign, timeout=SECONDS)
    assert (refused.status_code, refused.headers.get("Access-Control-Allow-Origin")) == (403, None)


def test_the_store_serves_and_deletes_nothing_without_its_keys(stack: Stack) -> None:
    store = boto3.client("s3")
    store.put_object(Bucket=stack.bucket, Key="kept.txt", Body=b"kept")
    master, volume, filer = json.loads((stack.folder / "objects" / "ports.json").read_text())
    for port in (filer, volume):
        place = f"http://127.0.0.1:{port}/buckets/{stack.bucket}/kept.txt"
        assert httpx.get(place).is_client_error
        assert httpx.delete(place).is_client_error
        assert httpx.post(f"http://127.0.0.1:{port}/buckets/{stack.bucket}/", files={"file": b""}).is_client_error
    for asked in ("dir/assign", "dir/status", f"col/delete?collection={stack.bucket}"):
        assert httpx.get(f"http://127.0.0.1:{master}/{asked}").is_client_error
    assert httpx.get(f"{stack.environment['AWS_ENDPOINT_URL']}/{stack.bucket}/kept.txt").status_code == 403
    assert store.get_object(Bucket=stack.bucket, Key="kept.txt")["Body"].read() == b"kept"


def test_the_flows_are_deployed_and_a_worker_takes_their_runs(prefect: SyncPrefectClient) -> None:
    deployments = prefect.read_deployments()
    assert len(deployments) == 16
    assert {deployment.work_queue_name for deployment in deployments} == {"matching", "training"}
    [worker] = prefect.read_workers_for_work_pool("cpu")
    assert worker.status == "ONLINE"


def test_a_second_setup_changes_nothing(prefect: SyncPrefectClient) -> None:
    done = CliRunner().invoke(app, ["setup"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("nothing to change at http://127.0.0.1:")


def test_a_limit_is_left_by_setup_until_one_is_given_and_old_automations_are_deleted(
    stack: Stack, prefect: SyncPrefectClient
) -> None:
    old = "copytrace: runs whose worker died"
    made = EventTrigger(expect={"prefect.flow-run.*"}, posture=Posture.Reactive, threshold=1)
    prefect.create_automation(AutomationCore(name=old, trigger=made, actions=[DoNothing()]))
    done = CliRunner().invoke(app, ["setup", "--gpus", "3"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "updated limit of work pool gpu-a100",
        "updated limit copytrace-gpu to 3",
        f"deleted automation '{old}', whose work `copytrace watch` does: run that beside the server",
    ]
    assert prefect.read_work_pool("gpu-a100").concurrency_limit == 3
    assert prefect.read_global_concurrency_limit_by_name("copytrace-gpu").limit == 3
    assert prefect.read_automations() == []


def test_an_artifact_goes_through_mlflow_into_the_bucket(stack: Stack) -> None:
    client = mlflow.MlflowClient(stack.environment["MLFLOW_TRACKING_URI"])
    run = client.create_run(client.create_experiment("stored"))
    client.log_text(run.info.run_id, "kept", "note.txt")
    [stored] = boto3.client("s3").list_objects_v2(Bucket=stack.bucket, Prefix="mlflow/")["Contents"]
    assert stored["Key"].endswith(f"{run.info.run_id}/artifacts/note.txt")


def test_no_secret_stands_in_a_command_or_a_log_or_a_file_that_others_can_read(stack: Stack) -> None:
    secrets = secrets_of(stack)
    assert len(secrets) == 7
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "weed server" in listed
    logs = {path: path.read_text(errors="replace") for path in stack.logs.glob("*.log")}
    assert {path.stem for path in logs} == {
        *("deploy", "mlflow", "postgresql", "prefect", "seaweedfs", "watch", "worker-cpu")
    }
    for secret in secrets:
        assert secret not in listed
        assert not [path for path, text in logs.items() if secret in text]
    environment = stack.folder / "environment"
    for path in (environment, *(stack.folder / "secrets").iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path
    for private in ("secrets", "logs", "mlflow", "objects", "postgresql"):
        assert (stack.folder / private).stat().st_mode & 0o077 == 0
    sourced = subprocess.run(
        ["bash", "-c", f"source {environment}; env"], capture_output=True, text=True, check=True, env={}
    )
    assert {f"{name}={value}" for name, value in stack.environment.items()} <= set(sourced.stdout.splitlines())
