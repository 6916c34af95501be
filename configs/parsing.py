"""Parsing of JSON and YAML that anybody may have written: whatever is wrong with a text, a `ValueError` says it."""

from __future__ import annotations

import json
from typing import Any

import yaml

_TOO_DEEP = "it is nested too deeply"


def parse_json(text: str | bytes) -> Any:
    """Return the value of a text in JSON, with NaN and infinities as Python writes them. Raises `ValueError`."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error


def parse_yaml(text: str) -> Any:
    """Return the value of a text in YAML, without objects of Python. Raises `ValueError`, with a text in one line."""
    try:
        return yaml.safe_load(text)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    # Its constructors raise what they meet: for a date such as 2024-13-45, or a tag that does not fit its value.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(" ".join(str(error).split())) from error
