"""BERT (Devlin et al., arXiv 1810.04805), RoBERTa (1907.11692) and XLM-R (1911.02116): post-norm encoders.

Legend: B texts, T tokens, H hidden size, N heads. Attributes bear the names of Hugging Face's checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

import jax
from teva_data.errors import ArtifactError
from teva_jax.attention import attend
from teva_jax.dropout import dropout

from .base import Architecture, Scene
from .layers import Embedding, LayerNorm, Linear, activation

TYPES = ("bert", "roberta", "xlm-roberta", "camembert")


def architecture(config: Mapping[str, Any]) -> Architecture:
    """The parts of an encoder."""
    if config.get("position_embedding_type", "absolute") not in ("absolute", None):
        raise ArtifactError(
            f"config.json: position_embedding_type: found {config['position_embedding_type']!r}; expected 'absolute'"
        )
    if config.get("is_decoder"):
        raise ArtifactError("config.json: is_decoder: found true; expected an encoder")
    return Architecture(
        root=Encoder(config),
        layer=Layer(config),
        stack="encoder.layer",
        depth=config["num_hidden_layers"],
        positions=config["max_position_embeddings"] - _first(config),
    )


def _first(config: Mapping[str, Any]) -> int:
    """The position of the first token: RoBERTa's begin behind the padding's."""
    return 0 if config["model_type"] == "bert" else int(config["pad_token_id"]) + 1


class Encoder(nnx.Module):
    """What stands before the layers."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.embeddings = Embeddings(config)

    def begin(self, ids: jax.Array, scene: Scene, key: jax.Array | None) -> jax.Array:
        """[B, T] to [B, T, H]."""
        return self.embeddings(ids, scene, key)

    def end(self, x: jax.Array) -> jax.Array:
        """Behind the last layer: nothing, as each layer ends with its norm."""
        return x


class Embeddings(nnx.Module):
    """Words, positions, and the first segment."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        width = config["hidden_size"]
        self.word_embeddings = Embedding(config["vocab_size"], width, ("vocab", "embed"))
        self.position_embeddings = Embedding(config["max_position_embeddings"], width, ("positions", "embed"))
        self.token_type_embeddings = Embedding(config["type_vocab_size"], width, ("positions", "embed"))
        self.LayerNorm = LayerNorm(width, config["layer_norm_eps"])
        self.rate = config["hidden_dropout_prob"]
        self.padding = config["pad_token_id"] if _first(config) else None

    def __call__(self, ids: jax.Array, scene: Scene, key: jax.Array | None) -> jax.Array:
        """[B, T] to [B, T, H]."""
        if self.padding is None:
            places = jnp.arange(ids.shape[1])[None]
        else:
            # As fairseq counts: a padding token inside a text has the padding's place, and those behind it one less.
            real = (ids != self.padding).astype(jnp.int32)
            places = jnp.cumsum(real, axis=1) * real + self.padding
        x = self.word_embeddings(ids, scene.dtype, scene.mesh) + self.token_type_embeddings(
            jnp.zeros((1, 1), int), scene.dtype
        )
        x = self.LayerNorm(x + self.position_embeddings(places, scene.dtype, scene.mesh))
        return dropout(x, self.rate, key)


class Layer(nnx.Module):
    """Attention and a feed-forward network, each with its norm behind the sum."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.attention = Attention(config)
        self.intermediate = Dense(width, inner, ("mlp", "embed"))
        self.output = Output(inner, config, ("embed", "mlp"))
        self.act = activation(config["hidden_act"])

    def __call__(self, x: jax.Array, scene: Scene, key: jax.Array | None, wide: None) -> jax.Array:
        """[B, T, H] to the same."""
        del wide
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        x = self.attention(x, scene, keys[0], keys[1])
        inner = scene.constrain(self.act(self.intermediate.dense(x)), ("batch", "length", "mlp"))
        return self.output(inner, x, keys[2])


class Dense(nnx.Module):
    """A linear layer called ``dense``."""

    def __init__(self, inputs: int, outputs: int, axes: tuple[str, str]) -> None:
        self.dense = Linear(inputs, outputs, axes, bias=True)


class Output(Dense):
    """A linear layer, dropout, and the norm of the sum."""

    def __init__(self, inputs: int, config: Mapping[str, Any], axes: tuple[str, str]) -> None:
        super().__init__(inputs, config["hidden_size"], axes)
        self.LayerNorm = LayerNorm(config["hidden_size"], config["layer_norm_eps"])
        self.rate = config["hidden_dropout_prob"]

    def __call__(self, x: jax.Array, residual: jax.Array, key: jax.Array | None) -> jax.Array:
        """[B, T, I] and the residual [B, T, H] to [B, T, H]."""
        return self.LayerNorm(dropout(self.dense(x), self.rate, key) + residual)


class Attention(nnx.Module):
    """Attention of all tokens to all."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.self = Projections(config["hidden_size"])
        self.output = Output(config["hidden_size"], config, ("embed", "heads"))
        self.heads, self.rate = config["num_attention_heads"], config["attention_probs_dropout_prob"]

    def __call__(self, x: jax.Array, scene: Scene, weights: jax.Array | None, key: jax.Array | None) -> jax.Array:
        """[B, T, H] to the same; keys for the dropout of attention's weights and of what comes out."""
        batch, length, width = x.shape
        size = width // self.heads
        q, k, v = (
            scene.constrain(each(x).reshape(batch, length, self.heads, size), ("batch", "length", "heads", None))
            for each in (self.self.query, self.self.key, self.self.value)
        )
        mixed = attend(q, k, v, scene.lengths, scale=size**-0.5, dropout=self.rate, key=weights, mesh=scene.mesh)
        return self.output(mixed.reshape(batch, length, width), x, key)


class Projections(nnx.Module):
    """Query, key and value."""

    def __init__(self, width: int) -> None:
        self.query = Linear(width, width, ("heads", "embed"), bias=True)
        self.key = Linear(width, width, ("heads", "embed"), bias=True)
        self.value = Linear(width, width, ("heads", "embed"), bias=True)
