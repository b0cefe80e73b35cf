"""Engines: what turns token ids into vectors. Found by entry point, so that teva-infer itself needs no framework."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from teva_data.errors import MissingExtraError, TevaError, nearest

if TYPE_CHECKING:
    import numpy as np

    from teva_data.artifact import Artifact

GROUP = "teva_infer.engines"

# Engines of teva's own packages: the requirement that brings each.
_EXTRAS = {"torch": "teva-infer[torch]", "jax": "teva-infer[jax]"}


@runtime_checkable
class Engine(Protocol):
    """Turns token ids into vectors, and nothing else: order, batches and shards are teva-infer's."""

    @classmethod
    def load(cls, artifact: Artifact, *, device: str = "auto", dtype: str = "float32") -> Engine:
        """Load an artifact's weights.

        Args:
            artifact: the model.
            device: "auto", or a name that the engine knows, e.g. "cpu", "cuda:1".
            dtype: what the engine computes in: "float32", "bfloat16" or "float16".
        """
        ...

    def encode(self, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Encode one batch.

        Args:
            token_ids: B rows of at least one token, special tokens included, not padded.

        Returns:
            float32 [B, dim], pooled, of length 1 where the artifact says so.
        """
        ...


def find_engine(name: str) -> type[Engine]:
    """The class of an engine, by the name of its entry point in the group ``teva_infer.engines``.

    Raises:
        MissingExtraError: the package that has it is not installed.
        TevaError: nobody knows an engine of this name.
    """
    points = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if name not in points:
        if name in _EXTRAS:
            raise MissingExtraError(f"the engine {name!r}", _EXTRAS[name])
        raise TevaError(f"unknown engine {name!r}. {nearest(name, {*points, *_EXTRAS})}")
    try:
        found: Any = points[name].load()
    except ModuleNotFoundError as error:
        owner = points[name].dist
        requirement = _EXTRAS.get(name) or (owner.name if owner else points[name].module)
        raise MissingExtraError(f"the engine {name!r} (no module {error.name!r})", requirement) from error
    return cast("type[Engine]", found)
