"""How commands and flows fail at a terminal: one line on standard error, and exit code 1."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.logging import RichHandler

from configs.load import SettingsError
from copytrace.errors import ConfigError, CopytraceError, StorageError

P = ParamSpec("P")
R = TypeVar("R")

USER_ERRORS = (CopytraceError, SettingsError, OSError)
"""Errors that the user can fix; any other error is a bug and keeps its traceback."""

_RESUMABLE_ERRORS = (OSError, StorageError)

_UNUSABLE = (errno.ENAMETOOLONG, errno.EROFS)  # the same command cannot help
_IN_THE_WAY = (errno.EEXIST, errno.EISDIR, errno.ENOTDIR)  # a file where a folder is needed, or the other way round

LONGEST_LINE = 2000  # characters of an error that a terminal shows


@contextmanager
def exit_on_user_errors() -> Iterator[None]:
    """Print a user error in the block as one line on standard error, and exit with code 1."""
    try:
        yield
    except USER_ERRORS as error:
        typer.echo(f"copytrace: {_shorten(printable(str(error)))}{_hint(error)}", err=True)
        raise typer.Exit(1) from error


def _hint(error: Exception) -> str:
    if not isinstance(error, _RESUMABLE_ERRORS):
        return ""
    if isinstance(error, OSError) and error.errno in _IN_THE_WAY:
        return "; move what is in the way there, and give the same command again"
    if isinstance(error, OSError) and error.errno in _UNUSABLE:
        return "; name another place"
    return "; what was finished is kept, and the same command goes on from there"


def printable(text: str, kept: str = "") -> str:
    """Return a text in which all but printable characters, and those in `kept`, are written out, as `\\x1b`.

    Ids and paths of strangers may have some by which a terminal does more than show them.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in kept else each.encode("unicode_escape").decode() for each in text
    )


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_LINE else f"{text[: LONGEST_LINE - 200]} … {text[-200:]}"


def _check_encoding() -> None:
    """Raise `ConfigError` unless names of files are read as UTF-8."""
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8":
        raise ConfigError(f"names of files are read as {encoding} here; set PYTHONUTF8=1, or a locale such as C.UTF-8")


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), kept="\n")


def report_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Return the command, which then reports user errors as `exit_on_user_errors` does and logs warnings."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        console = Console(stderr=True)
        handler = RichHandler(console=console, show_path=False)
        handler.setFormatter(_PrintableFormatter("%(message)s"))
        logging.basicConfig(level=logging.WARNING, handlers=[handler])
        with exit_on_user_errors():
            _check_encoding()
            return command(*args, **kwargs)

    return run
