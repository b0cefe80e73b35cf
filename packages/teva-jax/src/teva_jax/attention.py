"""Attention behind one function. Legend: B texts, T tokens, N query heads, K key heads (N is a multiple of K), D size.

Rows are padded on the right, so that a length says all about a row.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

import jax

from .mesh import sharding

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
    window = _bounded(window, q.shape[1])
    if isinstance(wide, bool) or window == opened(window):
        window, wide = opened(window) if wide else window, None
    kind = choose(_platform(mesh), q, k, window, softcap=softcap, dropout=dropout if key is not None else 0, mesh=mesh)
    if kind == "xla":
        return _xla(q, k, v, lengths, window=window, wide=wide, scale=scale, softcap=softcap, dropout=dropout, key=key)

    def run(window: Window) -> jax.Array:
        if kind == "splash":
            return splash(q, k, v, lengths, window=window, scale=scale, softcap=softcap, mesh=mesh)
        return cudnn(q, k, v, lengths, window=window, scale=scale)

    if wide is None:
        return run(window)
    return jax.lax.cond(wide, lambda: run(opened(window)), lambda: run(window))


def choose(
    platform: str,
    q: jax.Array,
    k: jax.Array,
    window: Window,
    *,
    softcap: float | None,
    dropout: float,
    mesh: Mesh | None,
) -> str:
    """Which implementation serves a call: ``xla``, ``splash`` (TPU) or ``cudnn`` (GPU).

    The kernels have no dropout and multiply in half precision; XLA has both, and is as fast for short texts: at 512
    tokens its scores of one head are 1 MB.
    """
    _, length, _, size = q.shape
    if dropout or q.dtype not in (jnp.bfloat16, jnp.float16):
        return "xla"
    if platform == "tpu":
        return "splash" if length >= 512 and length % 128 == 0 and _divides(q, k, mesh) else "xla"
    if platform in ("gpu", "cuda"):
        causal_or_full = window == (None, None) or window[1] == 0
        return "cudnn" if size <= 128 and size % 8 == 0 and softcap is None and causal_or_full else "xla"
    return "xla"


def splash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lengths: jax.Array,
    *,
    window: Window,
    scale: float,
    softcap: float | None = None,
    mesh: Mesh | None = None,
    interpret: bool = False,
) -> jax.Array:
    """JAX's Splash kernel for TPUs, each device on its own texts and heads; arguments as of :func:`attend`.

    T must be a multiple of 128. ``interpret`` computes it without a TPU.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    length = q.shape[1]
    block = next(size for size in (512, 256, 128) if length % size == 0)
    sizes = kernels.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=block, block_q_dkv=block, block_kv_dkv=block,
        block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block,
    )  # fmt: skip

    def local(q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array) -> jax.Array:
        kernel = kernels.make_splash_mha(
            kernels.MultiHeadMask([_splash_mask(kernels, length, window)] * q.shape[2]), block_sizes=sizes,
            head_shards=1, q_seq_shards=1, attn_logits_soft_cap=softcap, interpret=interpret,
        )  # fmt: skip
        # A text is one segment and what stands behind it another, so that no row sees nothing at all.
        real = (jnp.arange(length) < lengths[:, None]).astype(jnp.int32)
        # Scores are not scaled by the kernel.
        given = (jnp.swapaxes(each, 1, 2) for each in ((q * scale).astype(q.dtype), k, v))
        mixed = jax.vmap(kernel)(*given, kernels.SegmentIds(real, real))
        return jnp.swapaxes(mixed, 1, 2)

    if mesh is None or mesh.size == 1:
        return local(q, k, v, lengths)
    rows, whole = sharding(("batch", None, "heads", None), mesh).spec, sharding(("batch",), mesh).spec
    mapped = jax.shard_map(local, mesh=mesh, in_specs=(rows, rows, rows, whole), out_specs=rows, check_vma=False)
    return mapped(q, k, v, lengths)


def cudnn(q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array, *, window: Window, scale: float) -> jax.Array:
    """cuDNN's fused attention for GPUs, in half precision; arguments as of :func:`attend`."""
    before, after = window
    return jax.nn.dot_product_attention(
        q, k, v, scale=scale, is_causal=after == 0, query_seq_lengths=lengths, key_value_seq_lengths=lengths,
        local_window_size=None if before is None else (before, 0), implementation="cudnn",
    )  # fmt: skip


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


def _bounded(window: Window, length: int) -> Window:
    """A window whose bounds are taken away where no text is long enough to meet them."""
    before, after = window
    # Of one token both are met by none; what is causal stays so, for the kernels to know it.
    before = None if before is None or before >= length - 1 else before
    return before, after if after is None or after == 0 or after < length - 1 else None


def _platform(mesh: Mesh | None) -> str:
    return jax.default_backend() if mesh is None else str(mesh.devices.flat[0].platform)


def _divides(q: jax.Array, k: jax.Array, mesh: Mesh | None) -> bool:
    """Whether each device has whole texts and whole groups of heads."""
    if mesh is None:
        return True
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    return q.shape[0] % rows == 0 and k.shape[2] % mesh.shape["tensor"] == 0


def _splash_mask(kernels: Any, length: int, window: Window) -> Any:
    if window == (None, None):
        return kernels.FullMask((length, length))
    if window == (None, 0):
        return kernels.CausalMask((length, length))
    return kernels.LocalMask((length, length), window, offset=0)
