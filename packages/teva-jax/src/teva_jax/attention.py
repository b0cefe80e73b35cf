"""Attention behind one function. Legend: B texts, T tokens, N query heads, K key heads (N is a multiple of K), D size.

Rows are padded on the right, so that a length says all about a row.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.sharding import Mesh

import jax

Window = tuple[int | None, int | None]
"""Tokens before and after its own place that a token sees; None for all of them. (None, 0) is causal."""


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lengths: jax.Array,
    *,
    scale: float,
    window: Window = (None, None),
    wide: jax.Array | bool | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Scaled dot-product attention, grouped heads, a window and a cap on the scores.

    Args:
        q: [B, T, N, D].
        k: [B, T, K, D].
        v: [B, T, K, D].
        lengths: int32 [B], tokens of each row; what stands behind them is seen by none.
        scale: of the scores.
        window: how far a token sees.
        wide: whether the window is opened: a token sees all that it may see by direction.
        softcap: ``c tanh(score / c)`` in place of each score (Gemma 2).
        dropout: of the weights, with ``key``.
        key: for the dropout; none without it.
        mesh: the devices that the arrays lie on.

    Returns:
        [B, T, N, D] in the type of ``q``. Rows behind a text's end hold numbers without meaning, never NaN.
    """
    del mesh
    if isinstance(wide, bool):
        window, wide = opened(window) if wide else window, None
    return _xla(q, k, v, lengths, window=window, wide=wide, scale=scale, softcap=softcap, dropout=dropout, key=key)


def opened(window: Window) -> Window:
    """A window without its bound: causal stays causal."""
    return None, 0 if window[1] == 0 else None


def visible(length: int, lengths: jax.Array, window: Window) -> jax.Array:
    """Which token sees which: bool [B, T, T] (query, key)."""
    place = jnp.arange(length)
    distance = place[:, None] - place[None, :]  # how far the key stands before the query
    before, after = window
    seen = jnp.ones((length, length), bool)
    if before is not None:
        seen &= distance <= before
    if after is not None:
        seen &= distance >= -after
    return seen[None] & (place < lengths[:, None])[:, None, :]


def _xla(
    q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array, *, window: Window, wide: jax.Array | None,
    scale: float, softcap: float | None, dropout: float, key: jax.Array | None,
) -> jax.Array:  # fmt: skip
    batch, length, heads, size = q.shape
    groups = k.shape[2]
    q = q.reshape(batch, length, groups, heads // groups, size)
    scores = jnp.einsum("btkgd,bskd->bkgts", q, k, preferred_element_type=jnp.float32) * scale
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    seen = visible(length, lengths, window)
    if wide is not None:
        seen |= wide & visible(length, lengths, opened(window))
    seen = seen[:, None, None]
    # A finite number: rows behind the end of a text may see nothing, and must not become NaN.
    weights = jax.nn.softmax(jnp.where(seen, scores, jnp.finfo(jnp.float32).min), axis=-1)
    if dropout and key is not None:
        kept = jax.random.bernoulli(key, 1 - dropout, weights.shape)
        weights = jnp.where(kept, weights / (1 - dropout), 0)
    mixed = jnp.einsum("bkgts,bskd->btkgd", weights.astype(v.dtype), v)
    return mixed.reshape(batch, length, heads, size)
