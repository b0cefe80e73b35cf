"""Declarations of known datasets, one module each: where they lie, their layout, their terms, and how many rows.

Add one by adding a module here with a :class:`Declaration` named ``DECLARATION``, and its name to :data:`NAMES`.
"""

from __future__ import annotations

import importlib

from teva_data.errors import DataError, nearest

from .declaration import Declaration, Source

__all__ = ["NAMES", "Declaration", "Source", "declaration", "declarations"]

NAMES = ("audiocaps", "bge-full", "colpali-train", "msmarco-passage", "msrvtt", "pixmo-docs", "wiki-ss")
"""The declared datasets; the module of each has its name, with ``_`` for ``-``."""


def declaration(name: str) -> Declaration:
    """The declaration of a dataset.

    Raises:
        DataError: no dataset of this name is declared; the nearest one is named.
    """
    if name not in NAMES:
        raise DataError("no such dataset is declared", field="name", found=name, hint=nearest(name, NAMES))
    found = importlib.import_module(f".{name.replace('-', '_')}", __name__).DECLARATION
    assert isinstance(found, Declaration)
    return found


def declarations() -> list[Declaration]:
    """All declarations, by name."""
    return [declaration(name) for name in NAMES]
