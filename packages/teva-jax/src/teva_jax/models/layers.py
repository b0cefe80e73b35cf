"""Layers that the families share, as Flax modules whose attributes bear Hugging Face's names.

A module is merged from its definition and arrays inside the traced function that calls it (``nnx.split`` once,
``nnx.merge`` per trace) and lives no longer: it has no state, and the keys of its dropout come with the call.
Legend: B texts, T tokens, I and O features in and out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

import jax
from teva_data.errors import ArtifactError
from teva_jax.mesh import constrain

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """An activation by the name that config.json has.

    Raises:
        ArtifactError: one that no family here has.
    """
    if name not in ACTIVATIONS:
        raise ArtifactError(f"config.json: activation {name!r}: expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def parameter(shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param[jax.ShapeDtypeStruct]:
    """A parameter that is a shape until a module is merged with arrays; ``axes`` say what its axes mean."""
    return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.float32), axes=axes)


class Linear(nnx.Module):
    """``x W^T + b`` with W [O, I], computed in the type of ``x``; an adapter may be set on it within a trace."""

    def __init__(self, inputs: int, outputs: int, axes: tuple[str, str], *, bias: bool) -> None:
        self.weight = parameter((outputs, inputs), axes)
        # A bias along the model's width is as small as a norm's weight, and lies where those do.
        self.bias = parameter((outputs,), ("norm" if axes[0] == "embed" else axes[0],)) if bias else None
        self.adapter = nnx.static(None)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., I] to [..., O]."""
        y = jnp.einsum("...i,oi->...o", x, self.weight[...].astype(x.dtype))
        if self.adapter is not None:
            y = y + self.adapter(x)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Embedding(nnx.Module):
    """A table [entries, width]."""

    def __init__(self, entries: int, width: int, axes: tuple[str, str]) -> None:
        self.weight = parameter((entries, width), axes)

    def __call__(self, ids: jax.Array, dtype: jnp.dtype, mesh: Mesh | None = None) -> jax.Array:
        """[B, T] to [B, T, width]."""
        # Each device looks up its part of the width for the texts of its whole fsdp group, and the group exchanges
        # them: without saying so, the compiler gives every device all of it.
        found = self.weight[...][constrain(ids, ("rows", "length"), mesh)].astype(dtype)
        return constrain(constrain(found, ("rows", "length", "embed"), mesh), ("batch", "length", None), mesh)


class LayerNorm(nnx.Module):
    """Mean and variance in float32 over the last axis."""

    def __init__(self, width: int, epsilon: float) -> None:
        self.weight, self.bias = parameter((width,), ("norm",)), parameter((width,), ("norm",))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., width] to the same."""
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        scaled = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
        return (scaled * self.weight[...] + self.bias[...]).astype(x.dtype)


class RMSNorm(nnx.Module):
    """Root mean square in float32 over the last axis; Gemma's weight is an offset from 1."""

    def __init__(self, width: int, epsilon: float, *, offset: float = 0.0) -> None:
        self.weight = parameter((width,), ("norm",))
        self.epsilon, self.offset = epsilon, offset

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., width] to the same."""
        wide = x.astype(jnp.float32)
        scaled = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.epsilon)
        return (scaled * (self.weight[...].astype(jnp.float32) + self.offset)).astype(x.dtype)
