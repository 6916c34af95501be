"""Flows at a terminal: the project's Prefect settings apply in every folder, and user errors are one line."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.logging.handlers import PrefectConsoleHandler
from prefect.settings import temporary_settings
from pydantic import ValidationError

from configs.load import SettingsError, flatten
from configs.runner import Runner
from copytrace.cli.errors import USER_ERRORS, exit_on_user_errors

SETTINGS_FILE = Path(__file__).parents[1] / "prefect.toml"


def parse_runner(text: str) -> Runner:
    """Return the runner that `--runner` describes. Raises `SettingsError` if the text is invalid."""
    try:
        return Runner.parse(text)
    except ValidationError as error:
        raise SettingsError(
            f"--runner {text!r} is not a runner; write threads, threads:2, dask:2, or an address such as tcp://dask:8786"
        ) from error


@contextmanager
def terminal_session(level: int = logging.INFO) -> Iterator[None]:
    """Run flows in the block for a user at a terminal; after a user error, print one line and exit with code 1.

    Prefect reads `prefect.toml` in the current folder only; here its settings apply in every folder, unless the user
    has set others. The console shows no log records below `level` and no tracebacks of user errors; the API keeps both.
    """
    defaults = flatten(tomllib.loads(SETTINGS_FILE.read_text())) if SETTINGS_FILE.exists() else {}
    _quiet(level)
    with exit_on_user_errors(), temporary_settings(set_defaults=defaults):
        yield


def _quiet(level: int) -> None:
    # The filter stays for the rest of the process, because Prefect still logs when it exits.
    def is_shown(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return record.levelno >= level and not isinstance(error, USER_ERRORS)

    for handler in logging.getLogger().handlers:
        if isinstance(handler, PrefectConsoleHandler):
            handler.addFilter(is_shown)
