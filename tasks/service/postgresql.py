"""PostgreSQL: the databases of Prefect and MLflow, in a cluster of their own that only this stack uses."""

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
from tasks.service.secrets import kept_secret, write_private
from tasks.service.server_process import ServerError, ServerProcess

USER = "copytrace"
DATABASES = ("prefect", "mlflow")
# PostgreSQL does not run as root; Debian's package brings this user.
_INSTEAD_OF_ROOT = "postgres"
_MISSING = "there is no PostgreSQL here: apt-get install postgresql (Debian, Ubuntu), or put its programs on PATH"


class PostgreSQL(ServerProcess):
    """A cluster with the databases `prefect` and `mlflow`, whose files lie in `data`.

    Its password is made on the first start and stands in one file, `passfile`, which every client finds by PGPASSFILE:
    so that no address, command or variable holds it.
    """

    def __init__(self, folder: Path, port: int, *, secrets: Path, log: Path) -> None:
        user = _INSTEAD_OF_ROOT if os.geteuid() == 0 else None
        if user and not _exists(user):
            raise ServerError(_MISSING)
        self.port, self._folder = port, _reachable(folder, user)
        self.data = self._folder / "data"
        self._password = kept_secret(secrets / "postgresql-password")
        self.passfile = write_private(secrets / "pgpass", f"{HOST}:{port}:*:{USER}:{self._password}\n")
        self.environment_of_clients = {"PGPASSFILE": str(self.passfile)}
        self._programs = _programs(self.data)
        settings = {"listen_addresses": HOST, "port": str(port), "unix_socket_directories": ""}
        super().__init__(
            name="PostgreSQL",
            command=[
                *(str(self._programs / "postgres"), "-D", str(self.data)),
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            ],
            log=log,
            healthy=self._accepts,
            environment={name: value for name, value in os.environ.items() if not name.startswith("PG")},
            folder=self._folder,
            user=user,
            stop_signal=signal.SIGINT,  # its fast way: connections are cut, what was committed is kept
        )

    def url(self, database: str, driver: str) -> str:
        """Return SQLAlchemy's address of a database, without the password."""
        return f"postgresql+{driver}://{USER}@{HOST}:{self.port}/{database}"

    def shell(self, database: str) -> str:
        """Return the command that opens a database, for one who has PGPASSFILE."""
        return f"psql -h {HOST} -p {self.port} -U {USER} {database}"

    def start(self) -> None:
        """Make the cluster, the first time, and start it. Raises `ServerError`."""
        if not self.data.exists():
            self._make_cluster()
        super().start()

    def wait(self, seconds: float = 60) -> None:
        """Return once both databases are there. Raises `ServerError`."""
        super().wait(seconds)
        with self._connect("postgres") as connection:
            known = {name for (name,) in connection.execute("select datname from pg_database")}
            for name in DATABASES:
                if name not in known:
                    connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        with self._connect("prefect") as connection:
            connection.execute("create extension if not exists pg_trgm")  # Prefect's searches need it

    def _make_cluster(self) -> None:
        # Beside its place and then moved there, so that a cluster that was half made does not stay.
        partial, password = self._folder / "data.part", self._folder / "password"
        owner = {"user": self.user, "group": self.user, "extra_groups": []} if self.user else {}
        shutil.rmtree(partial, ignore_errors=True)
        write_private(password, self._password)
        if self.user:
            shutil.chown(password, self.user, self.user)
        command = [str(self._programs / "initdb"), "-D", str(partial), "-U", USER, "--auth=scram-sha-256"]
        command += [f"--pwfile={password}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"]
        try:
            made = subprocess.run(  # type: ignore[call-overload]  # noqa: S603 - commands are ours
                command, cwd=self._folder, capture_output=True, text=True, check=False, **owner
            )
        except FileNotFoundError as error:
            raise ServerError(_MISSING) from error
        finally:
            password.unlink()
        if made.returncode:
            raise ServerError(f"PostgreSQL made no cluster in {partial}: {' '.join(made.stderr.split())}")
        partial.replace(self.data)

    def _accepts(self) -> bool:
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
    """Return the folder of PostgreSQL's programs: of the version that made the cluster, else the newest."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    version = data / "PG_VERSION"
    if version.exists():
        wanted = version.read_text(encoding="ascii").strip()
        installed = [path for path in installed if path.parts[-3] == wanted] or installed
    found = installed[-1] if installed else shutil.which("postgres")
    if not found:
        raise ServerError(_MISSING)
    return Path(found).resolve().parent


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _reachable(folder: Path, user: str | None) -> Path:
    """Return `folder`, made; or, where `user` cannot get through its parents, one in the home of that user."""
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
