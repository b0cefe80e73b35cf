"""Sums over all pairs of two sets of vectors, in memory that is linear in their number.

Of the matrix of similarities a few rows are there at a time, forward and, computed again, backward (Cheng et al.,
"Breaking the Memory Barrier: Near Infinite Batch Size Scaling for Contrastive Loss", arXiv 2410.17243). All of it is
float32 of the highest precision: a TPU else multiplies float32 in bfloat16, and at temperature 0.01 the step between
two neighbouring bfloat16 numbers near 0.7 would be 0.4 in the logit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp

import jax

FLOOR = -1e30
"""The log of an empty sum: finite, so that no gradient of it is NaN, and 0 in any sum it is added to."""

TILE = 1024
"""Rows of a tile where not given."""

LeaveOut: TypeAlias = Callable[[jax.Array], jax.Array]
"""From the numbers int32 [t] of some rows to bool [t, C]: the pairs that are left out."""


def log_sum_exp(
    rows: jax.Array, columns: jax.Array, leave_out: LeaveOut, *, limit: jax.Array | None = None, tile: int | None = None
) -> jax.Array:
    """For each row, log of the sum over columns of exp(row . column).

    Args:
        rows: float32 [R, H].
        columns: float32 [C, H].
        leave_out: the pairs that the sums leave out.
        limit: float32 [R]; pairs above their row's limit are left out too. No gradient goes through it.
        tile: rows at a time; ``TILE`` where not given.

    Returns:
        float32 [R]; ``FLOOR`` where a row has no pair left.

    Raises:
        ValueError: ``tile`` is below 1.
    """
    if tile is not None and tile < 1:
        raise ValueError(f"tile {tile}; expected at least 1")
    count = rows.shape[0]
    parts = -(-count // (tile or TILE))
    limit = jnp.full(count, jnp.inf) if limit is None else jax.lax.stop_gradient(limit)

    def some(given: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        rows, numbers, limit = given
        scores = jnp.matmul(rows, columns.T, precision="highest", preferred_element_type=jnp.float32)
        out = leave_out(numbers) | (scores > limit[:, None])
        scores = jnp.where(out, -jnp.inf, scores)
        top = jax.lax.stop_gradient(jnp.maximum(scores.max(axis=1), FLOOR))
        total = jnp.exp(scores - top[:, None]).sum(axis=1)
        return jnp.where(total > 0, top + jnp.log(jnp.where(total > 0, total, 1)), FLOOR)

    if parts == 1:
        return some((rows, jnp.arange(count), limit))
    # Numbers of their own for rows that fill up: none may pass for a row that is there.
    numbers = jnp.arange(count + -count % parts)
    given = tuple(_strided(value, parts) for value in (rows, numbers, limit))
    sums: jax.Array = jax.lax.map(jax.checkpoint(some, prevent_cse=False), given)
    return sums.swapaxes(0, 1).reshape(-1)[:count]


def group_similarity(queries: jax.Array, documents: jax.Array, groups: jax.Array) -> jax.Array:
    """Dot products of each query with its own few documents.

    Args:
        queries: float32 [Q, H].
        documents: float32 [D, H].
        groups: int32 [Q, G], rows of ``documents``; -1 for none.

    Returns:
        float32 [Q, G], 0 where there is none.
    """

    # One place of the groups at a time: [Q, G, H] would be a second copy of the documents.
    @jax.checkpoint
    def one(own: jax.Array) -> jax.Array:
        return jnp.where(own >= 0, (queries * documents[jnp.maximum(own, 0)]).sum(axis=1), 0)

    found: jax.Array = jax.lax.map(one, groups.T)
    return found.T


def _strided(value: jax.Array, parts: int) -> jax.Array:
    """[R, ...] as [parts, R / parts, ...], filled up; each part has rows from everywhere.

    Of rows that lie in order over devices, each device so keeps its own in every part.
    """
    more = -len(value) % parts
    value = jnp.pad(value, ((0, more), *(((0, 0),) * (value.ndim - 1))))
    return value.reshape(-1, parts, *value.shape[1:]).swapaxes(0, 1)
