"""PostgreSQL: the databases of Prefect and MLflow, in a cluster that only this stack uses."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg
from psycopg import sql

from tasks.service.ports import HOST
from tasks.service.secrets import read_or_create_secret, write_private
from tasks.service.server_process import ServerError, ServerProcess

USER = "copytrace"
DATABASES = ("prefect", "mlflow", "mlflow_accounts")
# PostgreSQL refuses to run as root; Debian's package creates this user.
_UNPRIVILEGED_USER = "postgres"
_NOT_INSTALLED = "there is no PostgreSQL here: apt-get install postgresql (Debian, Ubuntu), or put its programs on PATH"


class PostgreSQL(ServerProcess):
    """A cluster with the `DATABASES`, whose files lie in `data`.

    The password is generated on the first start. Clients read it from `passfile`, which PGPASSFILE names, so that no
    address, command or variable contains it.
    """

    def __init__(self, folder: Path, port: int, *, secrets: Path, log: Path) -> None:
        user = _UNPRIVILEGED_USER if os.geteuid() == 0 else None
        if user and not _user_exists(user):
            raise ServerError(_NOT_INSTALLED)
        self.port, self._folder = port, _make_cluster_folder(folder, user)
        self.data = self._folder / "data"
        self._password = read_or_create_secret(secrets / "postgresql-password")
        self.passfile = write_private(secrets / "pgpass", f"{HOST}:{port}:*:{USER}:{self._password}\n")
        self.client_environment = {"PGPASSFILE": str(self.passfile)}
        self._programs = _programs(self.data)
        settings = {"listen_addresses": HOST, "port": str(port), "unix_socket_directories": ""}
        super().__init__(
            name="PostgreSQL",
            command=[
                *(str(self._programs / "postgres"), "-D", str(self.data)),
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            ],
            log=log,
            is_healthy=self._accepts_connections,
            environment={name: value for name, value in os.environ.items() if not name.startswith("PG")},
            folder=self._folder,
            user=user,
            stop_signal=signal.SIGINT,  # fast shutdown: connections are closed, committed data are kept
        )

    def url(self, database: str, driver: str) -> str:
        """Return the SQLAlchemy URL of a database, without the password."""
        return f"postgresql+{driver}://{USER}@{HOST}:{self.port}/{database}"

    def shell(self, database: str) -> str:
        """Return the command that opens a database in psql; it needs PGPASSFILE."""
        return f"psql -h {HOST} -p {self.port} -U {USER} {database}"

    def start(self) -> None:
        """Create the cluster if there is none, and start the server. Raises `ServerError`."""
        if not self.data.exists():
            self._make_cluster()
        super().start()

    def wait(self, seconds: float = 60) -> None:
        """Return once the server is healthy and all databases exist. Raises `ServerError`."""
        super().wait(seconds)
        with self._connect("postgres") as connection:
            known = {name for (name,) in connection.execute("select datname from pg_database")}
            for name in DATABASES:
                if name not in known:
                    connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        with self._connect("prefect") as connection:
            connection.execute("create extension if not exists pg_trgm")  # Prefect's search needs it

    def _make_cluster(self) -> None:
        # Created beside its final place and then moved, so that no incomplete cluster remains.
        partial, password = self._folder / "data.part", self._folder / "password"
        owner = {"user": self.user, "group": self.user, "extra_groups": []} if self.user else {}
        shutil.rmtree(partial, ignore_errors=True)
        write_private(password, self._password)
        if self.user:
            shutil.chown(password, self.user, self.user)
        command = [str(self._programs / "initdb"), "-D", str(partial), "-U", USER, "--auth=scram-sha-256"]
        command += [f"--pwfile={password}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"]
        try:
            made = subprocess.run(  # type: ignore[call-overload]  # noqa: S603 - our own command
                command, cwd=self._folder, capture_output=True, text=True, check=False, **owner
            )
        except FileNotFoundError as error:
            raise ServerError(_NOT_INSTALLED) from error
        finally:
            password.unlink()
        if made.returncode:
            raise ServerError(f"PostgreSQL created no cluster in {partial}: {' '.join(made.stderr.split())}")
        partial.replace(self.data)

    def _accepts_connections(self) -> bool:
        try:
            self._connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def _connect(self, database: str) -> psycopg.Connection[tuple[str]]:
        return psycopg.connect(
            host=HOST,
            port=self.port,
            user=USER,
            dbname=database,
            passfile=str(self.passfile),
            connect_timeout=5,
            autocommit=True,
        )


def _programs(data: Path) -> Path:
    """Return the folder of PostgreSQL's programs, of the version that created the cluster, or else of the newest."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    version = data / "PG_VERSION"
    if version.exists():
        needed = version.read_text(encoding="ascii").strip()
        installed = [path for path in installed if path.parts[-3] == needed] or installed
    found = installed[-1] if installed else shutil.which("postgres")
    if not found:
        raise ServerError(_NOT_INSTALLED)
    return Path(found).resolve().parent


def _user_exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _make_cluster_folder(folder: Path, user: str | None) -> Path:
    """Create `folder` and return it; if `user` cannot reach it, create one in the home of that user instead."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not user:
        return folder
    shutil.chown(folder, user, user)
    command = ["test", "-w", str(folder)]
    if subprocess.run(command, user=user, group=user, extra_groups=[], check=False).returncode == 0:  # noqa: S603
        return folder
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    elsewhere = Path(pwd.getpwnam(user).pw_dir) / f"copytrace-{digest}"
    elsewhere.mkdir(mode=0o700, exist_ok=True)
    shutil.chown(elsewhere, user, user)
    return elsewhere
