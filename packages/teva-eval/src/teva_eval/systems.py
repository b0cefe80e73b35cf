"""What a benchmark is run with. A system is anything with the two methods of :class:`System`.

Two ship: ``dense`` (teva-infer: encoders and exact search) and ``bm25``. They are found by entry point, so this package
imports neither a model nor a search: the group is ``teva_eval.systems``, a name's value a factory that takes options by
keyword and returns a system.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from teva_data.dataset import Dataset
from teva_data.errors import MissingExtraError, TevaError, nearest
from teva_data.plugins import loaded
from teva_data.runs import Run

GROUP = "teva_eval.systems"
_EXTRAS = {"dense": "teva-eval[infer]", "bm25": "teva-eval[bm25]"}


@runtime_checkable
class System(Protocol):
    """Finds documents for the queries of a dataset.

    Attributes:
        name: what it is called in tables; a directory has this name.
    """

    name: str

    def describe(self, *, query_prompt: str | None = None, document_prompt: str | None = None) -> Mapping[str, Any]:
        """All that decides what it finds, JSON-able: model, fingerprint, prompts, lengths, pooling, dtype, settings.

        Two systems that describe themselves alike must find the same.

        Args:
            query_prompt: the task's; None: the system's own.
            document_prompt: the task's; None: the system's own.
        """
        ...

    def search(
        self,
        dataset: Dataset,
        split: str,
        *,
        depth: int,
        exclude_self: bool,
        query_prompt: str | None,
        document_prompt: str | None,
        work: Path,
    ) -> Mapping[str, Run]:
        """Find the best documents for each query.

        Args:
            dataset: documents and queries.
            split: whose queries.
            depth: documents for each query.
            exclude_self: leave out the document whose id is the query's.
            query_prompt: as in :meth:`describe`.
            document_prompt: as in :meth:`describe`.
            work: a directory that stays between calls, for what need not be done twice.

        Returns:
            runs by variant: ``""`` is the system itself; others are its variants, e.g. ``dim=64``.
        """
        ...


def load_system(kind: str, **options: Any) -> System:
    """A system by the name of its entry point.

    Raises:
        MissingExtraError: the package that has it is not installed.
        TevaError: nobody knows a system of this name, its package does not have it, or what was found is none.
    """
    points = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if kind not in points:
        if kind in _EXTRAS:
            raise MissingExtraError(f"the system {kind!r}", _EXTRAS[kind])
        raise TevaError(f"unknown system {kind!r}. {nearest(kind, {*points, *_EXTRAS})}")
    what, requirement = f"the system {kind!r}", _EXTRAS.get(kind, points[kind].value)
    make = loaded(points[kind], what, requirement)
    try:
        made = make(**options)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{what} (no module {error.name!r})", requirement) from error
    return as_system(made)


def as_system(given: object) -> System:
    """A system of what a caller gives: one already, or an encoder (``encode_queries``, ``encode_documents``).

    Raises:
        TevaError: it is neither.
        MissingExtraError: it is an encoder, and teva-infer, which searches with it, is not installed.
    """
    if isinstance(given, System):
        return given
    if hasattr(given, "encode_queries") and hasattr(given, "encode_documents"):
        return load_system("dense", model=given)
    raise TevaError(
        f"{type(given).__name__} is no system: it needs `name`, `describe` and `search` (teva_eval.System), or "
        "`encode_queries` and `encode_documents`"
    )
