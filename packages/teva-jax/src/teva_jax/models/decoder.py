"""One decoder for Llama, Mistral, Qwen2, Qwen3, Gemma 2 and Gemma 3.

arXiv 2407.21783, 2310.06825, 2407.10671, 2505.09388, 2408.00118 and 2503.19786.
What sets them apart is a handful of switches, read from config.json. Legend: B texts, T tokens, H hidden size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

import jax
from teva_data.errors import ArtifactError
from teva_jax.attention import Window, attend

from .base import Architecture, Scene
from .layers import Embedding, Linear, RMSNorm, activation
from .rope import frequencies, rotate, tables

TYPES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text")
_KINDS = ("full_attention", "sliding_attention")


@dataclasses.dataclass(frozen=True)
class Switches:
    """What sets one family apart from another.

    Attributes:
        qkv_bias: of the projections to query, key and value.
        out_bias: of the projection behind attention.
        mlp_bias: of the feed-forward network.
        qk_norm: each head of query and key is normalised before it is turned.
        sandwich: norms behind attention and feed-forward too (Gemma).
        offset: what is added to a norm's weight (Gemma: 1).
        embed_scale: of the words' vectors (Gemma: the root of the width).
        scale: of attention's scores.
        softcap: of attention's scores (Gemma 2).
        kinds: of each layer's attention.
        window: how far a token sees in a sliding layer.
    """

    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    sandwich: bool
    offset: float
    embed_scale: float | None
    scale: float
    softcap: float | None
    kinds: tuple[str, ...]
    window: Window

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Switches:
        """From config.json.

        Raises:
            ArtifactError: layers of a kind that is not known here.
        """
        kind = config["model_type"]
        gemma, bias = kind.startswith("gemma"), bool(config.get("attention_bias", False))
        sliding = config.get("sliding_window")
        kinds = config.get("layer_types")
        if kinds is None or kind == "mistral":
            kinds = [_KINDS[kind == "mistral" and sliding is not None]] * config["num_hidden_layers"]
        if unknown := sorted({*kinds} - {*_KINDS}):
            raise ArtifactError(f"config.json: layer_types: found {unknown}; expected {' or '.join(_KINDS)}")
        size = head_size(config)
        return cls(
            qkv_bias=bias or kind == "qwen2", out_bias=bias, mlp_bias=bool(config.get("mlp_bias", False)),
            qk_norm=kind in ("qwen3", "gemma3_text"), sandwich=gemma, offset=float(gemma),
            embed_scale=config["hidden_size"] ** 0.5 if gemma else None,
            scale=(config["query_pre_attn_scalar"] if gemma else size) ** -0.5,
            softcap=config.get("attn_logit_softcapping"), kinds=tuple(kinds), window=_window(config, sliding),
        )  # fmt: skip


def _window(config: Mapping[str, Any], sliding: int | None) -> Window:
    """How far a token sees in a sliding layer, as transformers counts, which is differently for each direction."""
    if config["model_type"] == "gemma3_text" and config.get("use_bidirectional_attention"):
        half = None if sliding is None else sliding // 2
        return half, half
    if not is_causal(config):
        return sliding, sliding
    return None if sliding is None else sliding - 1, 0


def is_causal(config: Mapping[str, Any]) -> bool:
    """Whether a token sees only what stands before it."""
    if config["model_type"] == "gemma3_text" and config.get("use_bidirectional_attention"):
        return False
    return config.get("is_causal", True) is not False


def head_size(config: Mapping[str, Any]) -> int:
    """Components of one head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def architecture(config: Mapping[str, Any]) -> Architecture:
    """The parts of a decoder."""
    switches = Switches.read(config)
    wide = np.array([kind == "full_attention" for kind in switches.kinds])
    return Architecture(
        root=Decoder(config, switches), layer=Layer(config, switches), stack="layers",
        depth=config["num_hidden_layers"], positions=config["max_position_embeddings"], wide=wide,
    )  # fmt: skip


class Decoder(nnx.Module):
    """What stands before and behind the layers."""

    def __init__(self, config: Mapping[str, Any], switches: Switches) -> None:
        self.embed_tokens = Embedding(config["vocab_size"], config["hidden_size"], ("vocab", "embed"))
        self.norm = RMSNorm(config["hidden_size"], config["rms_norm_eps"], offset=switches.offset)
        self.scale = switches.embed_scale
        rope = config["rope_parameters"]
        # Gemma 3 has an entry for each kind of layer; the others have one.
        by_kind = {kind: rope[kind] for kind in _KINDS} if "full_attention" in rope else dict.fromkeys(_KINDS, rope)
        self.rope = nnx.static(tuple(tuple(sorted(by_kind[kind].items())) for kind in _KINDS))
        self.size = head_size(config)
        for each in by_kind.values():
            frequencies(each, self.size)  # what cannot be computed is refused before weights are read

    def begin(self, ids: jax.Array, scene: Scene, key: jax.Array | None) -> jax.Array:
        """[B, T] to [B, T, H]."""
        del key
        x = self.embed_tokens(ids, scene.dtype, scene.mesh)
        scene.rope = tuple(tables(dict(each), self.size, ids.shape[1]) for each in self.rope)
        return x if self.scale is None else x * jnp.asarray(self.scale, x.dtype)

    def end(self, x: jax.Array) -> jax.Array:
        """Behind the last layer."""
        return self.norm(x)


