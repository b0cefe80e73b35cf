"""Attention of short texts in bfloat16 on a CPU, as products of matrices.

torch's fused attention saves memory in the length of a text. On CPUs its way back in bfloat16 costs several times what
the same products cost by themselves while texts are short (`python -m benchmarks.short_attention`), and the weights it
does not keep are small then: T of them for each token and head.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

NAME = "teva_short"
LONGEST = 128  # tokens; from about 200 on the fused kernel is as fast, and its memory grows less

logger = logging.getLogger(__name__)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention as transformers calls it: by products for short texts that are trained on, by its ``sdpa`` otherwise.

    Args:
        module: the layer's attention.
        query: [B, heads, T, width]; ``key`` and ``value`` may have fewer heads.
        key: see ``query``.
        value: see ``query``.
        attention_mask: bool [B, 1, T, T], True for what is seen; None for all, or for what stands before.
        dropout: of the weights.
        scaling: of the scores; 1 over the root of the width where not given.
        is_causal: whether, without a mask, a token sees only what stands before it; as the module says if not given.
        rest: for ``sdpa``.

    Returns:
        [B, T, heads, width], and no weights.
    """
    if not module.training or query.shape[2] > LONGEST or key.shape[2] != query.shape[2]:
        from transformers import AttentionInterface

        fused: tuple[Tensor, Tensor | None] = AttentionInterface()["sdpa"](
            module, query, key, value, attention_mask,
            dropout=dropout, scaling=scaling, is_causal=is_causal, **rest,
        )  # fmt: skip
        return fused
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    scores = (query @ key.transpose(-1, -2)) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    causal = module.is_causal if is_causal is None else is_causal
    if attention_mask is None and causal:
        length = query.shape[2]
        attention_mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    # In float32: bfloat16 would keep two digits of a weight.
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    weights = nn.functional.dropout(weights, dropout)
    return (weights @ value).transpose(1, 2), None


def pays(backbone: Any, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a backbone that transformers would run with ``sdpa`` is trained faster with this attention here."""
    return (
        device.type == "cpu"
        and dtype == torch.bfloat16
        and backbone.config._attn_implementation == "sdpa"
        and getattr(backbone.config, "attn_logit_softcapping", None) is None
        and bool(getattr(backbone, "_supports_attention_backend", False))
    )


def register() -> str:
    """Enter the attention function and its masks in transformers' registries; returns its name."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attention)
    # Its masks are those of sdpa: bool, and none where all is seen.
    AttentionMaskInterface.register(NAME, AttentionMaskInterface()["sdpa"])
    return NAME
