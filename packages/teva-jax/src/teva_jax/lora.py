"""LoRA with PEFT's semantics: factors in a tree of their own, beside frozen weights that they are never merged into.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685); rank-stabilised scaling:
Kalajdzievski (arXiv 2312.03732). ``layers.*.mlp.up_proj.lora_A.weight`` [L, rank, in] and ``….lora_B.weight``
[L, out, rank] stand for ``layers.*.mlp.up_proj.weight`` [L, out, in].
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

import jax
from teva_data.errors import RecipeError, nearest

from .dropout import dropout
from .params import Spec

DOWN, UP = ".lora_A.weight", ".lora_B.weight"


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """What is adapted and how it is scaled.

    Attributes:
        rank: of the two factors.
        alpha: their product is scaled by alpha / rank.
        dropout: of what goes into the first factor.
        targets: ends of names of linear layers; None for all in the blocks.
        rslora: scale by alpha / sqrt(rank).
    """

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    rslora: bool = False

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclasses.dataclass(frozen=True)
class LowRank:
    """What LoRA adds to a linear layer: ``scale (dropout(x) A^T) B^T`` (arXiv 2106.09685, section 4.1).

    Attributes:
        down: A, [rank, I].
        up: B, [O, rank].
        scale: alpha / rank, or alpha / sqrt(rank).
        dropout: of what goes into A.
        key: for the dropout.
    """

    down: jax.Array
    up: jax.Array
    scale: float
    dropout: float = 0.0
    key: jax.Array | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., I] to [..., O], in the type of ``x``."""
        x = dropout(x, self.dropout, self.key)
        small = jnp.einsum("...i,ri->...r", x, self.down.astype(x.dtype))
        return jnp.einsum("...r,or->...o", small, self.up.astype(x.dtype)) * self.scale


def targets(weights: Mapping[str, Spec], settings: LoraSettings) -> list[str]:
    """The linear layers that are adapted, as names in the model's table without ``.weight``.

    Raises:
        RecipeError: a target that no linear layer's name ends with.
    """
    known = [name.removesuffix(".weight") for name, spec in weights.items() if "*" in name and len(spec.shape) == 3]
    if settings.targets is None:
        return known
    for target in settings.targets:
        if not any(name.endswith(f".{target}") for name in known):
            ends = {name.rpartition(".")[2] for name in known}
            raise RecipeError(f"lora.targets: no linear layer is called {target!r}. {nearest(target, ends)}")
    return [name for name in known if any(name.endswith(f".{target}") for target in settings.targets)]


def table(weights: Mapping[str, Spec], settings: LoraSettings) -> dict[str, Spec]:
    """Shapes and axes of an adapter's factors: A has the axis of what goes in, B of what comes out."""
    made = {}
    for name in targets(weights, settings):
        (layers, outputs, inputs), axes = weights[f"{name}.weight"].shape, weights[f"{name}.weight"].axes
        made[name + DOWN] = Spec((layers, settings.rank, inputs), (axes[0], "rank", axes[2]))
        made[name + UP] = Spec((layers, outputs, settings.rank), (axes[0], axes[1], "rank"))
    return made


def init(key: jax.Array, weights: Mapping[str, Spec], settings: LoraSettings) -> dict[str, jax.Array]:
    """A new adapter, as PEFT draws it: A uniform within 1 / sqrt(inputs), B zero; float32.

    Args:
        key: of the random numbers.
        weights: the model's table.
        settings: what is adapted.

    Under ``jax.jit`` with ``out_shardings`` each factor is made in its shards.
    """
    made = {}
    for number, (name, spec) in enumerate(table(weights, settings).items()):
        if name.endswith(UP):
            made[name] = jnp.zeros(spec.shape, jnp.float32)
        else:
            # kaiming_uniform(a=sqrt(5)): other libraries' he_uniform is sqrt(6) times as wide.
            bound = 1 / math.sqrt(spec.shape[2])
            made[name] = jax.random.uniform(
                jax.random.fold_in(key, number), spec.shape, jnp.float32, minval=-bound, maxval=bound
            )
    return made


def attach(
    layer: Any, factors: Mapping[str, jax.Array], settings: LoraSettings, key: jax.Array | None
) -> jax.Array | None:
    """Set one layer's factors on its linear modules, within the trace that has merged it.

    Args:
        layer: the module.
        factors: A and B by name within the layer, without the axis of layers.
        settings: how they are scaled.
        key: of this layer's dropout.

    Returns:
        The key for the layer's own dropout.
    """
    names = [name.removesuffix(DOWN) for name in factors if name.endswith(DOWN)]
    own, drawn = key, [None] * len(names)
    if key is not None and settings.dropout:
        own, *drawn = jax.random.split(key, len(names) + 1)
    for name, each in zip(names, drawn, strict=True):
        module = layer
        for part in name.split("."):
            module = getattr(module, part)
        module.adapter = LowRank(factors[name + DOWN], factors[name + UP], settings.scale, settings.dropout, each)
    return own


def merge(
    params: Mapping[str, jax.Array], adapter: Mapping[str, jax.Array], settings: LoraSettings
) -> dict[str, jax.Array]:
    """Parameters with an adapter in them: ``W + scale B A`` in float32; of what is not adapted, the arrays given."""
    merged = dict(params)
    for name in (name.removesuffix(DOWN) for name in adapter if name.endswith(DOWN)):
        merged[f"{name}.weight"] = _merged(
            params[f"{name}.weight"], adapter[name + DOWN], adapter[name + UP], settings.scale
        )
    return merged


def merge_tensor(
    name: str, layer: int | None, weight: jax.Array, adapter: Mapping[str, jax.Array], settings: LoraSettings
) -> jax.Array:
    """One layer's tensor with its adapter in it, float32: what a model is saved with, without a second copy of it all.

    Args:
        name: in the model's table.
        layer: which of the stack; None for what is not stacked.
        weight: the tensor, without the axis of layers.
        adapter: the factors, layers stacked.
        settings: how they are scaled.
    """
    inner = name.removesuffix(".weight")
    if layer is None or inner + DOWN not in adapter:
        return weight
    return _merged(weight, adapter[inner + DOWN][layer], adapter[inner + UP][layer], settings.scale)


@functools.partial(jax.jit, static_argnames="scale")
def _merged(weight: jax.Array, down: jax.Array, up: jax.Array, scale: float) -> jax.Array:
    product = jnp.einsum("...or,...ri->...oi", up, down, precision="highest")
    return weight.astype(jnp.float32) + scale * product.astype(jnp.float32)
