"""Ports that are free, and secrets that stay."""

from __future__ import annotations

import socket
from pathlib import Path

from tasks.service.ports import Ports, free_ports, is_free
from tasks.service.secrets import read_or_create_secret, write_private


def test_a_port_that_is_taken_is_replaced_by_a_free_one() -> None:
    with socket.socket() as taken:
        try:
            taken.bind(("127.0.0.1", 5000))
        except OSError:
            pass  # another program has it: just as well
        else:
            taken.listen()
        usual = Ports.pick_usual()
    assert usual.mlflow != 5000
    assert is_free(usual.mlflow)


def test_free_ports_differ_and_so_do_those_beside_them() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(is_free(port + 10_000) for port in ports)


def test_a_secret_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    file = tmp_path / "secrets" / "key"
    secret = read_or_create_secret(file)
    assert len(secret) == 32
    assert secret.isalnum()
    assert read_or_create_secret(file) == secret
    assert read_or_create_secret(tmp_path / "secrets" / "other") != secret
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_a_private_file_is_replaced_by_one_that_is_as_private(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("old")
    file.chmod(0o644)
    assert write_private(file, "new").read_text() == "new"
    assert file.stat().st_mode & 0o777 == 0o600
