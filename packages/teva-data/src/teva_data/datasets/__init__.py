"""Declarations of known datasets, one module each: where they lie, their layout, their terms, and how many rows.

Add one by adding a module here with a :class:`Declaration` named ``DECLARATION``, and its name to :data:`NAMES`; or in
a package of your own, by an entry point in the group ``teva_data.datasets`` that names the :class:`Declaration`.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points

from teva_data.errors import DataError, nearest
from teva_data.plugins import loaded

from .declaration import Declaration, Source

__all__ = ["NAMES", "Declaration", "Source", "declaration", "declarations", "known"]

NAMES = ("audiocaps", "bge-full", "colpali-train", "msmarco-passage", "msrvtt", "pixmo-docs", "wiki-ss")
"""The datasets that are declared here; the module of each has its name, with ``_`` for ``-``."""
GROUP = "teva_data.datasets"


def known() -> tuple[str, ...]:
    """All declared datasets: those here, then those of installed packages."""
    return (*NAMES, *sorted({point.name for point in entry_points(group=GROUP)} - set(NAMES)))


def declaration(name: str) -> Declaration:
    """The declaration of a dataset.

    Raises:
        DataError: no dataset of this name is declared; the nearest one is named. Or a package's entry point names
            something else.
    """
    if name in NAMES:
        found = importlib.import_module(f".{name.replace('-', '_')}", __name__).DECLARATION
    elif points := tuple(entry_points(group=GROUP, name=name)):
        found = loaded(points[0])
    else:
        raise DataError("no such dataset is declared", field="name", found=name, hint=nearest(name, known()))
    if not isinstance(found, Declaration) or found.name != name:
        raise DataError(
            "an entry point of a declared dataset", field=f"{GROUP}: {name}", found=getattr(found, "name", found),
            expected=f"a Declaration of the name {name!r}",
        )  # fmt: skip
    return found


def declarations() -> list[Declaration]:
    """All declarations, by name."""
    return [declaration(name) for name in known()]
