"""Dropout whose key comes with the call: what is drawn is a function of it, not of a hidden state."""

from __future__ import annotations

import jax.numpy as jnp

import jax


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Inverted dropout; none without a key."""
    if key is None or not rate:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)
