"""Versions of what crosses a package boundary on disk; a reader names those that it takes."""

from __future__ import annotations

from typing import Final

SCHEMA: Final[dict[str, str]] = {"dataset": "1", "recipe": "1", "artifact": "1", "embeddings": "1"}
