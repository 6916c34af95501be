"""Services of compose.yaml, whose commands run here as in their containers, as far as Linux does that without Docker.

Each has a root that it cannot write to, with the folders that the file gives it, its user, no capabilities, no way to
gain any, and processes of its own; all share a network that nothing else reaches.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

PROJECT = Path(__file__).parents[2]
PLACE = "/opt/copytrace"  # of the project in the image
HOSTS = ("postgres", "objects", "prefect", "mlflow")
BARE = ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--no-new-privs", "--clear-groups"]
SYSTEM = ("usr", "bin", "sbin", "lib", "lib64", "etc")


def read_services(secrets: Mapping[str, str]) -> dict[str, Any]:
    """Return the services of compose.yaml with the secrets filled in."""
    text = (PROJECT / "compose.yaml").read_text(encoding="utf-8")
    services: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{(\w+)[^}]*\}", lambda name: secrets[name[1]], text))[
        "services"
    ]
    return services


@dataclass
class Confinement:
    """A network, and the volumes and the root of the containers in it, below `folder`."""

    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> Confinement:
        """Make the network."""
        (self.folder / "root").mkdir(parents=True)
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost {' '.join(HOSTS)}\n")
        users = Path("/etc/passwd").read_text()
        (self.folder / "passwd").write_text(f"{users}copytrace:x:1000:1000::/home/copytrace:/bin/sh\n")
        command = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"]
        holder = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.started.append(holder)
        assert holder.stdout is not None and holder.stdout.readline() == b"up\n"
        return self

    def __exit__(self, *_: object) -> None:
        """End all that was started."""
        for process in reversed(self.started):
            # The first process of each namespace, too: as it has become another user, it does not end with its parent.
            for inner in psutil.Process(process.pid).children(recursive=True):
                inner.kill()
            process.kill()
            process.wait()

    def start(self, name: str, service: Mapping[str, Any], command: Sequence[str] | None = None) -> Path:
        """Start a service, and return the file that it writes to."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            started = subprocess.Popen(self._wrap(service, command), stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        self.started.append(started)
        return log

    def run(
        self, service: Mapping[str, Any], command: Sequence[str] | None = None, seconds: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, or that of the service itself, where and as the service runs."""
        return subprocess.run(
            self._wrap(service, command), capture_output=True, text=True, timeout=seconds, check=False
        )

    def wait(self, name: str, service: Mapping[str, Any], seconds: float = 300) -> None:
        """Wait until the check of a service's health succeeds."""
        end = time.monotonic() + seconds
        while (done := self.run(service, service["healthcheck"]["test"][1:])).returncode:
            log = (self.folder / f"{name}.log").read_text(errors="replace")
            assert time.monotonic() < end, f"{name}: {done.stderr}\n{log}"
            time.sleep(1)

    def volume(self, name: str) -> Path:
        """Return the folder of a volume, which belongs to the user of the image."""
        folder = self.folder / "volumes" / name
        if not folder.exists():
            folder.mkdir(parents=True)
            os.chown(folder, 1000, 1000)
            folder.chmod(0o1777)
        return folder

    def _wrap(self, service: Mapping[str, Any], command: Sequence[str] | None) -> list[str]:
        own = service["command"] if command is None else command
        words = shlex.split(own) if isinstance(own, str) else [str(word).replace("$$", "$") for word in own]
        user, group = service["user"].split(":")
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        programs = Path(sysconfig.get_path("scripts"))
        environment = {
            "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
            "HOME": "/home/copytrace",
            "PYTHONPATH": PLACE,  # as the environment here may have the project of another folder installed
            "PYTHONDONTWRITEBYTECODE": "1",
            **{name: str(value) for name, value in service.get("environment", {}).items()},
        }
        inner = ["setpriv", f"--reuid={user}", f"--regid={group}", *BARE, "env", "-i", f"--chdir={PLACE}"]
        inner += [*(f"{name}={value}" for name, value in environment.items()), *words]
        script = "\n".join([*self._mounts(service), shlex.join(["exec", "chroot", str(self.folder / "root"), *inner])])
        network = f"--net=/proc/{self.started[0].pid}/ns/net"
        return ["nsenter", network, "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", script]

    def _mounts(self, service: Mapping[str, Any]) -> list[str]:
        """Return the commands that make a container's root."""
        root = shlex.quote(str(self.folder / "root"))
        lines = [f"mount -t tmpfs -o mode=755 none {root}", f"cd {root}"]
        for name in SYSTEM:
            real = Path("/") / name
            if real.is_symlink():
                lines.append(f"ln -s {real.readlink()} {name}")
            elif real.exists():
                lines.append(_mount(real, name))
        lines += [_mount(self.folder / name, f"etc/{name}", make=False) for name in ("hosts", "passwd")]
        lines += [_mount(PROJECT, PLACE[1:])]
        lines += ["mkdir -p proc run var", "ln -s /run var/run", "mount -t proc proc proc"]
        lines += ["mkdir dev", "mount -t tmpfs none dev", "mkdir -m 1777 dev/shm", "mount -t tmpfs none dev/shm"]
        for name in ("null", "zero", "random", "urandom"):
            lines.append(f"touch dev/{name}; mount --bind /dev/{name} dev/{name}")
        for place, _, options in (entry.partition(":") for entry in service.get("tmpfs", [])):
            lines.append(f"mkdir -p .{place}; mount -t tmpfs -o {options or 'mode=1777'} none .{place}")
        for name, _, place in (entry.partition(":") for entry in service.get("volumes", [])):
            lines.append(_mount(self.volume(name), place[1:], "rw"))
        # Last, as the environment may lie below one of these, such as /tmp.
        lines += [_mount(Path(prefix), prefix[1:]) for prefix in dict.fromkeys((sys.base_prefix, sys.prefix))]
        return [*lines, "mount -o remount,ro none .", "cd /"]


def _mount(real: Path, name: str, mode: str = "ro", *, make: bool = True) -> str:
    place = shlex.quote(name)
    made = f"mkdir -p {place}; " if make else ""
    return f"{made}mount --bind {shlex.quote(str(real))} {place}; mount -o remount,bind,{mode} {place}"
