"""Errors of the disk, of a store and of its client as one-line reasons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from copytrace.errors import MediaError
from copytrace.object_store import is_uri


@contextmanager
def media_errors(path: str) -> Iterator[None]:
    """Raise `MediaError` with a one-line reason, without the path, if a local file or a URI cannot be read."""
    try:
        yield
    except MediaError:
        raise
    except FileNotFoundError as error:
        raise MediaError("file not found") from error
    except PermissionError as error:
        raise MediaError("permission denied") from error
    except Exception as error:
        if is_uri(path):
            # A store's client raises errors of many types. Their texts may contain keys; the names of the types do not.
            raise MediaError(f"cannot be fetched ({type(error).__name__})") from error
        if isinstance(error, OSError | ValueError):  # ValueError: a null byte in the path
            raise MediaError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
        raise
