"""Approximate indexes: structures that search a corpus without looking at all of it, found by entry point.

:mod:`.building` makes an index from embeddings, part by part, and :mod:`.opened` searches it; :mod:`.tuning` measures
what it finds of what exact search finds, and how fast. The structures themselves are FAISS's (:mod:`.faiss_kinds`).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from teva_data.errors import TevaError, nearest
from teva_data.plugins import loaded

if TYPE_CHECKING:
    import numpy as np

GROUP = "teva_infer.indexes"
MOST = 2**31 - 1
"""The largest setting or knob: a structure's library may hold it in 32 bits, and would go on with another number."""

Numbers = Mapping[str, int]


class Structure(Protocol):
    """What is built over the vectors of one part of a corpus.

    Two methods more are used where it has them:

    - ``join(other, first_row) -> bool`` takes in all rows of another structure of the kind, numbered from ``first_row``
      on, and leaves the other empty; False, with both as they were, where they stay apart. Without it they do: the
      parts are searched one by one.
    - ``on(device) -> Structure`` is the same on a device ("cpu", "cuda", "cuda:1"), and raises TevaError where there is
      no such device. Without it the CPU is the only one.
    """

    def train(self, sample: np.ndarray) -> None:
        """Learn from a sample, float32 [n, dim], what has to be known before vectors are added."""
        ...

    def add(self, vectors: np.ndarray) -> None:
        """Take in vectors, float32 [n, dim]; rows are numbered from 0 as they come."""
        ...

    def search(self, queries: np.ndarray, depth: int, knobs: Numbers) -> tuple[np.ndarray, np.ndarray]:
        """Find hits that are likely the best.

        Args:
            queries: float32 [Q, dim].
            depth: hits for each query.
            knobs: how much is looked at; those of the kind.

        Returns:
            Scores, float32 [Q, depth], larger is better, and rows, int64 [Q, depth], -1 where there is none.
        """
        ...

    def save(self, file: Path) -> None:
        """Write it to a file."""
        ...


class Kind(Protocol):
    """A way to index, as an entry point in the group ``teva_infer.indexes`` names it.

    Attributes:
        settings: what is decided when an index is built, with defaults; 0 is chosen by the corpus's size.
        knobs: what is decided when it is searched: name to the values that ``tune`` tries, the default first.
        oversample: candidates for each hit wanted, whose exact scores decide; 1 where the structure's scores are
            inner products already.
    """

    settings: Numbers
    knobs: Mapping[str, Sequence[int]]
    oversample: int

    def resolve(self, settings: Numbers, *, dim: int, rows: int) -> dict[str, int]:
        """All settings, for a corpus of ``rows`` vectors.

        Raises:
            TevaError: a setting that does not fit the vectors.
        """
        ...

    def sample(self, settings: Numbers) -> int:
        """Vectors that :meth:`Structure.train` wants; 0 where there is nothing to learn."""
        ...

    def empty(self, settings: Numbers, *, dim: int, seed: int) -> Structure:
        """A structure without vectors, for settings as :meth:`resolve` gives them."""
        ...

    def load(self, file: Path, settings: Numbers) -> Structure:
        """What :meth:`Structure.save` wrote."""
        ...


def find_kind(name: str) -> Kind:
    """The kind registered under a name.

    Raises:
        TevaError: there is none of that name, or its package does not have it.
        MissingExtraError: what it needs is not installed.
    """
    points = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if name not in points:
        raise TevaError(f"unknown kind of index {name!r}. {nearest(name, points)}")
    return cast("Kind", loaded(points[name], f"an index of the kind {name!r}", "teva-infer[faiss]"))


def moved(structure: Structure, device: str) -> Structure:
    """A structure on a device.

    Raises:
        TevaError: there is no such device, or the structure does not go there.
    """
    move = getattr(structure, "on", None)
    if move is not None:
        return cast("Structure", move(device))
    if device != "cpu":
        raise TevaError(f"device {device!r}: {type(structure).__name__} is searched on the CPU alone")
    return structure


def bounded(given: Numbers) -> None:
    """Refuse numbers past :data:`MOST`.

    Raises:
        TevaError: names the first one.
    """
    for name, value in given.items():
        if value > MOST:
            raise TevaError(f"{name}: found {value}; expected at most {MOST:,}")


def checked(given: Numbers, known: Mapping[str, object], what: str) -> None:
    """Refuse names that are not known.

    Raises:
        TevaError: names the first one.
    """
    for name in given:
        if name not in known:
            raise TevaError(f"{what}: {name!r} is not known. {nearest(name, known) if known else 'There are none'}")
