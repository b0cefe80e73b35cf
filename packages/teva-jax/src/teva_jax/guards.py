"""What stops a run, in words that help: numbers that are not finite, memory that does not suffice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

import jax
from teva_data.errors import TevaError

from .feed import MeshBatch, Shapes

_NAMED = 8
_ADVICE = "Lower train.learning_rate, or use train.precision float32. The newest checkpoint is kept"


class TrainingError(TevaError):
    """Training cannot go on."""


def not_finite(what: str, batch: MeshBatch, value: float) -> TrainingError:
    """The error for vectors, a loss or a gradient that are not finite."""
    ids = [query.query_id for query in batch.item.batch.queries]
    return TrainingError(f"{what} ({value}); queries {_list(ids)}. {_ADVICE}")


def expect_finite(finite: bool, loss: float, norm: float, batch: MeshBatch) -> None:
    """Refuse a step whose numbers are not finite; nothing was changed by it.

    Raises:
        TrainingError: with the queries of the batch.
    """
    if not finite:
        raise not_finite("the vectors are not finite", batch, loss)
    if not np.isfinite(loss):
        raise not_finite("the loss is not finite", batch, loss)
    if not np.isfinite(norm):
        raise not_finite("the norm of the gradient is not finite", batch, norm)


@contextlib.contextmanager
def memory(shapes: Shapes, *, cached: bool, remat: bool) -> Iterator[None]:
    """Turn an error of too little memory into one that names the settings which would help most.

    Raises:
        TrainingError: in its place.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        helps = [] if cached else ["jax.gradient_cache true (keeps one chunk's activations, not the batch's)"]
        helps += [] if remat else ["jax.remat true"]
        if shapes.chunk_tokens > shapes.limit:
            helps.append(f"jax.chunk_tokens {max(shapes.limit, shapes.chunk_tokens // 2)} (now {shapes.chunk_tokens})")
        helps.append("a larger jax.fsdp")
        first = str(error).splitlines()[0][:300]
        raise TrainingError(
            f"out of memory on a device: {first}. Would help most: {'; '.join(helps)}. `teva-jax plan` tells what "
            "fits. The newest checkpoint is kept"
        ) from error


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
