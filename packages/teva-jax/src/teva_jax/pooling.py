"""Poolings: from one vector a token to one vector a text. Legend: B texts, T tokens, H hidden size.

Each takes ``hidden`` [B, T, H] and ``lengths`` int32 [B] of rows padded on the right, and returns float32 [B, H].
"""

from __future__ import annotations

import jax.numpy as jnp

import jax


def cls_pooling(hidden: jax.Array, lengths: jax.Array) -> jax.Array:
    """The first token's vector."""
    del lengths
    return hidden[:, 0].astype(jnp.float32)


def mean_pooling(hidden: jax.Array, lengths: jax.Array) -> jax.Array:
    """The mean over the tokens, summed in float32."""
    weight = (jnp.arange(hidden.shape[1]) < lengths[:, None]).astype(jnp.float32)
    # Not a product: what stands behind a text's end may be anything.
    kept = jnp.where(weight[..., None] > 0, hidden.astype(jnp.float32), 0)
    return kept.sum(axis=1) / jnp.maximum(lengths, 1)[:, None]


def last_pooling(hidden: jax.Array, lengths: jax.Array) -> jax.Array:
    """The last token's vector."""
    last = jnp.maximum(lengths - 1, 0)
    return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0].astype(jnp.float32)


def normalize(vectors: jax.Array) -> jax.Array:
    """Vectors of length 1, as torch's ``normalize`` makes them; the gradient of a zero vector is zero, not NaN."""
    squared = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    tiny = squared < 1e-24
    return vectors / jnp.where(tiny, 1e-12, jnp.sqrt(jnp.where(tiny, 1.0, squared)))
