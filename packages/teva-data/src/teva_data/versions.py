"""Versions of what vectors and scores depend on, for records."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterable

# They decode and resize media: Pillow 13 resizes some pictures in another order than 12, and gives other bytes.
DECODERS = ("pillow", "torchcodec", "soundfile", "soxr")


def installed(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those distributions that are installed, in the order given."""
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
