"""How commands fail: one line on standard error, and exit code 1."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.logging import RichHandler

from configs.load import SettingsError
from copytrace.errors import CopytraceError, StorageError

P = ParamSpec("P")
R = TypeVar("R")


def report_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Make a command turn the errors that its user can mend into one line."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        console = Console(stderr=True)
        logging.basicConfig(
            level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
        )
        try:
            return command(*args, **kwargs)
        except (OSError, StorageError) as error:
            kept = "what was finished is kept, and the same command goes on from there"
            print(f"copytrace: {error}; {kept}", file=sys.stderr)
            raise typer.Exit(1) from error
        except (CopytraceError, SettingsError) as error:
            print(f"copytrace: {error}", file=sys.stderr)
            raise typer.Exit(1) from error

    return run
