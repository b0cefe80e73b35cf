"""Which pairs the sums of :mod:`.tiled` leave out, made for some rows at a time and never as a whole matrix."""

from __future__ import annotations

import jax.numpy as jnp

import jax

from .targets import Targets
from .tiled import LeaveOut


def listed(targets: Targets, columns: int, *, own_group: bool) -> LeaveOut:
    """Leaves out the excluded pairs, each query's positive, columns without a document, and by wish its own group.

    Args:
        targets: of all queries.
        columns: D.
        own_group: whether a query's own negatives are left out as well.
    """

    def leave_out(rows: jax.Array) -> jax.Array:
        out = excluded(targets, rows, columns) | _absent(columns, targets.document_count)
        own = targets.groups[rows] if own_group else targets.positives[rows, None]
        # -1 would be the last column: where there is none, one column too many, which is dropped.
        own = jnp.where(own >= 0, own, columns)
        return out.at[jnp.arange(len(rows))[:, None], own].set(True, mode="drop")

    return leave_out


def other_queries(targets: Targets, documents: int, *, both: bool) -> LeaveOut:
    """Leaves out queries that a document's own query shares it with: rows are queries, columns all queries.

    Query j is left out for query i where i's positive is a positive of j, or (``both``) j's is one of i; so is i
    itself. Which positives a query has beside the one in the batch is what its excluded columns say.

    Args:
        targets: of all queries.
        documents: D.
        both: see above.
    """
    queries = len(targets.positives)

    def leave_out(rows: jax.Array) -> jax.Array:
        own = targets.positives[rows]
        out = (own[:, None] == targets.positives[None]) | _absent(queries, targets.query_count)
        of, column = targets.excluded[:, 0], targets.excluded[:, 1]
        out = out.at[:, of].max(own[:, None] == column[None], mode="drop")
        if both:
            theirs = jnp.where(targets.positives >= 0, targets.positives, 0)
            out |= excluded(targets, rows, documents)[:, theirs]
        return out

    return leave_out


def excluded(targets: Targets, rows: jax.Array, columns: int) -> jax.Array:
    """Bool [t, D]: the excluded pairs of some rows."""
    # Rows stand anywhere: each pair finds the place of its own row among them, or none.
    place = jnp.full(len(targets.positives) + 1, len(rows), jnp.int32)
    # Where all rows are asked for, they are the same numbers as what is put there, and XLA would make them one array:
    # over a scatter whose places are its values libtpu 0.0.42's compiler ends at a check of its own.
    numbers = jax.lax.optimization_barrier(jnp.arange(len(rows), dtype=jnp.int32))
    place = place.at[rows].set(numbers, mode="drop")
    at = place[jnp.minimum(targets.excluded[:, 0], len(targets.positives))]
    out = jnp.zeros((len(rows), columns), bool)
    return out.at[at, targets.excluded[:, 1]].set(True, mode="drop")


def _absent(width: int, count: jax.Array) -> jax.Array:
    """Bool [1, width]: columns that are there for the shape's sake."""
    return (jnp.arange(width) >= count)[None]