class Layer(nnx.Module):
    """Attention and a gated feed-forward network, each with its norm before it."""

    def __init__(self, config: Mapping[str, Any], switches: Switches) -> None:
        def norm() -> RMSNorm:
            return RMSNorm(config["hidden_size"], config["rms_norm_eps"], offset=switches.offset)

        self.self_attn = Attention(config, switches)
        self.mlp = FeedForward(config, switches)
        self.input_layernorm, self.post_attention_layernorm = norm(), norm()
        self.sandwich = switches.sandwich
        if self.sandwich:
            self.pre_feedforward_layernorm, self.post_feedforward_layernorm = norm(), norm()

    def __call__(self, x: jax.Array, scene: Scene, key: jax.Array | None, wide: jax.Array | bool) -> jax.Array:
        """[B, T, H] to the same."""
        mixed = self.self_attn(self.input_layernorm(x), scene, key, wide)
        if not self.sandwich:
            x = x + mixed
            return x + self.mlp(self.post_attention_layernorm(x), scene)
        x = x + self.post_attention_layernorm(mixed)
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x), scene))


class FeedForward(nnx.Module):
    """``down(act(gate(x)) up(x))``."""

    def __init__(self, config: Mapping[str, Any], switches: Switches) -> None:
        width, inner, bias = config["hidden_size"], config["intermediate_size"], switches.mlp_bias
        self.gate_proj = Linear(width, inner, ("mlp", "embed"), bias=bias)
        self.up_proj = Linear(width, inner, ("mlp", "embed"), bias=bias)
        self.down_proj = Linear(inner, width, ("embed", "mlp"), bias=bias)
        self.act = activation(config.get("hidden_activation") or config["hidden_act"])

    def __call__(self, x: jax.Array, scene: Scene) -> jax.Array:
        """[B, T, H] to the same."""
        inner = self.act(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(scene.constrain(inner, ("batch", "length", "mlp")))


class Attention(nnx.Module):
    """Attention with grouped heads and turned queries and keys."""

    def __init__(self, config: Mapping[str, Any], switches: Switches) -> None:
        self.size = head_size(config)
        width = config["hidden_size"]
        self.heads = config["num_attention_heads"]
        self.groups = config.get("num_key_value_heads") or self.heads
        bias = switches.qkv_bias
        self.q_proj = Linear(width, self.heads * self.size, ("heads", "embed"), bias=bias)
        self.k_proj = Linear(width, self.groups * self.size, ("heads", "embed"), bias=bias)
        self.v_proj = Linear(width, self.groups * self.size, ("heads", "embed"), bias=bias)
        self.o_proj = Linear(self.heads * self.size, width, ("embed", "heads"), bias=switches.out_bias)
        self.qk_norm = switches.qk_norm
        if self.qk_norm:
            self.q_norm = RMSNorm(self.size, config["rms_norm_eps"], offset=switches.offset)
            self.k_norm = RMSNorm(self.size, config["rms_norm_eps"], offset=switches.offset)
        self.window = switches.window
        self.scale, self.softcap = switches.scale, switches.softcap
        self.rate = config.get("attention_dropout") or 0.0

    def __call__(self, x: jax.Array, scene: Scene, key: jax.Array | None, wide: jax.Array | bool) -> jax.Array:
        """[B, T, H] to the same; ``wide`` opens the window, and chooses the turns of full layers."""
        batch, length, _ = x.shape

        def heads(projected: jax.Array, count: int) -> jax.Array:
            split = projected.reshape(batch, length, count, self.size)
            return scene.constrain(split, ("batch", "length", "heads", None))

        q, k = heads(self.q_proj(x), self.heads), heads(self.k_proj(x), self.groups)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        far, near = scene.rope
        if isinstance(wide, bool):
            cosine, sine = far if wide else near
        else:
            cosine, sine = (jnp.where(wide, *each) for each in zip(far, near, strict=True))
        mixed = attend(
            rotate(q, cosine, sine), rotate(k, cosine, sine), heads(self.v_proj(x), self.groups), scene.lengths,
            scale=self.scale, window=self.window, wide=wide, softcap=self.softcap, dropout=self.rate, key=key,
            mesh=scene.mesh,
        )  # fmt: skip
        return self.o_proj(mixed.reshape(batch, length, self.heads * self.size))
