"""``key=value`` words of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from teva_data.errors import TevaError


def options_of(words: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words as a mapping; values are read as YAML, so that 8 is a number and true a truth."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise TevaError(f"--engine-option: found {word!r}; expected key=value")
        found[key] = yaml.safe_load(value)
    return found


def numbers_of(words: Sequence[str], option: str) -> dict[str, int]:
    """``name=number`` words as a mapping.

    Raises:
        TevaError: a word that is not so.
    """
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        if not value.isdecimal():
            raise TevaError(f"{option}: found {word!r}; expected name=number")
        found[name] = int(value)
    return found
